"""Variational Bayes, as a model whose params are those of a belief."""

from collections.abc import Sequence

import equinox as eqx
import jax
import jax.numpy as jnp

from .._arguments import check_count, check_key, check_tree
from .._around import AbstractAround
from .._door import check_model
from .._invariance import Invariances
from .._model import AbstractModel
from .._program import compiled
from .._shortcut import Shortcut
from .._types import Any, Array, Key, PyTree, Scalar
from ..data._batch import as_batch, effective_weight
from ..data._check import check_no_nan
from ._belief import AbstractBelief, belief as belief_of
from ._drawn import Drawn
from ._gaussian import gaussian, GaussianBelief
from ._learned import LearnedBelief


class Bayesian(AbstractAround):
    r"""Variational Bayes: `model` with a distribution q(θ) over its params, of the kind of their priors.

    $$\log p(x) \ge \sum_i \left( E_{q(z_i) q(\theta)}[\log p(x_i, z_i \mid \theta)] + H(q(z_i)) \right) -
    \mathrm{KL}(q(\theta) \,\|\, p(\theta))$$

    Its params are those of q(θ): in each block the model's own params at a mean of q, and how many data they are
    worth. $E_q[\eta(\theta)]$ takes the place of η(θ), prior + statistics that of the maximum, and −KL that of the
    log-prior. So each update of the library has its counterpart for q(θ): `em(Bayesian(model))` is variational
    Bayesian EM (Attias 2000), an `OnlineMStep` is stochastic variational inference with natural gradients (Hoffman
    et al. 2013), an `IncrementalMStep` is memoized variational Bayes (Hughes and Sudderth 2013). Gradient, Newton
    and L-BFGS steps ascend the same bound.

    The ELBO has every constant, so the bounds of models with different numbers of components are comparable:
    `diagnostics.select(by="elbo")`. There is no `evidence` at q: log p(x) is what the ELBO bounds.

    **Arguments:**

    - `model`: a model with a proper conjugate prior on all params: mixtures and hidden Markov models of `Normal`,
        `StudentT`, `Bernoulli`, `Categorical`, `Multinomial`, `Poisson`, `LinearRegression`, `FactorAnalyzer`,
        `Conjugate` and products of these, factor analysis, linear-Gaussian state spaces, topic models, logistic
        and probit regression, grammars, Bayesian networks. Floors of variances are dropped, as the prior does
        their work. With a belief of your own: any model.
    - `belief`: a `beliefs.GaussianBelief`, for a Gaussian q(θ) by draws in place of one of the priors' kind.
    - `learned`: the blocks whose prior is learned too (empirical Bayes, or type-II maximum likelihood), by the
        names of `elbo_terms`: the concentration of a `Dirichlet` or a `StickBreaking`, a and b of a `Beta`, shape
        and rate of a `Gamma`, the deviation of a `Normal`. The params are then `{"belief": q, "log_priors": ...}`.

    **Raises** `TypeError` for a model without such a prior, `ValueError` for an improper one.

    ```python
    >>> import elbax, jax
    >>> x = elbax.datasets.old_faithful()
    >>> prior = elbax.priors.NormalInverseWishart.from_data(x, num_components=6)
    >>> model = elbax.GaussianMixture(6, prior=prior, weights_prior=elbax.priors.Dirichlet(0.01))
    >>> bayesian = elbax.Bayesian(model)
    >>> result = elbax.fit(elbax.em(bayesian), x, key=jax.random.key(0), tolerance=1e-6)
    >>> int((~bayesian.emptied(result.params)).sum())  # of the six, so many have data
    3

    ```
    """

    model: AbstractModel
    learned: tuple[str, ...] = eqx.field(static=True)

    def __init__(
        self,
        model: AbstractModel,
        belief: GaussianBelief | None = None,
        *,
        learned: str | Sequence[str] = (),
    ):
        check_model(model, "Bayesian")
        if isinstance(model, Bayesian):
            raise TypeError(
                "Bayesian: the model is a Bayesian already. Pass the model inside of it."
            )
        self.model = model if belief is None else gaussian(model, belief)
        self.learned = (learned,) if isinstance(learned, str) else tuple(learned)
        _ = self.belief

    @property
    def belief(self) -> AbstractBelief:
        """The kind of q(θ), made from the model."""
        found = belief_of(self.model)
        return LearnedBelief(found, self.learned) if self.learned else found

    def inside(self, params: PyTree) -> PyTree:
        """Returns the model's params at a mean of q."""
        return self.belief.point(params)

    def outside(self, params: PyTree, num_data: Any) -> PyTree:
        """Returns q about the model's params, worth the prior and `num_data` data."""
        dtype = jnp.result_type(*jax.tree.leaves(eqx.filter(params, eqx.is_inexact_array)))
        return self.belief.start(params, jnp.asarray(num_data, dtype))

    def start(self, params: PyTree, batch: PyTree) -> PyTree:
        """Returns q about the model's params, as if they were estimated from this batch."""
        model: Any = self.model
        steps = hasattr(model, "start_rows")
        weight = model.start_rows(batch)[1] if steps else effective_weight(as_batch(batch))
        return self.outside(params, jnp.sum(weight))

    def init(self, key: Key, x: PyTree, **options: Any) -> PyTree:
        """Returns q about the params with which the model starts; `options` are those of its `init`."""
        start: Any = self.model
        return self.start(start.init(key, x, **options), x)

    def natural(self, params: PyTree) -> PyTree:
        """Returns E_q[η(θ)]."""
        return self.belief.natural(params)

    def rebase(self, natural: PyTree, params: PyTree) -> PyTree:
        return self.belief.rebase(self.model, natural, params)

    def log_joint(self, params: PyTree, x: PyTree, z: PyTree) -> Scalar:
        """Returns E_q[log p(x, z | θ)] of one datum, in nats."""
        return self.log_joint_at(self.prepare(self.natural(params)), x, z)

    def maximize(self, statistics: PyTree, params: PyTree, free: PyTree) -> PyTree:
        """Returns the best q(θ): its counts are the prior's plus the expected statistics."""
        return self.belief.posterior(statistics, params, free)

    def statistics_at(self, params: PyTree) -> PyTree:
        return self.belief.statistics_at(params)

    @property
    def knows_statistics(self) -> bool:
        return self.belief.knows_statistics

    def log_prior(self, params: PyTree) -> Scalar:
        """Returns −KL(q(θ) ‖ p(θ)), in nats."""
        return self.belief.global_term(params, jax.random.key(0))

    def global_term(self, params: PyTree, key: Key) -> Scalar:
        """Returns `log_prior`; of a `GaussianBelief` with a prior that is a function, by draws with this key."""
        return self.belief.global_term(params, key)

    def global_terms(self, params: PyTree) -> dict[str, Scalar]:
        return {name: -value for name, value in self.belief.divergence(params).items()}

    @property
    def has_evidence(self) -> bool:
        return False

    @property
    def knows_prior(self) -> bool:
        # exp E[log p(z | θ)] does not add up to 1.
        return False

    @property
    def splits(self) -> bool:
        return False

    @property
    def shapes(self) -> PyTree:
        found = self.model.shapes
        return None if found is None else self.belief.shapes(found)

    def check_params(self, params: PyTree, who: str = "check_params") -> None:
        """Raises `ValueError` or `TypeError` for params that are not those of q(θ)."""
        self._check_shapes(params, who)
        check_no_nan(params, who)

    def _check_shapes(self, params: PyTree, who: str) -> None:
        advice = "Make q with init(key, x) of this Bayesian, or from its model's params with start(params, batch)."
        check_tree(params, self.shapes, who, advice)

    def shortcut(self, params: PyTree, x: PyTree) -> Shortcut | None:
        found = self.model.shortcut(self.inside(params), x)
        if found is None:
            return None
        return found.around(lambda form: eqx.tree_at(lambda outer: outer.model, self, form))

    def invariances(self, params: PyTree) -> Invariances | None:
        return None

    def collapsed(self, params: PyTree) -> Array:
        """Returns `False`: under a proper prior the bound has no infinite optimum."""
        return jnp.zeros((), bool)

    def emptied(self, params: PyTree) -> Array:
        """Returns which components of a mixture hold less than one datum: they are the prior.

        `False` for a model that is not a mixture.
        """
        found = self.belief.emptied(params)
        return jnp.zeros((), bool) if found is None else found

    def describe(
        self,
        params: PyTree,
        level: float | None = None,
        *,
        key: Key | None = None,
        num_samples: int = 1000,
    ) -> Any:
        """Returns the model's description at a mean of q and, with a `level`, intervals of its numbers under q.

        **Arguments:**

        - `level`: the probability of the intervals, such as 0.9; without it there are none.
        - `key`, `num_samples`: for the draws of θ whose quantiles are the intervals; by default
            `jax.random.key(0)`, which always gives the same ones.

        **Returns** the model's description; with a level a dictionary `{"mean", "deviation", "lower", "upper"}` of
        descriptions: of the mean of q, and of the draws' deviations and quantiles.

        **Raises** `ValueError` unless 0 < level < 1.
        """
        self._check_shapes(params, "describe")
        found = self.model.describe(self.inside(params))
        if level is None:
            return found
        if not 0 < level < 1:
            raise ValueError(f"describe: level must be a probability in (0, 1), got {level!r}.")
        check_count("describe", num_samples=num_samples)
        if key is not None:
            check_key(key, "describe")
        keys = jax.random.split(jax.random.key(0) if key is None else key, num_samples)
        deviation, lower, upper = _spread(self, params, keys, level)
        return {"mean": found, "deviation": deviation, "lower": lower, "upper": upper}

    def sample_params(self, params: PyTree, key: Key) -> PyTree:
        """Returns params of the model drawn from q(θ)."""
        check_key(key, "sample_params")
        self._check_shapes(params, "sample_params")
        return self.belief.sample(params, key)

    def predictive(
        self, params: PyTree, *, key: Key | None = None, num_samples: int = 100
    ) -> tuple[AbstractModel, PyTree]:
        """Returns the model of one new datum, with θ integrated out under q, and its params.

        Of normals it is a mixture of Student t's with ν − D + 1 degrees of freedom (Bishop 2006, section 10.2.3).
        With a key it is `beliefs.Drawn`, the average over draws of θ, for any model.

        **Raises** `TypeError` without a key where the library has no such density.

        ```python
        >>> import elbax, jax
        >>> x = elbax.datasets.old_faithful()
        >>> prior = elbax.priors.NormalInverseWishart.from_data(x, num_components=2)
        >>> mixture = elbax.GaussianMixture(2, prior=prior, weights_prior=elbax.priors.Dirichlet(1.0))
        >>> bayesian = elbax.Bayesian(mixture)
        >>> result = elbax.fit(elbax.em(bayesian), x, key=jax.random.key(0))
        >>> model, params = bayesian.predictive(result.params)
        >>> print(f"{elbax.evidence(model, params, x):.2f}")
        -4.16

        ```
        """
        self._check_shapes(params, "predictive")
        if key is None:
            return self.belief.predictive(params)
        check_key(key, "predictive")
        model = Drawn(self.model, num_samples)
        return model, _draws(self, params, jax.random.split(key, num_samples))


@compiled
def _draws(bayesian: Bayesian, q: PyTree, keys: Key) -> PyTree:
    return jax.vmap(lambda key: bayesian.belief.sample(q, key))(keys)


@compiled
def _spread(bayesian: Bayesian, q: PyTree, keys: Key, level: Any) -> tuple[Any, Any, Any]:
    """Returns the deviations, lower and upper ends of the description of draws from q."""
    model = bayesian.model
    draws = jax.vmap(model.describe)(_draws(bayesian, q, keys))
    quantile = lambda p: jax.tree.map(lambda leaf: jnp.quantile(leaf, p, axis=0), draws)
    deviation = jax.tree.map(lambda leaf: jnp.std(leaf, 0), draws)
    return deviation, quantile(0.5 - 0.5 * level), quantile(0.5 + 0.5 * level)
