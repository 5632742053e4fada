"""Triangular roots of small matrices by orthogonal transformations, also singular ones."""

import jax
import jax.numpy as jnp

from .._types import Array
from .algebra import apply, diagonal, product
from .linear_algebra import invert_triangle


def triangularize(matrix: Array, number: int) -> tuple[Array, Array]:
    r"""Returns (M Θ, Θ) with Θ orthogonal, the first `number` rows of M Θ lower triangular with diagonal ≥ 0.

    Each row is reflected onto its diagonal entry (Householder 1958). A column changes in proportion to its own
    entry in that row, so small columns keep their digits: in [S, L] with L much smaller than S, the columns of L
    are not lost to rounding. A row of zeros is unchanged.
    """
    height, width = matrix.shape
    # The same operations on the identity below M turn it into Θ.
    both = jnp.concatenate([matrix, jnp.eye(width, dtype=matrix.dtype)])
    step = lambda both, i: (_onto_diagonal(both, i), None)
    both, _ = jax.lax.scan(step, both, jnp.arange(number))
    return both[:height], both[height:]


def _onto_diagonal(matrix, i):
    """Returns M reflected so that row i is zero after its diagonal entry, and that entry is not negative."""
    column = jnp.arange(matrix.shape[1])
    row = jnp.where(column >= i, matrix[i], 0)
    head, square = matrix[i, i], jnp.sum(row**2)
    found = square > 0
    length = jnp.sqrt(jnp.where(found, square, 1))
    sign = jnp.where(head < 0, -1, 1).astype(matrix.dtype)
    reach = jnp.abs(head) + length
    vector = jnp.where(column == i, sign * reach, row) / jnp.sqrt(reach * length)
    vector = jnp.where(found, vector, 0)
    matrix = matrix - apply(matrix, vector)[:, None] * vector
    return jnp.where(column == i, jnp.where(found, -sign, 1), 1) * matrix


def invert_noise(root: Array) -> Array:
    """Returns X with X L the identity on the directions of L that have noise, and 0 on the others.

    L is lower triangular, over any leading axes. A direction without noise has a column of zeros.
    """
    idle = without_noise(root)[..., None]
    eye = jnp.eye(root.shape[-1], dtype=root.dtype)
    return jnp.where(idle, 0, invert_triangle(jnp.where(idle, eye, root)))


def without_noise(root: Array) -> Array:
    """Returns which directions have no noise."""
    return diagonal(root) == 0


@jax.jit
def semidefinite_root(matrix: Array) -> tuple[Array, Array]:
    """Returns (L with L Lᵀ = A, the error of that in units of rounding) of a positive semidefinite matrix.

    L is computed by columns. If the columns before explain a variance up to rounding, its column is 0.
    """
    matrix = 0.5 * (matrix + matrix.T)
    dim = matrix.shape[0]
    variances = diagonal(matrix)
    rounding = 8 * dim * jnp.finfo(matrix.dtype).eps
    place = jnp.arange(dim)

    def step(root, j):
        column = matrix[:, j] - apply(root, root[j])
        found = column[j] > rounding * variances[j]
        pivot = jnp.sqrt(jnp.where(found, column[j], 1))
        column = jnp.where(found & (place >= j), column / pivot, 0)
        return root.at[:, j].set(column), None

    root, _ = jax.lax.scan(step, jnp.zeros_like(matrix), place)
    size = jnp.sqrt(jnp.abs(variances))
    allowed = 4 * rounding * size[:, None] * size
    gap = jnp.abs(product(root, root.T) - matrix)
    return root, jnp.max(jnp.where(gap == 0, 0, gap / jnp.where(allowed > 0, allowed, 1e-300)))
