"""What the functions share: axes, and tables with names."""

from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes

from .._arguments import kind_of, whole_numbers
from .._types import Any
from ..data._table import as_arrays


def axes_of(who: str, ax: Axes | None, **figure: Any) -> Axes:
    """Returns the given axes, or those of a new figure; raises `TypeError` for anything else."""
    if ax is None:
        return plt.subplots(layout="constrained", **figure)[1]
    if not isinstance(ax, Axes):
        raise TypeError(f"{who}: ax must be matplotlib axes, got {kind_of(ax)}.")
    return ax


def grid_of(who: str, ax: Any, rows: int, columns: int = 1, **figure: Any) -> np.ndarray:
    """Returns the given array of axes, or those of a new figure; raises `ValueError` for another shape."""
    if ax is None:
        return plt.subplots(rows, columns, layout="constrained", **figure)[1]
    shape = (rows, columns) if columns > 1 else (rows,)
    if np.shape(ax) != shape:
        raise ValueError(
            f"{who}: ax must be an array of axes of shape {shape}, such as plt.subplots({rows}, {columns})[1]; "
            f"got shape {np.shape(ax)}."
        )
    return np.asarray(ax)


def table_of(who: str, x: Any, names: Sequence[str] | None = None) -> tuple[Any, list[str]]:
    """Returns (the table in NumPy, the names of its columns: those given, those of a data frame, or numbers)."""
    x = as_arrays(x)
    table = np.asarray(x)
    if table.ndim != 2 or table.dtype.kind not in "fiub":
        raise ValueError(
            f"{who}: expected a table of numbers, of shape (rows, columns); got {table.dtype} of shape "
            f"{table.shape}."
        )
    return table, names_of(who, names or getattr(x, "columns", None), table.shape[1], "column ")


def names_of(who: str, names: Sequence[str] | None, number: int, kind: str) -> list[str]:
    """Returns the names, by default numbers; raises `ValueError` for another number of them."""
    if names is None:
        return [f"{kind}{place}" for place in range(number)]
    if len(names) != number:
        raise ValueError(f"{who}: expected {number} names, got {len(names)}: {list(names)}.")
    return list(map(str, names))


def chosen_of(who: str, columns: Any, number: int, what: str = "columns") -> tuple[int, ...]:
    """Returns the chosen columns, all by default; raises `ValueError` for a column that there is not."""
    chosen = tuple(range(number)) if columns is None else whole_numbers(f"{who}: {what}", columns)
    if len(set(chosen)) != len(chosen) or not all(0 <= column < number for column in chosen):
        raise ValueError(
            f"{who}: {what} must be different ones of 0, ..., {number - 1}; got {columns}."
        )
    return chosen
