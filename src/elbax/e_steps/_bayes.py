"""The base class of E-steps that move the posterior to the current params."""

from typing import ClassVar

from .._arguments import kind_of
from .._math.algebra import nodes_of
from .._model import AbstractModel
from .._state import ELBOState, Info
from .._types import Any, PyTree
from .._update import AbstractUpdate, Promise, shaped
from ..posteriors import Exact
from ..posteriors._posterior import bind


class AbstractBayesStep(AbstractUpdate):
    """Moves every `Exact` of the model in the posterior to the state's params.

    This costs nothing: the next pass over the data evaluates the posterior.
    """

    model: AbstractModel

    kind: ClassVar[Any]
    """The class of posteriors that it moves."""

    form: ClassVar[str]
    """How a user writes such a posterior, for errors."""

    @property
    def ascends(self) -> bool:
        return True

    def keeps(self, promise: Promise) -> Promise:
        lost = promise is Promise.NOTHING or not self.ascends
        return Promise.NOTHING if lost else Promise.BOUND

    @property
    def usual_posterior(self) -> str:
        return self.form

    @property
    def fixed_point(self) -> bool:
        return True

    def init_memory(self, params: PyTree, posterior: PyTree) -> PyTree:
        given = kind_of(posterior)
        if isinstance(posterior, self.kind):
            moved = bind(posterior, self.model, params)
            if self._binds(posterior) and shaped(moved) == shaped(posterior):
                return ()
            given += " of another model or other params"
        short = self.form.replace("elbax.posteriors.", "").replace("elbax.", "")
        raise TypeError(
            f"{type(self).__name__}: the posterior is {given}, but this step returns {short} at the current "
            f"params, and a scan must keep the structure of its carry. Pass {self.form}, with this step's model, "
            "to init."
        )

    def _binds(self, posterior: PyTree) -> bool:
        return any(node.model == self.model for node in nodes_of(Exact, posterior))

    def __call__(self, state: ELBOState, batch: PyTree) -> tuple[ELBOState, Info]:
        # At no cost in the program: only types and shapes are compared.
        self.init_memory(state.params, state.posterior)
        return self.settle(state, batch), Info()

    def settle(self, state: ELBOState, batch: PyTree) -> ELBOState:
        return state.replace(posterior=bind(state.posterior, self.model, state.params))
