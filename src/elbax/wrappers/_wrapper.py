"""Base classes of wrappers: an update inside, to which they delegate by default."""

import dataclasses

import equinox as eqx

from .._arguments import told
from .._state import ELBOState
from .._types import PyTree
from .._update import AbstractUpdate, ascends_again_and_again, Promise


class AbstractWrapper(AbstractUpdate):
    """An update made from another, `update`, whose memory is its own.

    Every method delegates to the inner update, so a subclass defines `__call__`, and `ascends` if a step may end
    elsewhere than the inner one's. One with a memory of its own derives from `AbstractRemembering`.
    """

    update: eqx.AbstractVar[AbstractUpdate]

    def __check_init__(self):
        if not isinstance(self.update, AbstractUpdate):
            raise TypeError(
                f"{type(self).__name__}: update must be an update such as Chain(...), got {told(self.update)}."
            )

    @property
    def ascends(self) -> bool:
        return ascends_again_and_again(self)

    def keeps(self, promise: Promise) -> Promise:
        return self.update.keeps(promise)

    @property
    def settles(self) -> bool:
        return self.update.settles

    @property
    def patience(self) -> int:
        return self.update.patience

    def init_memory(self, params: PyTree, posterior: PyTree) -> PyTree:
        return self.update.init_memory(params, posterior)

    def unmade(self, before: PyTree, after: PyTree) -> PyTree:
        return self.update.unmade(before, after)

    def inside(self, state: ELBOState) -> ELBOState:
        """Returns the inner update's view of the state."""
        return state

    def settle(self, state: ELBOState, batch: PyTree) -> ELBOState:
        return self.update.settle(self.inside(state), batch).replace(memory=state.memory)


class AbstractRemembering(AbstractWrapper):
    """A wrapper that remembers something between steps.

    Its memory is an `equinox.Module` (not a dict) with a field `update`, which holds the memory of the wrapped
    update, beside fields of its own. `init_memory` makes it, and `self.inside(state)` is the state as the wrapped
    update takes it. `elbax.wrappers.Averaged` is one; `docs/extending.md` writes one.

    **Raises** `TypeError` for a memory of another kind.
    """

    def unmade(self, before: PyTree, after: PyTree) -> PyTree:
        return dataclasses.replace(before, update=self.update.unmade(before.update, after.update))

    def inside(self, state: ELBOState) -> ELBOState:
        memory = state.memory
        if not isinstance(memory, eqx.Module) or not hasattr(memory, "update"):
            raise TypeError(
                f"{type(self).__name__}: its memory must be an equinox.Module with a field `update`, the memory "
                f"of the wrapped update; got {type(memory).__name__}. Return one from init_memory."
            )
        return state.replace(memory=memory.update)  # type: ignore
