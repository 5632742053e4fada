"""Restarts empty or collapsed components where the data are fitted worst."""

import equinox as eqx
import jax
import jax.numpy as jnp

from .._arguments import check_not_negative
from .._capability import RestartsComponents
from .._model import AbstractModel
from .._state import ELBOState, Info
from .._tempered import Tempered
from .._types import PyTree
from .._update import AbstractUpdate
from ..data._batch import as_batch, over_rows, rows
from ..posteriors import Exact


class ReseedStep(AbstractUpdate):
    """Moves components that have emptied or collapsed to the points of lowest evidence.

    Such a component takes a share of the worst-fitted rows and restarts there as in `init`, with weight 1/K; the
    others are unchanged. This lowers the ELBO, so a chain that contains it does not promise to ascend. If no
    component has emptied or collapsed, the state is unchanged, exactly.

    Put it last: `Chain(ExactEStep(model), ClosedFormMStep(model), ReseedStep(model))`.

    **Arguments:**

    - `model`: a model with `emptied`, `collapsed` and `restart_components`: a `Mixture`.
    - `share`: the share of rows that each such component takes, in (0, 1]; 1 / (2 K) by default.

    ```python
    >>> import elbax
    >>> model = elbax.GaussianMixture(3)
    >>> em = elbax.Chain(
    ...     elbax.ExactEStep(model), elbax.ClosedFormMStep(model), elbax.ReseedStep(model)
    ... )
    >>> em.ascends
    False

    ```
    """

    model: AbstractModel
    share: float | None = eqx.field(static=True, default=None)

    def __check_init__(self):
        if self.share is not None:
            check_not_negative("ReseedStep", share=self.share)
            if not 0 < self.share <= 1:
                raise ValueError(f"ReseedStep: share must be in (0, 1], got {self.share}.")

    @property
    def ascends(self) -> bool:
        return False

    def init_memory(self, params: PyTree, posterior: PyTree) -> PyTree:
        _restarter(self.model)
        return ()

    def __call__(self, state: ELBOState, batch: PyTree) -> tuple[ELBOState, Info]:
        model, params = self.model, state.params
        gone = model.emptied(params) | model.collapsed(params)

        def reseed():
            x, weight = rows(batch)
            posterior = Exact(model, params)

            def explain(x):
                q = posterior(x)
                # An empty component keeps none of its rows except those it takes below.
                staying = jnp.argmax(jnp.where(gone, -jnp.inf, q.natural))
                return staying, q.family.log_normalizer(q.natural)

            # Block by block if rows come in blocks: each pattern of missing columns is then processed once.
            found = over_rows(explain, as_batch(batch).x if as_batch(batch).blocked else x)
            assignment, log_evidence = (leaf.reshape(-1) for leaf in found)
            weight = weight.astype(log_evidence.dtype)
            # Ranks from the worst fitted; rows of weight 0 come last.
            log_evidence = jnp.where(jnp.isnan(log_evidence), -jnp.inf, log_evidence)
            order = jnp.argsort(jnp.where(weight > 0, log_evidence, jnp.inf))
            rank = jnp.zeros_like(order).at[order].set(jnp.arange(order.size))
            num_components = gone.size
            share = 1 / (2 * num_components) if self.share is None else self.share
            each = jnp.maximum(1, (share * jnp.sum(weight > 0).astype(weight.dtype)).astype(int))
            # The j-th restarted component takes the j-th group of ranks.
            lot = rank // each
            taker = jnp.argsort(~gone, stable=True)[jnp.minimum(lot, num_components - 1)]
            taken = (lot < jnp.sum(gone)) & (weight > 0)
            assignment = jnp.where(taken, taker, assignment)
            return _restarter(model).restart_components(params, gone, x, weight, assignment)

        moved = jax.lax.cond(jnp.any(gone), reseed, lambda: params)
        return state.replace(params=moved), Info()


def _restarter(model: AbstractModel) -> RestartsComponents:
    inner = model.model if isinstance(model, Tempered) else model
    if isinstance(inner, RestartsComponents):
        return inner
    raise TypeError(
        f"ReseedStep: {type(inner).__name__} has no components to restart. Use a Mixture."
    )
