"""Conversion of tables to arrays: data frames, lists, columns of objects."""

import math
from typing import NoReturn

import jax
import jax.numpy as jnp
import numpy as np

from .._types import Any, PyTree


class NamedColumns(np.ndarray):
    """An array with its columns' names, for error messages."""

    columns: tuple[str, ...] | None = None

    def __array_finalize__(self, array: Any) -> None:
        self.columns = getattr(array, "columns", None)


def named(table: np.ndarray, names: Any) -> np.ndarray:
    """Returns the table with names for its columns; unchanged if there are none."""
    if names is None:
        return table
    found = table.view(NamedColumns)
    found.columns = tuple(map(str, names))
    return found


def column_name(table: Any, column: int) -> str:
    """Returns the name of a column for messages: its own if it has one."""
    names = getattr(table, "columns", None)
    return f"column {column}" if names is None else f"column {names[column]!r}"


def as_arrays(x: PyTree) -> PyTree:
    """Returns the data with every table in it made an array; arrays and pytrees of arrays are unchanged.

    Data frames (pandas, polars, anything with `columns`) keep their columns' names. A list of numbers, or of lists
    of numbers, becomes an array; a list of arrays stays a pytree. `None` and masked entries become NaN.

    **Raises** `TypeError` for text, dates, complex numbers or a sparse matrix, `ValueError` for rows of different
    lengths.
    """
    return jax.tree.map(_as_array, x, is_leaf=_is_table)


def _is_frame(node: Any) -> bool:
    return hasattr(node, "columns") and hasattr(node, "to_numpy")


def _is_table(node: Any) -> bool:
    return _is_frame(node) or (isinstance(node, list) and bool(node) and _spells_numbers(node))


def _spells_numbers(node: Any) -> bool:
    if isinstance(node, list):
        return all(map(_spells_numbers, node))
    return node is None or isinstance(node, int | float | complex | str | np.generic)


def _as_array(leaf: Any) -> Any:
    if isinstance(leaf, jax.Array):
        return leaf
    if _is_frame(leaf):
        return _of_frame(leaf)
    if isinstance(leaf, list):
        return _numbers(_of_list(leaf))
    if isinstance(leaf, np.ma.MaskedArray):
        return np.ma.filled(leaf.astype(float), np.nan) if np.ma.is_masked(leaf) else leaf.data
    if hasattr(leaf, "toarray") and hasattr(leaf, "nnz"):
        raise TypeError("Got a sparse matrix, but data must be dense. Pass x.toarray().")
    if hasattr(leaf, "to_numpy"):
        leaf = leaf.to_numpy()
    return _numbers(leaf) if isinstance(leaf, np.ndarray) else leaf


def _of_list(rows: list) -> np.ndarray:
    try:
        # A list that contains `None` becomes an array of objects.
        return np.array(rows)
    except ValueError:
        raise ValueError(
            "Got a list of lists of different lengths, but a table needs rows of one length. For sequences of "
            "different lengths use elbax.sequences([...])."
        ) from None


def _of_frame(frame: Any) -> np.ndarray:
    names = tuple(map(str, frame.columns))
    columns = []
    for name, key in zip(names, frame.columns, strict=True):
        column = frame[key]
        if getattr(column, "ndim", 1) != 1:
            raise ValueError(
                f"The data frame has several columns named {name!r}. Rename or drop all but one."
            )
        columns.append(_numbers(np.asarray(column.to_numpy()), f"Column {name!r}"))
    if not columns:
        return np.empty((len(frame), 0))
    return named(np.stack(columns, 1), names)


def _numbers(array: np.ndarray, who: str = "The array") -> np.ndarray:
    """Returns the array if it holds numbers or booleans; objects that are numbers are converted."""
    if array.dtype == object:
        items = [_number(item, who) for item in array.reshape(-1)]
        return np.array(items, None if items else float).reshape(array.shape)
    real = array.dtype == bool or jnp.issubdtype(array.dtype, jnp.number)
    if not real or jnp.issubdtype(array.dtype, jnp.complexfloating):
        _refuse(array.reshape(-1)[0] if array.size else array.dtype, who)
    return array


def _number(item: Any, who: str) -> bool | int | float:
    # Data frames have missing values of their own kinds, which cannot be compared with numbers.
    if item is None or type(item).__name__ == "NAType":
        return math.nan
    if isinstance(item, bool | int | float):
        return item
    if isinstance(item, str | bytes):
        _refuse(item, who)
    try:
        return float(item)
    except (TypeError, ValueError):
        _refuse(item, who)


def _refuse(item: Any, who: str) -> NoReturn:
    shown = repr(item.item() if isinstance(item, np.str_ | np.bytes_) else item)
    raise TypeError(
        f"{who} holds {shown}, but numbers are expected. Drop it, or encode it as 0, 1, ... with "
        "numpy.unique(column, return_inverse=True)[1]."
    )
