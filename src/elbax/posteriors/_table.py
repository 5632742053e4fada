"""Variational parameters of each datum's own."""

import abc

import equinox as eqx
import jax
import jax.numpy as jnp

from .._program import program
from .._types import Any, Array, Key, PyTree
from ..families import AbstractFamily


class AbstractTable(eqx.Module):
    """A posterior that looks a datum up: `posterior(x, index=i)` is q of the row i, and of several rows, row by
    row, if `i` is an array.

    In a pass over data a row's place is its `Batch.index`, or is counted from 0; a place that the table does not
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

    @abc.abstractmethod
    def at(self, entry: PyTree) -> Any:
        """The q that one entry of the table stands for."""

    @property
    def num_rows(self) -> int:
        return len(jax.tree.leaves(self.table)[0])

    def entry(self, row: Array) -> PyTree:
        """The table's entry for one row, or for several."""

        def one(leaf):
            if jnp.issubdtype(leaf.dtype, jnp.inexact):
                return jnp.take(leaf, row, axis=0, mode="fill")
            return leaf[row]

        return jax.tree.map(one, self.table)

    def __call__(self, x: PyTree, *, key: Key | None = None, index: Any = None) -> Any:
        if index is None:
            raise TypeError(
                f"{type(self).__name__} has a q for each row of the data and cannot tell from x which row "
                "this is: "
                "call posterior(x, index=row)."
            )
        return _look_up(self, jnp.asarray(index))


@program
def _look_up(table: AbstractTable, row: Array) -> Any:
    at = table.at
    for _ in range(row.ndim):
        at = jax.vmap(at)
    return at(table.entry(row))


class _Row(eqx.Module):
    """A table at one row."""

    table: AbstractTable
    row: Array

    def __call__(self, x: PyTree, *, key: Key | None = None) -> Any:
        return self.table(x, key=key, index=self.row)


def at_row(posterior: PyTree, row: Array) -> PyTree:
    """The posterior with every table at this row."""
    is_table = lambda node: isinstance(node, AbstractTable)
    exchange = lambda node: _Row(node, row) if is_table(node) else node
    return jax.tree.map(exchange, posterior, is_leaf=is_table)
