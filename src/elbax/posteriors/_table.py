"""Tables of variational parameters, one row for each datum."""

import abc

import jax
import jax.numpy as jnp
import numpy as np

from .._math.algebra import nodes_of
from .._program import program
from .._types import Any, Array, Key, PyTree
from ..data._batch import as_batch, effective_weight
from ..data._check import is_concrete
from ..families import AbstractFamily
from ._posterior import AbstractPosterior


class AbstractTable(AbstractPosterior):
    """A posterior that looks a datum up by its row: `posterior(x, index=i)` is q of row i, or of several rows.

    In a pass over data the row is the datum's `Batch.index`, or is counted from 0. A row that the table does not
    have is NaN.
    """

    table: PyTree
    family: AbstractFamily

    def __check_init__(self):
        who = type(self).__name__
        if not isinstance(self.family, AbstractFamily):
            raise TypeError(
                f"{who}: family must be a family such as model.latent, got {self.family!r}."
            )
        leaves = jax.tree.leaves(self.table)
        if not leaves or not all(
            jnp.ndim(leaf) if hasattr(leaf, "shape") else 0 for leaf in leaves
        ):
            raise TypeError(
                f"{who}: table must be a pytree of arrays with a leading axis, the rows; got {self.table!r}."
            )

    def at_row(self, row: Array) -> "Row":
        return Row(self, row)

    @abc.abstractmethod
    def at(self, entry: PyTree) -> Any:
        """Returns the q of one entry of the table."""

    @property
    def num_rows(self) -> int:
        """The number of rows of the data for which it has an entry."""
        return len(jax.tree.leaves(self.table)[0])

    def entry(self, row: Array) -> PyTree:
        """Returns the table's entry for one row, or for several."""

        def one(leaf):
            if jnp.issubdtype(leaf.dtype, jnp.inexact):
                return jnp.take(leaf, row, axis=0, mode="fill")
            return leaf[row]

        return jax.tree.map(one, self.table)

    def __call__(self, x: PyTree, *, key: Key | None = None, index: Any = None) -> Any:
        if index is None:
            raise TypeError(
                f"{type(self).__name__}: got no index. The table has one q for each row of the data, and x does "
                "not determine the row. Call posterior(x, index=row)."
            )
        return _look_up(self, jnp.asarray(index))


@program
def _look_up(table: AbstractTable, row: Array) -> Any:
    at = table.at
    for _ in range(row.ndim):
        at = jax.vmap(at)
    return at(table.entry(row))


class Row(AbstractPosterior):
    """A table at one row."""

    table: AbstractTable
    row: Array

    def __call__(self, x: PyTree, *, key: Key | None = None) -> Any:
        return self.table(x, key=key, index=self.row)


def tables(posterior: PyTree) -> list[AbstractTable]:
    """Returns all tables in a posterior."""
    return nodes_of(AbstractTable, posterior)


def check_places(posterior: PyTree, batch: PyTree, who: str) -> None:
    """Raises `ValueError` unless every table in the posterior has the rows of the batch."""
    batch, found = as_batch(batch), tables(posterior)
    if not found:
        return
    known = is_concrete((batch.index, batch.weights, batch.mask))
    weight = effective_weight(batch, np if known else jnp)
    for table in found:
        name, number = type(table).__name__, table.num_rows
        if batch.index is not None:
            # Padding may name any row.
            places = np.asarray(batch.index)[weight > 0] if known else np.zeros(0, int)
            if np.any((places < 0) | (places >= number)):
                raise ValueError(
                    f"{who}: the index of the batch contains rows that the {name} of {number} rows does not have."
                )
            continue
        rows = weight.size
        if rows != number and not (batch.padded and rows > number):
            raise ValueError(
                f"{who}: the batch has {rows} rows, but the {name} has {number}. Make the table for all data, "
                "and pass the rows of a minibatch by Batch(x, index=...)."
            )
