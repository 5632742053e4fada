r"""Factorizations of small matrices as plain array operations, over any leading axes.

XLA's CPU backend calls LAPACK for each of these, once for a whole batch. Such a call splits its batch over the
thread pool in which it runs, so two calls at a time can deadlock on two cores. The functions here are loops over
columns or rows instead, vectorized over the batch. Up to about 64 columns they take about as long as LAPACK. Every
function reads a symmetric matrix as ½ (A + Aᵀ), so that gradients are symmetric.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from .._types import Array, Float
from .algebra import diagonal, matmul


_UNROLLED = 4
# Outside of `jit`, a loop whose body is a closure would be compiled at every call.
_compiled = functools.partial(jax.jit, inline=True)
_dot = functools.partial(jnp.einsum, precision=jax.lax.Precision.HIGHEST)


@jax.custom_jvp
@_compiled
def cholesky(matrix: Float[Array, "*batch D D"]) -> Float[Array, "*batch D D"]:
    """Returns the lower triangular L with L Lᵀ = A; NaN from the first pivot on that is not positive.

    Each column follows from those before it: L[:, j] = (A[:, j] − L L[j, :]ᵀ) / pivot.
    """
    matrix = _symmetric(matrix)
    dim = matrix.shape[-1]
    rows = np.arange(dim)

    def column(j, factor):
        row, left = _take(factor, j, -2), _take(matrix, j, -1)
        left = left - _dot("...ik,...k->...i", factor, row)
        pivot = jnp.sqrt(_take(left, j, -1, keepdims=True))
        # A pivot of 0 gives 0 / 0 = NaN below it, like a negative one.
        left = jnp.where(rows >= j, left / pivot, 0)
        return _put(factor, left, j, -1)

    return _loop(dim, column, jnp.zeros_like(matrix))


@cholesky.defjvp
def _(primals, tangents):
    # L⁻¹ dA L⁻ᵀ = L⁻¹ dL + (L⁻¹ dL)ᵀ, where the first summand is lower triangular.
    factor = cholesky(*primals)
    inverse = invert_triangle(factor)
    change = matmul(inverse, matmul(_symmetric(*tangents), inverse.mT))
    return factor, matmul(factor, _half(change))


@jax.custom_jvp
@_compiled
def invert_triangle(factor: Float[Array, "*batch D D"]) -> Float[Array, "*batch D D"]:
    """Returns X = L⁻¹ of a lower triangle, by forward substitution: X[j, :] = (I[j, :] − L[j, :] X) / L[j, j]."""
    dim = factor.shape[-1]
    identity = jnp.asarray(np.eye(dim), factor.dtype)

    def row(j, inverse):
        below = _take(factor, j, -2)
        pivot = _take(below, j, -1, keepdims=True)
        right = _take(identity, j, 0)
        new = (right - _dot("...k,...kd->...d", below, inverse)) / pivot
        return _put(inverse, new, j, -2)

    return _loop(dim, row, jnp.zeros_like(factor))


@invert_triangle.defjvp
def _(primals, tangents):
    inverse = invert_triangle(*primals)
    return inverse, -matmul(inverse, matmul(jnp.tril(*tangents), inverse))


@jax.custom_jvp
@_compiled
def root_of_inverse(matrix: Float[Array, "*batch D D"]) -> Float[Array, "*batch D D"]:
    """Returns the lower triangular L with L Lᵀ = A⁻¹: the inverse of the Cholesky factor of the reversed A."""
    return _reversed(invert_triangle(cholesky(_reversed(matrix)))).mT


@root_of_inverse.defjvp
def _(primals, tangents):
    # L⁻¹ d(A⁻¹) L⁻ᵀ = − Lᵀ dA L = L⁻¹ dL + (L⁻¹ dL)ᵀ.
    root = root_of_inverse(*primals)
    return root, -matmul(root, _half(matmul(root.mT, matmul(_symmetric(*tangents), root))))


@_compiled
def invert_positive(matrix: Float[Array, "*batch D D"]) -> Float[Array, "*batch D D"]:
    """Returns A⁻¹ of a positive definite matrix."""
    inverse = invert_triangle(cholesky(matrix))
    return matmul(inverse.mT, inverse)


@_compiled
def solve_positive(
    matrix: Float[Array, "*batch D D"], right: Float[Array, "*batch D"]
) -> Float[Array, "*batch D"]:
    """Returns A⁻¹ b of a positive definite matrix and a vector."""
    inverse = invert_triangle(cholesky(matrix))
    half = _dot("...ij,...j->...i", inverse, right)
    return _dot("...ji,...j->...i", inverse, half)


@jax.custom_jvp
@_compiled
def eigh(
    matrix: Float[Array, "*batch D D"],
) -> tuple[Float[Array, "*batch D"], Float[Array, "*batch D D"]]:
    """Returns (ascending eigenvalues, eigenvectors in columns) of a symmetric matrix, by Jacobi rotations.

    A round rotates D / 2 disjoint pairs of coordinates at once. In D − 1 rounds, a tournament, every pair is
    rotated once (Brent and Luk 1985). Small eigenvalues of a positive definite matrix are relatively accurate
    (Demmel and Veselić 1992). For a matrix with NaN, all results are NaN.
    """
    matrix = _symmetric(matrix)
    dim, dtype = matrix.shape[-1], matrix.dtype
    if dim == 1:
        return matrix[..., 0], jnp.ones_like(matrix)
    # For odd D one coordinate is added, which is coupled to none: the bye of the tournament.
    half = (dim + 1) // 2
    size = 2 * half
    extra = [(0, 0)] * (matrix.ndim - 2) + [(0, size - dim)] * 2
    order = _next_round(half)
    eps = jnp.finfo(dtype).eps
    identity = jnp.broadcast_to(jnp.eye(size, dtype=dtype), (*matrix.shape[:-2], size, size))

    def rotate(_, carry):
        form, vectors = carry
        values = diagonal(form)
        a, b = values[..., :half], values[..., half:]
        c = diagonal(form[..., :half, half:])
        # The tangent of the smaller angle that diagonalizes the pair (Golub and Van Loan, section 8.5).
        coupled = c != 0
        ratio = (b - a) / jnp.where(coupled, 2 * c, 1)
        tangent = jnp.where(ratio < 0, -1, 1) / (jnp.abs(ratio) + jnp.hypot(1, ratio))
        tangent = jnp.where(coupled, tangent, 0).astype(dtype)
        cosine = jax.lax.rsqrt(1 + tangent**2)
        sine = tangent * cosine

        def columns(m):
            first, second = m[..., :half], m[..., half:]
            cos, sin = cosine[..., None, :], sine[..., None, :]
            return jnp.concatenate([cos * first - sin * second, sin * first + cos * second], -1)

        form = columns(columns(form).mT)[..., order, :][..., order]
        return form, columns(vectors)[..., order]

    def off_diagonal(form):
        return jnp.sum((form - _diagonal_matrix(form)) ** 2, (-2, -1))

    def unfinished(carry):
        form, _, sweep = carry
        scale = jnp.sum(form**2, (-2, -1))
        return jnp.any(off_diagonal(form) > eps**2 * scale) & (sweep < _MOST_SWEEPS)

    def sweep(carry):
        form, vectors, count = carry
        form, vectors = jax.lax.fori_loop(0, size - 1, rotate, (form, vectors))
        return form, vectors, count + 1

    start = (jnp.pad(matrix, extra), identity, 0)
    form, vectors, _ = jax.lax.while_loop(unfinished, sweep, start)
    # After size − 1 rounds all coordinates are in their original order.
    values = diagonal(form)[..., :dim]
    vectors = vectors[..., :dim, :dim]
    ascending = jnp.argsort(values, -1)
    values = jnp.take_along_axis(values, ascending, -1)
    vectors = jnp.take_along_axis(vectors, ascending[..., None, :], -1)
    broken = jnp.isnan(jnp.sum(matrix, (-2, -1)))
    return (
        jnp.where(broken[..., None], jnp.nan, values),
        jnp.where(broken[..., None, None], jnp.nan, vectors),
    )


_MOST_SWEEPS = 16


@eigh.defjvp
def _(primals, tangents):
    # dλ = diag(Vᵀ dA V), and V⁻¹ dV is its off-diagonal over the gaps. Vectors of equal values have no derivative.
    values, vectors = eigh(*primals)
    change = matmul(vectors.mT, matmul(_symmetric(*tangents), vectors))
    gap = values[..., None, :] - values[..., :, None]
    turn = jnp.where(gap == 0, 0, change / jnp.where(gap == 0, 1, gap))
    return (values, vectors), (diagonal(change), matmul(vectors, turn))


def _symmetric(matrix):
    return 0.5 * (matrix + matrix.mT)


def _half(matrix):
    """Returns the lower triangle H of A = H + Hᵀ."""
    return matrix * (np.tri(matrix.shape[-1]) - 0.5 * np.eye(matrix.shape[-1])).astype(matrix.dtype)


def _reversed(matrix):
    return matrix[..., ::-1, ::-1]


def _diagonal_matrix(matrix):
    return matrix * jnp.eye(matrix.shape[-1], dtype=matrix.dtype)


def _loop(length, body, start):
    """Runs a loop on the device, unrolled if it is short."""
    if length > _UNROLLED:
        return jax.lax.fori_loop(0, length, body, start)
    for j in range(length):
        start = body(j, start)
    return start


def _take(array, j, axis, keepdims=False):
    """Returns row or column j, by one operation of XLA where j is a number, not by the six of any index."""
    take = jax.lax.index_in_dim if isinstance(j, int) else jax.lax.dynamic_index_in_dim
    return take(array, j, axis, keepdims)


def _put(array, new, j, axis):
    """Returns the array with row or column j replaced."""
    if isinstance(j, int):
        start = [0] * array.ndim
        start[axis] = j
        return jax.lax.dynamic_update_slice(array, jnp.expand_dims(new, axis), start)
    return jax.lax.dynamic_update_index_in_dim(array, new, j, axis)


def _next_round(half: int) -> np.ndarray:
    """Returns the order of coordinates in the next round of the tournament.

    Coordinate i < half is paired with coordinate half + i. The first one stays, and all others move on by one
    place.
    """
    around = [*range(1, half), *range(2 * half - 1, half - 1, -1)]
    order = np.arange(2 * half)
    order[around] = np.roll(around, 1)
    return order
