"""What all wrappers have in common: an update inside, to which they hand on what is not theirs."""

import equinox as eqx

from .._state import ELBOState
from .._types import PyTree
from .._update import AbstractUpdate


class AbstractWrapper(AbstractUpdate):
    """An update made of another; the memory is the inner one's."""

    update: eqx.AbstractVar[AbstractUpdate]

    def __check_init__(self):
        if not isinstance(self.update, AbstractUpdate):
            raise TypeError(
                f"{type(self).__name__}: update must be an update such as Chain(...), got {self.update!r}."
            )

    @property
    def ascends(self) -> bool:
        return self.update.ascends

    @property
    def patience(self) -> int:
        return self.update.patience

    def init_memory(self, params: PyTree, posterior: PyTree) -> PyTree:
        return self.update.init_memory(params, posterior)

    def inside(self, state: ELBOState) -> ELBOState:
        """The state as the inner update knows it."""
        return state

    def settle(self, state: ELBOState, batch: PyTree) -> ELBOState:
        return self.update.settle(self.inside(state), batch).replace(memory=state.memory)


class AbstractRemembering(AbstractWrapper):
    """A wrapper with a memory of its own, `state.memory`, whose field `update` is the inner one's."""

    def inside(self, state: ELBOState) -> ELBOState:
        return state.replace(memory=state.memory.update)
