"""Bayes' rule."""

import equinox as eqx

from .._model import AbstractModel
from .._program import program
from .._types import Key, PyTree
from ..families import Distribution


class Exact(eqx.Module):
    r"""$q(z) = p_\theta(z \mid x)$ at a snapshot of θ.

    It stores the parameters, nothing per datum: a pass over data evaluates it chunk by chunk. No
    gradient step trains it, alone or inside another posterior.

    **Raises**, when called, `TypeError` if the model does not know its conditional.
    """

    model: AbstractModel
    params: PyTree

    @property
    def prepared(self) -> PyTree:
        """What the model needs of θ, at hand where a pass has it."""
        return self.model.prepare(self.model.natural(self.params))

    def __call__(self, x: PyTree, *, key: Key | None = None) -> Distribution:
        return _conditional(self, x)


@program
def _conditional(exact: Exact, x: PyTree) -> Distribution:
    return exact.model.conditional(exact.prepared, x)
