"""Rows with missing columns."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from .._types import Any, AnyArray, Array, PyTree


class IncompleteRows(eqx.Module):
    """A row, or rows, with some columns missing at random.

    **Fields:**

    - `values`: shape `(dim,)`, anything finite where missing.
    - `observed`: shape `(dim,)`, whether each column is known.

    Models that support it (Gaussian and all elementwise ones) integrate the missing columns out exactly.
    `elbax.incomplete` makes a batch of such rows.

    ```python
    >>> import elbax, jax.numpy as jnp
    >>> row = elbax.IncompleteRows(jnp.array([1.0, 0.0]), jnp.array([True, False]))

    ```
    """

    values: AnyArray
    observed: AnyArray


def is_incomplete(node: Any) -> bool:
    return isinstance(node, IncompleteRows)


def has_incomplete(x: PyTree) -> bool:
    """Returns whether there is an `IncompleteRows` anywhere in a pytree."""
    return any(map(is_incomplete, jax.tree.leaves(x, is_leaf=is_incomplete)))


def known(x: Any) -> tuple[Any, Any]:
    """Returns (values, observed) of a table or row, incomplete or not."""
    if is_incomplete(x):
        return x.values, x.observed
    x = jnp.asarray(x)
    return x, jnp.ones(x.shape, bool)


def host_known(x: Any) -> tuple[np.ndarray, np.ndarray]:
    """Returns `known` in NumPy, for checks."""
    if is_incomplete(x):
        return np.asanyarray(x.values), np.asarray(x.observed)
    x = np.asanyarray(x)
    return x, np.ones(x.shape, bool)


def known_numbers(x: Any) -> tuple[Array, Array]:
    """Returns `known`, with whole numbers and booleans made real numbers."""
    values, observed = known(x)
    real = jnp.issubdtype(values.dtype, jnp.floating)
    return values if real else values.astype(float), observed


def row_axes(x: PyTree) -> PyTree:
    """Returns the row axes of `x`, for `vmap`: in a block all rows share one `observed`."""

    def axes(leaf):
        if not is_incomplete(leaf):
            return 0
        shared = leaf.values.ndim != leaf.observed.ndim
        return jax.tree.unflatten(jax.tree.structure(leaf), [0, None if shared else 0])

    return jax.tree.map(axes, x, is_leaf=is_incomplete)


def has_blocks(x: PyTree) -> bool:
    """Returns whether the rows come in blocks that share one `observed`."""
    leaves = jax.tree.leaves(x, is_leaf=is_incomplete)
    return any(
        is_incomplete(leaf) and leaf.observed.ndim < leaf.values.ndim == 3 for leaf in leaves
    )
