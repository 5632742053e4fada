"""Data errors, found at the edge: before anything runs, and only where values can be looked at."""

import jax
import jax.numpy as jnp
import numpy as np

from ._incomplete import known
from ._program import is_concrete as is_concrete
from ._types import Any, Array, Callable, PyTree


def check_row(x: Any, dim: int, who: str) -> None:
    """Raises `ValueError` for a datum that has other columns than the params are for."""
    shape = jnp.shape(known(x)[0])
    if shape != (dim,):
        raise ValueError(
            f"{who}: at these params one datum has shape {(dim,)}, got {shape}. Data have a leading axis, the "
            "rows; a posterior takes one of them."
        )


def check_rows(x: PyTree, weight: Array, who: str) -> None:
    """Raises `ValueError` for NaN or infinity in a row that counts, or for weights that cannot be."""
    check_weights(weight, who)
    found = first_not_finite(x, weight)
    if found is not None:
        row, column, value = found
        advice = (
            "If it means missing, and the model integrates over what is missing, pass "
            "elbax.incomplete(x). Otherwise drop such rows"
            if np.isnan(value)
            else "Drop such rows"
        )
        raise ValueError(
            f"{who}: row {row}, column {column} is {value}. {advice}, or give them weight 0 or mask "
            "False in an elbax.Batch."
        )


def first_not_finite(x: PyTree, weight: Array) -> tuple[int, int, Any] | None:
    """(row, column, value) of the first number of a row that counts which is NaN or infinite."""
    for leaf in jax.tree.leaves(x):
        if not jnp.issubdtype(leaf.dtype, jnp.inexact):
            continue
        finite = jnp.isfinite(leaf).reshape(len(leaf), -1)
        bad = np.asarray(~finite.all(1) & (weight > 0))
        if bad.any():
            row = int(np.flatnonzero(bad)[0])
            column = int(np.flatnonzero(~np.asarray(finite[row]))[0])
            return row, column, np.asarray(leaf[row]).reshape(-1)[column]
    return None


def check_weights(weight: Any, who: str) -> None:
    """Raises `ValueError` for weights that cannot be, or that leave nothing."""
    weights = np.asarray(weight)
    if not np.all(np.isfinite(weights)) or np.any(weights < 0):
        raise ValueError(f"{who}: weights must be finite and not negative.")
    if not np.any(weights > 0):
        raise ValueError(f"{who}: every row has weight 0 or is masked; nothing is left to fit.")


def check_values(
    x: PyTree, weight: Array, who: str, bad: Callable[[np.ndarray], np.ndarray], expected: str
) -> None:
    """Raises `ValueError` for the first value of a table that counts and is `bad`."""
    values, observed = known(x)
    wrong = bad(np.asarray(values)) & np.asarray(observed)
    wrong &= (np.asarray(weight) > 0).reshape((-1,) + (1,) * (wrong.ndim - 1))
    if wrong.any():
        place = tuple(int(i) for i in np.argwhere(wrong)[0])
        where = f"row {place[0]}" + (f", column {place[1]}" if len(place) > 1 else "")
        raise ValueError(f"{who}: expected {expected}; {where} is {np.asarray(values)[place]:g}.")


def check_table(x: PyTree, weight: Array, who: str, *, varied: bool = True) -> None:
    """Raises `ValueError` unless `x` is a table of finite numbers (of which no column is constant)."""
    values, observed = known(x)
    if values.ndim != 2 or 0 in values.shape:
        raise ValueError(
            f"{who}: expected data of shape (num_data, dim), both at least 1; got {values.shape}"
            + (". One column is x[:, None]." if values.ndim == 1 else ".")
        )
    check_rows(values, weight, who)
    seen = np.asarray(observed) & (np.asarray(weight) > 0)[:, None]
    if not varied or (np.asarray(weight) > 0).sum() < 2:
        return
    table = np.asarray(values)
    constant = np.where(seen, table, -np.inf).max(0) <= np.where(seen, table, np.inf).min(0)
    if constant.any():
        column = int(np.flatnonzero(constant)[0])
        number = table[np.flatnonzero(seen[:, column])[:1], column]
        raise ValueError(
            f"{who}: column {column} is constant "
            + (f"({number[0]:g} in every row)" if number.size else "(missing in every row)")
            + ", so its variance has no estimate but 0. Drop the column."
        )


def check_enough(weight: Array, who: str, num_components: int) -> None:
    """Raises `ValueError` for fewer rows than components."""
    used = int((np.asarray(weight) > 0).sum())
    if used < num_components:
        raise ValueError(
            f"{who}: {num_components} components need at least {num_components} rows, got {used}."
        )
