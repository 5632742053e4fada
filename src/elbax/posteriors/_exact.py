"""Bayes' rule."""

import equinox as eqx

from .._door import check_datum, check_model
from .._model import AbstractModel
from .._program import program
from .._table import as_arrays
from .._types import Key, PyTree
from ..families import Distribution


class Exact(eqx.Module):
    r"""$q(z) = p_\theta(z \mid x)$ at a snapshot of θ.

    It stores the parameters, nothing per datum: a pass over data evaluates it chunk by chunk. No
    gradient step trains it, alone or inside another posterior.

    **Raises**, when called, `TypeError` if the model does not know its conditional; `ValueError` for params of
    another model, and outside of `jit` and `vmap` for a datum that no params could have made (NaN, a negative
    count).
    """

    model: AbstractModel
    params: PyTree

    def __check_init__(self):
        check_model(self.model, "Exact")

    @property
    def prepared(self) -> PyTree:
        """What the model needs of θ, at hand where a pass has it."""
        return self.model.prepare(self.model.natural(self.params))

    def __call__(self, x: PyTree, *, key: Key | None = None) -> Distribution:
        x = as_arrays(x)
        self.model.check_params(self.params, "Exact")
        try:
            check_datum(self.model, x, "Exact")
        except ValueError:
            # A datum of another shape is refused in words of its own.
            eqx.filter_eval_shape(lambda x: self.model.conditional(self.prepared, x), x)
            raise
        return _conditional(self, x)


@program
def _conditional(exact: Exact, x: PyTree) -> Distribution:
    return exact.model.conditional(exact.prepared, x)
