"""Missing numbers of a row, given those observed."""

import jax.numpy as jnp

from .._math.algebra import matmul
from .._math.linear_algebra import invert_triangle
from .._math.triangularize import triangularize
from .._types import Array, Bool, Float


def regression_on_observed(
    root: Float[Array, "D W"], observed: Bool[Array, " D"]
) -> tuple[Float[Array, "D D"], Float[Array, " D"], Float[Array, "D D"]]:
    """Returns (B, v, X) of x ~ N(μ, R Rᵀ), with R Rᵀ not singular.

    Given its observed columns, with offsets x − μ (0 where missing), x has the mean μ + B (x − μ) and the
    variances v, and |X (x − μ)|² is the squared Mahalanobis distance of the observed columns. With the observed
    rows first, R turned by an orthogonal matrix is lower triangular, L. Then X = L_oo⁻¹, B = L_mo L_oo⁻¹, and v
    are the sums of squares of the rows of L_mm, in which nothing cancels.
    """
    dim = len(root)
    order = jnp.argsort(~observed)
    missing = jnp.arange(dim) >= jnp.sum(observed)
    triangle = triangularize(root[order], dim)[0][:, :dim]
    hidden = missing[:, None] | missing
    known = jnp.where(hidden, jnp.eye(dim, dtype=root.dtype), triangle)
    solve = jnp.where(hidden, 0, invert_triangle(known))
    place = jnp.argsort(order)
    onto = matmul(triangle, solve)[place][:, place]
    variances = jnp.sum(jnp.where(missing, triangle, 0) ** 2, -1)[place]
    return onto, variances, solve[:, place]


def moments_of_mixture(
    weights: Float[Array, " K"], means: Float[Array, "K D"], variances: Float[Array, "K D"]
) -> tuple[Float[Array, " D"], Float[Array, " D"]]:
    """Returns mean and variance of each column; a component without weight may have no variance."""
    mean = matmul(weights, means)
    spread = jnp.where(weights[:, None] > 0, variances + (means - mean) ** 2, 0)
    return mean, jnp.sum(weights[:, None] * spread, 0)


def filled(
    values: Array, observed: Bool[Array, " D"], mean: Array, variance: Array
) -> tuple[Array, Array]:
    """Returns (the values, with the mean where missing; deviations, 0 where observed)."""
    completed = jnp.where(observed, values.astype(mean.dtype), mean)
    return completed, jnp.where(observed, 0, jnp.sqrt(variance))
