"""Data errors, found at the edge: before anything runs, and only where values can be looked at."""

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from ._batch import as_batch, effective_weight
from ._types import Array, PyTree


def is_concrete(tree: PyTree) -> bool:
    """Whether all values are known now, that is outside `jit` and `vmap`."""
    return not any(isinstance(leaf, Tracer) for leaf in jax.tree.leaves(tree))


def check_table(x: PyTree, who: str, *, at_least: int) -> tuple[Array, Array]:
    """(x, weight) of a numeric table, shape `(num_data, dim)`; rows of weight 0 are copies of others.

    **Raises** `ValueError` that names the row or column and says what to do.
    """
    batch = as_batch(x)
    table = jnp.asarray(batch.x)
    if not jnp.issubdtype(table.dtype, jnp.floating):
        table = table.astype(float)
    if table.ndim != 2 or 0 in table.shape:
        raise ValueError(
            f"{who}: expected data of shape (num_data, dim), both at least 1; got {table.shape}"
            + (". One column is x[:, None]." if table.ndim == 1 else ".")
        )
    weight = effective_weight(batch, len(table)).astype(table.dtype)
    if is_concrete((table, weight)):
        check_values(table, weight, who)
        used = np.asarray(weight) > 0
        if used.sum() < at_least:
            raise ValueError(
                f"{who}: {at_least} components need at least {at_least} rows, got {used.sum()}."
            )
        rows = np.asarray(table)[used]
        constant = np.flatnonzero(rows.max(0) == rows.min(0))
        if constant.size and used.sum() > 1:
            raise ValueError(
                f"{who}: column {constant[0]} is constant ({rows[0, constant[0]]:g} in every row), so "
                "its variance has no estimate but 0. Drop the column."
            )
    safe = table[jnp.argmax(weight > 0)]
    return jnp.where(weight[:, None] > 0, table, safe), weight


def check_values(x: PyTree, weight: Array, who: str) -> None:
    """Raises `ValueError` for NaN or infinity in a row that counts, or weights that cannot be."""
    weights = np.asarray(weight)
    if not np.all(np.isfinite(weights)) or np.any(weights < 0):
        raise ValueError(f"{who}: weights must be finite and not negative.")
    if not np.any(weights > 0):
        raise ValueError(f"{who}: every row has weight 0 or is masked; nothing is left to fit.")
    for leaf in jax.tree.leaves(x):
        if not jnp.issubdtype(leaf.dtype, jnp.inexact):
            continue
        finite = jnp.isfinite(leaf).reshape(len(leaf), -1)
        bad = np.asarray(~finite.all(1) & (weight > 0))
        if bad.any():
            row = int(np.flatnonzero(bad)[0])
            column = int(np.flatnonzero(~np.asarray(finite[row]))[0])
            value = np.asarray(leaf[row]).reshape(-1)[column]
            raise ValueError(
                f"{who}: row {row}, column {column} is {value}. Drop such rows, or give them weight 0 "
                "or mask False in an elbax.Batch."
            )
