"""Merges and deletions of a mixture's components."""

from typing import ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from .._arguments import check_count, kind_of
from .._elbo import elbo
from .._free import spread
from .._model import AbstractModel
from .._pass import expected_statistics
from .._state import ELBOState, Info
from .._types import Array, Float, Key, PyTree, Scalar
from ..data._batch import over_rows, reduce_data, where_seen
from ..e_steps._bayes import AbstractBayesStep
from ..families import Categorical
from ..posteriors import Exact, Reassigned
from ..posteriors._posterior import bind
from ._closed_form import statistics_of


class MergeStep(AbstractBayesStep):
    r"""Tries to merge two components, or to delete one, and keeps what raises the ELBO.

    EM and variational Bayes stop at optima with components that share a cluster, because each sweep moves rows a
    little only. Each step here makes one proposal: the rows of one component are given to another, or to all
    others. Sweeps follow, from the proposal and from the state itself, and the end of higher ELBO is kept.
    Proposals come in the order of the correlation of responsibilities (Ueda et al. 2000), the deletions last, from
    the smallest component. After a success the order starts anew. A component without rows takes the params of its
    prior. Under maximum likelihood a merge hardly ever raises the bound; under `Bayesian` it does where the data
    need fewer components (Hughes and Sudderth 2013).

    It ascends, and moves the posterior to the params as `ExactEStep` does. A step costs two passes for each sweep
    and four more, so use it now and then: `Chain(em(model), Every(MergeStep(model), 5))`.

    **Arguments:**

    - `model`: a mixture, usually a `Bayesian` one: a model with a `Categorical` latent and a closed form.
    - `num_sweeps`: the number of sweeps of EM before the two are compared.
    - `num_proposals`: how many proposals there are in a round; by default 2 K.
    - `chunk_size`: about how many rows to process at a time.

    **Raises** `TypeError` at `init` for a model with another latent or without a closed form.

    ```python
    >>> import elbax, jax
    >>> x = elbax.datasets.old_faithful()
    >>> prior = elbax.priors.NormalInverseWishart.from_data(x, num_components=8)
    >>> mixture = elbax.GaussianMixture(8, prior=prior, weights_prior=elbax.priors.Dirichlet(0.1))
    >>> model = elbax.Bayesian(mixture)
    >>> merge = elbax.wrappers.Every(elbax.MergeStep(model), 5)
    >>> update = elbax.Chain(elbax.ExactEStep(model), elbax.ClosedFormMStep(model), merge)
    >>> update.ascends
    True

    ```
    """

    model: AbstractModel
    num_sweeps: int = eqx.field(static=True, default=10)
    num_proposals: int | None = eqx.field(static=True, default=None)
    chunk_size: int | None = eqx.field(static=True, default=None)

    kind: ClassVar[type] = Exact
    form: ClassVar[str] = "elbax.Exact(model, params)"

    def __check_init__(self):
        check_count("MergeStep", num_sweeps=self.num_sweeps)
        if self.num_proposals is not None:
            check_count("MergeStep", num_proposals=self.num_proposals)

    @property
    def num_components(self) -> int:
        """K. **Raises** `TypeError` for a model with another latent than a component's number."""
        latent = self.model.latent
        if not isinstance(latent, Categorical):
            raise TypeError(
                f"MergeStep: {type(self.model).__name__} has no components to merge: its latent is "
                f"{kind_of(latent)}. Use a Mixture, or Bayesian(mixture)."
            )
        return latent.num_values

    @property
    def length(self) -> int:
        """The number of proposals in a round."""
        number = self.num_components
        all_of_them = number * (number + 1) // 2
        wanted = 2 * number if self.num_proposals is None else self.num_proposals
        return min(wanted, all_of_them)

    @property
    def patience(self) -> int:
        # The last proposal of a round may be the one that gains.
        return self.length

    @property
    def fixed_point(self) -> bool:
        return False

    def natural_posterior(self, params: PyTree) -> Exact:
        return Exact(self.model, params)

    def init_memory(self, params: PyTree, posterior: PyTree) -> Array:
        AbstractBayesStep.init_memory(self, params, posterior)
        _ = self.num_components
        statistics_of(self.model, params, True)
        return jnp.zeros((), int)

    def __call__(self, state: ELBOState, batch: PyTree) -> tuple[ELBOState, Info]:
        key, now = jax.random.split(state.key)
        model, params = self.model, state.params
        source, target = self._proposal(params, batch, now, state.memory)
        merged = self._sweep(params, Reassigned(Exact(model, params), source, target), batch, now)

        def sweep(at, _):
            return self._sweep(at, Exact(model, at), batch, now), None

        # From both, since a proposal that changes nothing would otherwise gain by its sweeps.
        ends = [jax.lax.scan(sweep, start, length=self.num_sweeps)[0] for start in (params, merged)]
        before, after = (self._bound(end, batch, now) for end in ends)
        better = after - before > 4 * jnp.finfo(after.dtype).eps * (1 + jnp.abs(before))
        kept = jax.tree.map(lambda old, new: jnp.where(better, new, old), *ends)
        memory = jnp.where(better, 0, (state.memory + 1) % self.length)
        kept, memory = where_seen(batch, (kept, memory), (params, state.memory))
        posterior = bind(state.posterior, model, kept)
        found = state.replace(params=kept, posterior=posterior, memory=memory, key=key)
        return found, Info(jnp.where(better, after, before))

    def _sweep(self, params: PyTree, posterior: PyTree, batch: PyTree, key: Key) -> PyTree:
        _, statistics, _ = expected_statistics(
            self.model, params, posterior, batch, key=key, chunk_size=self.chunk_size
        )
        return self.model.maximize(statistics, params, spread(True, params))

    def _bound(self, params: PyTree, batch: PyTree, key: Key) -> Scalar:
        posterior = Exact(self.model, params)
        return elbo(self.model, params, posterior, batch, key=key, chunk_size=self.chunk_size)

    def _proposal(
        self, params: PyTree, batch: PyTree, key: Key, place: Array
    ) -> tuple[Array, Array]:
        """Returns (source, target) of the proposal at this place in the order; equal for a deletion."""
        number = self.num_components
        products = self._products(params, batch, key)
        size = jnp.sqrt(jnp.diagonal(products))
        some = ~self.model.emptied(params) & (size > 0)
        scale = jnp.where(some, size, 1)
        correlation = products / jnp.outer(scale, scale)
        sources, targets = np.triu_indices(number)
        single = sources == targets
        # Merges before deletions, smallest first; components without rows have nothing to give.
        score = jnp.where(
            single, -size[sources] / (1 + jnp.sum(size)), correlation[sources, targets]
        )
        score = jnp.where(some[sources] & some[targets], score, -jnp.inf)
        chosen = jnp.argsort(-score)[place]
        return jnp.asarray(sources)[chosen], jnp.asarray(targets)[chosen]

    def _products(self, params: PyTree, batch: PyTree, key: Key) -> Float[Array, "K K"]:
        """Returns Σ w r rᵀ of the responsibilities r; rows in no component have none."""
        posterior = Exact(self.model, params)

        def total(x, weight, places):
            shares = over_rows(lambda x: posterior(x).mean(), x).reshape(-1, self.num_components)
            weighted = weight.reshape(-1, 1).astype(shares.dtype) * shares
            return jnp.matmul(weighted.T, shares, precision=jax.lax.Precision.HIGHEST)

        return reduce_data(total, batch, key, self.chunk_size)[0]
