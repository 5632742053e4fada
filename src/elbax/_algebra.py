"""Small algebra on arrays and pytrees, at full float32 precision on every device."""

import functools

import jax
import jax.numpy as jnp

from ._types import Any, Array, PyTree, Scalar


# Accelerators multiply float32 matrices in fewer bits unless told otherwise, which quadratic
# forms and sufficient statistics do not survive: they are differences of large numbers.
matmul = functools.partial(jnp.matmul, precision=jax.lax.Precision.HIGHEST)
vdot = functools.partial(jnp.vdot, precision=jax.lax.Precision.HIGHEST)

_SMALL = 8


def product(a: Array, b: Array) -> Array:
    """A B of small matrices, of which there are many: as one loop, since a call for each would cost more."""
    if max(a.shape[-2:] + b.shape[-2:]) > _SMALL:
        return matmul(a, b)
    terms = (a[..., :, j, None] * b[..., None, j, :] for j in range(a.shape[-1]))
    return functools.reduce(jnp.add, terms)


def matvec(matrix: Array, vector: Array) -> Array:
    """A v by `matmul`: as a sum of products XLA would compute it again at every use."""
    return matmul(matrix, vector[..., None])[..., 0]


def apply(matrix: Array, vector: Array) -> Array:
    """A v, likewise."""
    if matrix.shape[-1] > _SMALL:
        return matvec(matrix, vector)
    terms = (matrix[..., :, j] * vector[..., j, None] for j in range(matrix.shape[-1]))
    return functools.reduce(jnp.add, terms)


def log(x: Array) -> Array:
    """log x of numbers that may be 0, there the logarithm of the smallest positive one."""
    return jnp.log(jnp.maximum(x, jnp.finfo(x.dtype).tiny))


def without_data(count: Array) -> Array:
    """Which of some expected counts are 0 but for underflow: 1e-19 of their sum in float32.

    Of so few, products with numbers of other sizes vanish one by one, and moments no longer fit together.
    """
    tiny = jnp.finfo(count.dtype).tiny
    return count <= jnp.maximum(tiny, tiny**0.5 * jnp.sum(count))


def nodes_of(kind: Any, tree: PyTree) -> list[Any]:
    """The nodes of a kind (a class, or several) in a pytree; of one within another the outer one."""
    is_kind = lambda node: isinstance(node, kind)
    return list(filter(is_kind, jax.tree.leaves(tree, is_leaf=is_kind)))


def is_label(leaf: Any) -> bool:
    """Whether an array says which (a length, a symbol) rather than how much: no coordinate of a vector."""
    return not jnp.issubdtype(jnp.result_type(leaf), jnp.inexact)


def dot(a: PyTree, b: PyTree) -> Scalar:
    """⟨a, b⟩ = Σ aᵢ bᵢ over all leaves of two pytrees of one structure that are no labels."""
    products = jax.tree.map(lambda a, b: None if is_label(b) else vdot(a, b), a, b)
    return jax.tree.reduce(jnp.add, products)


def add(a: PyTree, b: PyTree) -> PyTree:
    return jax.tree.map(jnp.add, a, b)


def subtract(a: PyTree, b: PyTree) -> PyTree:
    """a − b; labels stay."""
    return jax.tree.map(lambda a, b: a if is_label(a) else a - b, a, b)


def zeros_like(a: PyTree) -> PyTree:
    """Zeros; labels stay."""
    return jax.tree.map(lambda a: a if is_label(a) else jnp.zeros_like(a), a)


def num_rows(x: PyTree) -> Any:
    """The length of the leading axis that all leaves of a batch share; a symbol, in an export for any length."""
    lengths = {jnp.shape(leaf)[:1] for leaf in jax.tree.leaves(x)}
    if len(lengths) != 1 or lengths == {()}:
        raise ValueError(
            "A batch is a pytree whose leaves share one leading axis, the data; got leaves of "
            f"shapes {[jnp.shape(leaf) for leaf in jax.tree.leaves(x)]}."
        )
    ((length,),) = lengths
    return length


def where(condition: Any, a: PyTree, b: PyTree) -> PyTree:
    """`a` where the condition holds, else `b`, leaf by leaf (random keys too)."""
    return jax.tree.map(lambda x, y: jax.lax.select(condition, x, y), a, b)


@jax.custom_batching.custom_vmap
def in_every_lane(condition: Array) -> Array:
    """The condition; under `vmap` whether it holds in all lanes, one answer for all.

    A `cond` on a batched condition runs both branches; on this one it stays a choice.
    """
    return condition


@in_every_lane.def_vmap
def _(axis_size, batched, condition):
    return jnp.all(condition), False
