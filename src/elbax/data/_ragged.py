"""Rows of several shapes, as groups of rows that share one."""

import equinox as eqx
import jax

from .._math.algebra import num_rows as num_equal_rows
from .._types import Any, Callable, PyTree


class Ragged(eqx.Module):
    """Rows of different lengths, in groups: the rows of a group are padded to the longest among them.

    It takes the place of a table as the x of a `Batch`, whose weights, mask and index have one entry for each row,
    group after group. What a row is padded with must have no effect in the model, such as words that occur 0
    times. `elbax.documents` makes one.

    **Fields:** `groups`: pytrees of arrays with a leading axis of rows, all of one structure.
    """

    groups: tuple[PyTree, ...]


def num_rows(x: PyTree) -> Any:
    """Returns the number of rows of data, equal or ragged."""
    return sum(map(num_rows, x.groups)) if isinstance(x, Ragged) else num_equal_rows(x)


def split_rows(x: Ragged, *others: PyTree) -> list[tuple[PyTree, ...]]:
    """Returns for each group (its rows, its part of each other array)."""
    found, start = [], 0
    for group in x.groups:
        stop = start + num_rows(group)
        part = jax.tree.map(lambda leaf, a=start, b=stop: leaf[a:b], others)
        found.append((group, *part))
        start = stop
    return found


def over_groups(function: Callable, x: Ragged, *others: PyTree) -> PyTree:
    """Returns the results of function(rows, part of each other array) of all groups, one after another."""
    found = [function(*group) for group in split_rows(x, *others)]
    return jax.tree.map(lambda *leaves: jax.numpy.concatenate(leaves), *found)


def as_one_table(x: Ragged, numpy: Any) -> PyTree:
    """Returns all rows padded with zeros to the longest, as a table with one leading axis."""

    def joined(*leaves):
        most = tuple(map(max, zip(*(leaf.shape[1:] for leaf in leaves))))
        padded = [
            numpy.pad(leaf, [(0, 0), *((0, m - n) for m, n in zip(most, leaf.shape[1:]))])
            for leaf in leaves
        ]
        return numpy.concatenate(padded)

    return jax.tree.map(joined, *x.groups)
