"""Basic algebra on arrays and pytrees, at full float32 precision on every device."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from .._types import Any, Array, PyTree, Scalar


# By default accelerators multiply float32 matrices in fewer bits. Quadratic forms and sufficient statistics need
# all of them, since they are differences of large numbers.
matmul = functools.partial(jnp.matmul, precision=jax.lax.Precision.HIGHEST)
vdot = functools.partial(jnp.vdot, precision=jax.lax.Precision.HIGHEST)

_SMALL = 8


def product(a: Array, b: Array) -> Array:
    """Returns A B for many small matrices, as one loop, which is faster than one call for each."""
    if max(a.shape[-2:] + b.shape[-2:]) > _SMALL:
        return matmul(a, b)
    terms = (a[..., :, j, None] * b[..., None, j, :] for j in range(a.shape[-1]))
    return functools.reduce(jnp.add, terms)


def matvec(matrix: Array, vector: Array) -> Array:
    """Returns A v by `matmul`. XLA would recompute a sum of products at every use."""
    return matmul(matrix, vector[..., None])[..., 0]


def apply(matrix: Array, vector: Array) -> Array:
    """Returns A v, for small matrices as one loop."""
    if matrix.shape[-1] > _SMALL:
        return matvec(matrix, vector)
    terms = (matrix[..., :, j] * vector[..., j, None] for j in range(matrix.shape[-1]))
    return functools.reduce(jnp.add, terms)


def diagonal(matrix: Array) -> Array:
    """Returns the diagonals of square matrices: two operations, where `jnp.diagonal` takes forty."""
    place = np.eye(matrix.shape[-1], dtype=bool)
    return jnp.sum(jnp.where(place, matrix, 0), -1, dtype=matrix.dtype)


def log(x: Array) -> Array:
    """Returns log x, finite at x = 0: there it is the logarithm of the smallest positive number."""
    return jnp.log(jnp.maximum(x, jnp.finfo(x.dtype).tiny))


def difference(a: Array, b: Array) -> Array:
    """Returns a − b, 0 where both are the same infinity."""
    # Not where they are equal and finite: there the slope would be 0.
    same = (a == b) & jnp.isinf(a)
    return jnp.where(same, 0, a - jnp.where(same, 0, b))


def without_data(count: Array) -> Array:
    """Returns which of some expected counts are close to underflow: at most 1e-19 of their sum in float32.

    Products of such a count with other numbers underflow one by one, so its moments are inconsistent.
    """
    tiny = jnp.finfo(count.dtype).tiny
    return count <= jnp.maximum(tiny, tiny**0.5 * jnp.sum(count))


def nodes_of(kind: Any, tree: PyTree) -> list[Any]:
    """Returns the nodes of a class (or of several) in a pytree; of nested ones, the outer one."""
    is_kind = lambda node: isinstance(node, kind)
    return list(filter(is_kind, jax.tree.leaves(tree, is_leaf=is_kind)))


def is_label(leaf: Any) -> bool:
    """Returns whether an array is a label (a length, a symbol) and not a coordinate of a vector."""
    return not jnp.issubdtype(jnp.result_type(leaf), jnp.inexact)


def dot(a: PyTree, b: PyTree) -> Scalar:
    """Returns ⟨a, b⟩ = Σ aᵢ bᵢ over all leaves, except labels, of two pytrees of one structure."""
    products = jax.tree.map(lambda a, b: None if is_label(b) else vdot(a, b), a, b)
    return jax.tree.reduce(jnp.add, products)


def add(a: PyTree, b: PyTree) -> PyTree:
    return jax.tree.map(jnp.add, a, b)


def subtract(a: PyTree, b: PyTree) -> PyTree:
    """Returns a − b; labels are unchanged."""
    return jax.tree.map(lambda a, b: a if is_label(a) else a - b, a, b)


def zeros_like(a: PyTree) -> PyTree:
    """Returns zeros; labels are unchanged."""
    return jax.tree.map(lambda a: a if is_label(a) else jnp.zeros_like(a), a)


def num_rows(x: PyTree) -> Any:
    """Returns the length of the leading axis that all leaves share; a symbol, in an export for any length."""
    leaves = jax.tree.leaves(x)
    lengths = {jnp.shape(leaf)[:1] for leaf in leaves}
    if not leaves:
        raise ValueError(
            f"Batch: got {x!r}; expected data, a pytree of arrays with one leading axis. For a scan over the same "
            "data, close over them: jax.lax.scan(lambda state, _: update(state, x), state, None, length=3)."
        )
    if len(lengths) != 1 or lengths == {()}:
        raise ValueError(
            f"Batch: got leaves of shapes {list(map(jnp.shape, leaves))}; expected a pytree whose leaves share "
            "one leading axis, the rows of the data."
        )
    ((length,),) = lengths
    return length


def where(condition: Any, a: PyTree, b: PyTree) -> PyTree:
    """Returns `a` where the condition holds, else `b`, for each leaf (random keys too)."""
    return jax.tree.map(lambda x, y: jax.lax.select(condition, x, y), a, b)


@jax.custom_batching.custom_vmap
def in_every_lane(condition: Array) -> Array:
    """Returns the condition; under `vmap`, whether it holds in all lanes, as one value for all.

    A `cond` on a batched condition runs both branches. On this one it runs one of them.
    """
    return condition


@in_every_lane.def_vmap
def _(axis_size, batched, condition):
    return jnp.all(condition), False
