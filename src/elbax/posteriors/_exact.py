"""Bayes' rule."""

import functools

import equinox as eqx

from .._algebra import nodes_of
from .._door import check_datum, check_model
from .._model import AbstractModel
from .._program import program
from .._table import as_arrays
from .._types import Callable, Key, PyTree
from ..families import Distribution


class Exact(eqx.Module):
    r"""$q(z) = p_\theta(z \mid x)$ at a snapshot of θ.

    It stores the parameters, nothing per datum: a pass over data evaluates it chunk by chunk. No
    gradient step trains it, alone or inside another posterior. It takes one datum; `jax.vmap(posterior)(x)` is
    q of every row of a table, and answers row by row.

    **Raises**, when called, `TypeError` if the model does not know its conditional; `ValueError` for params of
    another model, for more than one datum where the model knows what one looks like (a plain `Model` does not),
    and outside of `jit` and `vmap` for a datum that no params could have made (NaN, a negative count).

    ```python
    >>> import elbax, jax
    >>> x, model = elbax.datasets.old_faithful(), elbax.GaussianMixture(2)
    >>> q = jax.vmap(elbax.Exact(model, model.init(jax.random.key(0), x)))(x)
    >>> q.mean().shape, q.mode().shape, q.entropy().shape
    ((272, 2), (272,), (272,))

    ```
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
        return _conditional(self, self.looked_at(x))

    def looked_at(self, x: PyTree) -> PyTree:
        """The datum as arrays; raises `ValueError` for one that the model cannot have made, and wrong params."""
        x = as_arrays(x)
        self.model.check_params(self.params, "Exact")
        try:
            check_datum(self.model, x, "Exact")
        except ValueError:
            # A datum of another shape is refused in words of its own.
            if self.model.exact:
                eqx.filter_eval_shape(lambda x: self.model.conditional(self.prepared, x), x)
            raise
        return x


@program
def _conditional(exact: Exact, x: PyTree) -> Distribution:
    return exact.model.conditional(exact.prepared, x)


def looks_first(call: Callable) -> Callable:
    """A posterior's `__call__` that first looks at the datum as every `Exact` inside of it would."""

    @functools.wraps(call)
    def looking(self, x, *, key=None):
        for node in nodes_of(Exact, self):
            x = node.looked_at(x)
        return call(self, x, key=key)

    return looking
