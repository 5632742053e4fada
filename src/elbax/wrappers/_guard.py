"""A step that went astray is not made."""

import functools
import operator

import equinox as eqx
import jax
import jax.numpy as jnp

from .._algebra import where
from .._arguments import check_flag
from .._model import models_of
from .._state import ELBOState, Info
from .._types import Array, Bool, Int, PyTree
from .._update import AbstractUpdate
from ._wrapper import AbstractRemembering


class Skips(eqx.Module):
    """The memory of `Guard`: how many steps it has skipped."""

    update: PyTree
    skipped: Int[Array, ""]


class Guard(AbstractRemembering):
    """The update, of which a step that goes astray is skipped and counted: the state stays as it was.

    Astray is a step that measured an ELBO which is not finite, or by which a number in the params, the
    posterior or the memory ceased to be finite. A step that only falls, however far, is made; with
    `falling=True` one that lowered the ELBO of this very batch is astray too, which takes a second call of the
    update, at the place moved to and with the same draws.
    Only the key goes on, so that a step that draws does not fail the same way again; one that draws nothing,
    on the same batch, does, and stays where it is (`NumericalMStep` shortens such steps instead). `info` is
    that of the step that was tried, `state.memory.skipped` the count.

    Guarded against falling, an update ascends whatever it is, given that its models' expectations are
    exact: what is compared is what the update measures (for an exact E-step and any M-step, the evidence),
    and of samples that would be an estimate.

    **Arguments:**

    - `update`: any update.
    - `falling`: whether to refuse steps that lower the ELBO.

    **Raises** `TypeError` at the first step for `falling=True` around an update that measures no ELBO.

    ```python
    >>> import elbax, optax
    >>> model = elbax.GaussianMixture(2)
    >>> m_step = elbax.GradientMStep(model, optax.sgd(1.0))
    >>> generalized_em = elbax.Chain(elbax.ExactEStep(model), m_step)
    >>> generalized_em.ascends, elbax.Guard(generalized_em, falling=True).ascends
    (False, True)

    ```
    """

    update: AbstractUpdate
    falling: bool = eqx.field(static=True, default=False)

    def __check_init__(self):
        check_flag("Guard", falling=self.falling)

    @property
    def ascends(self) -> bool:
        guarded = self.falling and all(model.exact for model in models_of(self.update))
        return guarded or self.update.ascends

    def init_memory(self, params: PyTree, posterior: PyTree) -> Skips:
        return Skips(self.update.init_memory(params, posterior), jnp.zeros((), int))

    def __call__(self, state: ELBOState, batch: PyTree) -> tuple[ELBOState, Info]:
        inner = self.inside(state)
        moved, info = self.update(inner, batch)
        good = ~_lost(inner, moved)
        if info.elbo is not None:
            good &= jnp.isfinite(info.elbo)
        if self.falling:
            good &= self._keeps(inner, moved, info, batch)
        kept = where(good, moved, inner.replace(key=moved.key))
        skipped = state.memory.skipped + (~good).astype(state.memory.skipped.dtype)
        return kept.replace(memory=Skips(kept.memory, skipped)), info

    def _keeps(self, inner, moved, info, batch) -> Bool[Array, ""]:
        """Whether the ELBO at the place moved to is no lower, to rounding."""
        if info.elbo is None:
            raise TypeError(
                f"Guard(falling=True) compares ELBOs, but {type(self.update).__name__} measures none. Put "
                "it around the whole chain."
            )
        after = self.update(moved.replace(key=inner.key), batch)[1].elbo
        slack = 8 * jnp.finfo(info.elbo.dtype).eps * (1 + jnp.abs(info.elbo))
        return after >= info.elbo - slack


def _lost(old: PyTree, new: PyTree) -> Bool[Array, ""]:
    """Whether some number that was finite is so no more; what was not may have its reasons."""

    def one(old, new):
        return jnp.any(jnp.isfinite(old) & ~jnp.isfinite(new))

    lost = jax.tree.map(one, *(eqx.filter(tree, eqx.is_inexact_array) for tree in (old, new)))
    return functools.reduce(operator.or_, jax.tree.leaves(lost), jnp.zeros((), bool))
