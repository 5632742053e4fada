"""A row of which some columns are missing."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from ._types import Any, AnyArray, Array, PyTree


class Incomplete(eqx.Module):
    """A row, or rows, of which some columns are missing at random.

    **Fields:**

    - `values`: shape `(dim,)`, anything finite where nothing is known.
    - `observed`: shape `(dim,)`, whether each column is known.

    Models that know how (Gaussian and all elementwise ones) leave the missing columns out of the
    density, by integrating over them exactly. `elbax.incomplete` makes a batch of such rows.

    ```python
    >>> import elbax, jax.numpy as jnp
    >>> row = elbax.Incomplete(jnp.array([1.0, 0.0]), jnp.array([True, False]))

    ```
    """

    values: AnyArray
    observed: AnyArray


def is_incomplete(node: Any) -> bool:
    return isinstance(node, Incomplete)


def has_incomplete(x: PyTree) -> bool:
    """Whether there is an `Incomplete` somewhere in a pytree."""
    return any(map(is_incomplete, jax.tree.leaves(x, is_leaf=is_incomplete)))


def known(x: Any) -> tuple[Any, Any]:
    """(values, observed) of a table or row, incomplete or not."""
    if is_incomplete(x):
        return x.values, x.observed
    x = jnp.asarray(x)
    return x, jnp.ones(x.shape, bool)


def host_known(x: Any) -> tuple[np.ndarray, np.ndarray]:
    """`known` as NumPy has it, for checks."""
    if is_incomplete(x):
        return np.asanyarray(x.values), np.asarray(x.observed)
    x = np.asanyarray(x)
    return x, np.ones(x.shape, bool)


def known_numbers(x: Any) -> tuple[Array, Array]:
    """`known`, whole numbers and truth values made real numbers."""
    values, observed = known(x)
    real = jnp.issubdtype(values.dtype, jnp.floating)
    return values if real else values.astype(float), observed


def row_axes(x: PyTree) -> PyTree:
    """Where `x` has its rows, as `vmap` asks: in a block all rows share one `observed`."""

    def axes(leaf):
        if not is_incomplete(leaf):
            return 0
        shared = leaf.values.ndim != leaf.observed.ndim
        return jax.tree.unflatten(jax.tree.structure(leaf), [0, None if shared else 0])

    return jax.tree.map(axes, x, is_leaf=is_incomplete)


def has_blocks(x: PyTree) -> bool:
    """Whether the rows come in blocks that share one `observed`."""
    leaves = jax.tree.leaves(x, is_leaf=is_incomplete)
    return any(
        is_incomplete(leaf) and leaf.observed.ndim < leaf.values.ndim == 3 for leaf in leaves
    )
