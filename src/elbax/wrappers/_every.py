"""Periodic steps."""

import dataclasses

import equinox as eqx
import jax
import jax.numpy as jnp

from .._arguments import check_count
from .._math.algebra import where
from .._state import ELBOState, Info, unmeasured
from .._types import Int, PyTree, Scalar
from .._update import AbstractUpdate, Promise
from ._wrapper import AbstractRemembering


class Turns(eqx.Module):
    """The memory of `Every`: the inner update's memory, the number of calls, and the last measured ELBO."""

    update: PyTree
    step: Int[jax.Array, ""]
    elbo: Scalar


class Every(AbstractRemembering):
    """Applies the update only at the steps t = offset, offset + period, …; at all others the state is unchanged.

    It is for expensive or rare steps: a `ReseedStep` every 50 sweeps, a Newton step after every tenth gradient
    step. A skipped step costs nothing, except under `vmap` over states at different steps.

    It may wrap any update, a whole chain or a part of one. The `info.elbo` of a skipped step is the last measured
    one, and those of its parts are −∞. The very first step measures the ELBO even if it does not act: the update
    is run, and its move dropped. `fit` waits for a whole period without gain.

    **Arguments:**

    - `update`: any update.
    - `period`: the number of steps between two that act, at least 1.
    - `offset`: the first step that acts, at least 0.

    **Raises** `ValueError` for smaller numbers.

    ```python
    >>> import elbax
    >>> model = elbax.GaussianMixture(3)
    >>> em = elbax.Chain(
    ...     elbax.ExactEStep(model),
    ...     elbax.ClosedFormMStep(model),
    ...     elbax.wrappers.Every(elbax.ReseedStep(model), 50, offset=10),
    ... )

    ```
    """

    update: AbstractUpdate
    period: int = eqx.field(static=True)
    offset: int = eqx.field(static=True, default=0)

    def __check_init__(self):
        check_count("Every", period=self.period)
        check_count("Every", least=0, offset=self.offset)

    def keeps(self, promise: Promise) -> Promise:
        return min(promise, self.update.keeps(promise))

    @property
    def patience(self) -> int:
        # Before the first acting step nothing is gained either.
        return self.offset + self.period * self.update.patience

    def init_memory(self, params: PyTree, posterior: PyTree) -> Turns:
        inner = self.update.init_memory(params, posterior)
        return Turns(inner, jnp.zeros((), int), jnp.full((), -jnp.inf, float))

    def unmade(self, before: Turns, after: Turns) -> Turns:
        unmade = AbstractRemembering.unmade(self, before, after)
        return dataclasses.replace(unmade, step=after.step)

    def __call__(self, state: ELBOState, batch: PyTree) -> tuple[ELBOState, Info]:
        memory, inner = state.memory, self.inside(state)
        acts = (memory.step >= self.offset) & ((memory.step - self.offset) % self.period == 0)
        blank = unmeasured(jax.eval_shape(lambda: self.update(inner, batch)[1]))
        # An unmeasured ELBO would be mistaken for a nonfinite one.
        measures = acts | ~jnp.isfinite(memory.elbo) if blank.elbo is not None else acts
        moved, info = jax.lax.cond(
            measures, lambda: self.update(inner, batch), lambda: (inner, blank)
        )
        moved, last = where(acts, moved, inner), memory.elbo
        if info.elbo is not None:
            elbo = where(measures, info.elbo, last.astype(info.elbo.dtype))
            info = eqx.tree_at(lambda info: info.elbo, info, elbo)
            last = elbo.astype(last.dtype)
        return moved.replace(memory=Turns(moved.memory, memory.step + 1, last)), info
