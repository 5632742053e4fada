"""Skips failed steps."""

import dataclasses
import functools
import operator

import equinox as eqx
import jax
import jax.numpy as jnp

from .._arguments import check_flag
from .._elbo import elbo
from .._math.algebra import where
from .._model import models_of
from .._state import ELBOState, Info
from .._types import Array, Bool, Int, Key, PyTree, Scalar
from .._update import AbstractUpdate, distinct_models, name_of, Promise, walk
from ._averaged import Averaged
from ._wrapper import AbstractRemembering


class Skips(eqx.Module):
    """The memory of `Guard`: the inner update's memory, and the number of skipped steps."""

    update: PyTree
    skipped: Int[Array, ""]


class Guard(AbstractRemembering):
    """Skips and counts steps of the update that fail: the state then stays unchanged.

    A step fails if it measures an ELBO that is not finite, or if a number in the params, the posterior or the
    memory ceases to be finite. With `falling=True` a step also fails if it lowers the ELBO of its batch; by
    default such a step is made. This ELBO is the model's, of the settled state: before and after the step the
    posterior is updated to the params as by `update.settle`, with the same draws. It takes two more passes over
    the data.

    After a skipped step the key advances, so that a step with draws does not fail in the same way again. So do the
    count of `Every`, the schedule of `Anneal` and the position of `IncrementalMStep`. The rest of the memory, such
    as an optimizer's count of steps, is unchanged. A step without draws fails again on the same batch, and the
    update makes no progress (`NumericalMStep` shortens such steps instead). `state.memory.skipped` is the count.

    `info` is that of the attempted step. With `falling=True` its `elbo` is the one before the step, which never
    falls on one batch. Any update then ascends, if its model's expectations are exact; with draws they would be
    estimates.

    It may wrap any update. Put `Guard(falling=True)` inside of `Anneal`, where it compares the annealed objective,
    and inside of `Averaged`, because the update is not at the average.

    **Arguments:**

    - `update`: any update.
    - `falling`: whether to reject steps that lower the ELBO.

    **Raises** `TypeError` for `falling=True` around an update of no model or of several, or around `Averaged`.

    ```python
    >>> import elbax, optax
    >>> model = elbax.GaussianMixture(2)
    >>> m_step = elbax.GradientMStep(model, optax.sgd(1.0))
    >>> generalized_em = elbax.Chain(elbax.ExactEStep(model), m_step)
    >>> generalized_em.ascends, elbax.wrappers.Guard(generalized_em, falling=True).ascends
    (False, True)

    ```
    """

    update: AbstractUpdate
    falling: bool = eqx.field(static=True, default=False)

    def __check_init__(self):
        check_flag("Guard", falling=self.falling)
        if not self.falling:
            return
        found = len(distinct_models(self.update))
        if found != 1:
            raise TypeError(
                f"Guard(falling=True): the update must have exactly one model, but {name_of(self.update)} has "
                f"{f'{found} models' if found else 'no model'}."
            )
        if any(isinstance(part, Averaged) for part in walk(self.update)):
            raise TypeError(
                "Guard(falling=True): got an update with Averaged, which settles at an average, but Guard "
                "compares the ELBO at the current state. Put Averaged around the Guard."
            )

    def keeps(self, promise: Promise) -> Promise:
        if not (self.falling and all(model.exact for model in models_of(self.update))):
            # Any step may be skipped.
            return min(promise, self.update.keeps(promise))
        if self.update.settles:
            return min(promise, Promise.SETTLED)
        return promise if promise is Promise.BOUND else Promise.NOTHING

    def init_memory(self, params: PyTree, posterior: PyTree) -> Skips:
        return Skips(self.update.init_memory(params, posterior), jnp.zeros((), int))

    def unmade(self, before: Skips, after: Skips) -> Skips:
        unmade = AbstractRemembering.unmade(self, before, after)
        return dataclasses.replace(unmade, skipped=after.skipped)

    def __call__(self, state: ELBOState, batch: PyTree) -> tuple[ELBOState, Info]:
        inner = self.inside(state)
        moved, info = self.update(inner, batch)
        good = ~_lost(inner, moved)
        if info.elbo is not None:
            good &= jnp.isfinite(info.elbo)
        if self.falling:
            before, after = (self._settled(at, inner.key, batch) for at in (inner, moved))
            slack = 8 * jnp.finfo(before.dtype).eps * (1 + jnp.abs(before))
            good &= after >= before - slack
            info = eqx.tree_at(
                lambda info: info.elbo, info, before, is_leaf=lambda leaf: leaf is None
            )
        unmade = self.update.unmade(inner.memory, moved.memory)
        kept = where(good, moved, inner.replace(memory=unmade, key=moved.key))
        skipped = state.memory.skipped + (~good).astype(state.memory.skipped.dtype)
        return kept.replace(memory=Skips(kept.memory, skipped)), info

    def _settled(self, state: ELBOState, key: Key, batch: PyTree) -> Scalar:
        """Returns the model's ELBO of the settled state, with the draws of this key."""
        (model,) = distinct_models(self.update)
        state = self.update.settle(state, batch)
        sizes = [getattr(part, "chunk_size", None) for part in walk(self.update)]
        chunk_size = min((size for size in sizes if size is not None), default=None)
        return elbo(model, state.params, state.posterior, batch, key=key, chunk_size=chunk_size)


def _lost(old: PyTree, new: PyTree) -> Bool[Array, ""]:
    """Returns whether a number that was finite no longer is; numbers that were not finite are ignored."""

    def one(old, new):
        return jnp.any(jnp.isfinite(old) & ~jnp.isfinite(new))

    lost = jax.tree.map(one, *(eqx.filter(tree, eqx.is_inexact_array) for tree in (old, new)))
    return functools.reduce(operator.or_, jax.tree.leaves(lost), jnp.zeros((), bool))
