"""Setting the posterior to a function of the params: what Bayes' rule, exact or hard, has in common."""

import abc
from typing import ClassVar

import jax

from .._model import AbstractModel
from .._state import ELBOState, Info
from .._types import PyTree
from .._update import AbstractUpdate


class AbstractBayesStep(AbstractUpdate):
    """Sets the posterior to `at(params)`. It costs nothing: the next pass over the data evaluates it."""

    model: AbstractModel

    form: ClassVar[str]
    """`at(params)` as a user writes it."""

    @abc.abstractmethod
    def at(self, params: PyTree) -> PyTree:
        """The best posterior of its kind at these params."""

    @property
    def ascends(self) -> bool:
        return True

    @property
    def fixed_point(self) -> bool:
        return True

    def init_memory(self, params: PyTree, posterior: PyTree) -> PyTree:
        ours = self.at(params)
        if jax.tree.structure(posterior) != jax.tree.structure(ours):
            given = type(posterior).__name__
            if isinstance(posterior, type(ours)):
                article = "an" if given[0] in "AEIOU" else "a"
                given = f"{article} {given} of another model or other params"
            plain = self.form.replace("elbax.", "")
            raise TypeError(
                f"{type(self).__name__} sets the posterior to {plain}, and the carry of a scan keeps "
                f"its structure, but the state would start with {given}. Pass "
                f"{self.form}, with this step's model, to init."
            )
        return ()

    def __call__(self, state: ELBOState, batch: PyTree) -> tuple[ELBOState, Info]:
        return state.replace(posterior=self.at(state.params)), Info()

    def check(self, batch: PyTree) -> None:
        self.model.check(batch)

    def settle(self, state: ELBOState, batch: PyTree) -> ELBOState:
        return self(state, batch)[0]
