"""Means of the parts of a partition, and the covariance within parts."""

import jax
import jax.numpy as jnp

from .._math.algebra import matmul
from .._types import Array, Float, Int


def part_means(
    x: Float[Array, "num_data dim"],
    seen: Float[Array, "num_data dim"],
    weight: Float[Array, " num_data"],
    assignment: Int[Array, " num_data"],
    num_components: int,
    pseudo_count: float = 0.0,
) -> tuple[Array, Array, Array]:
    """Returns (part means (K, dim), x less the mean of its part or 0 where not seen, the whole mean (dim,)).

    A row with index −1 is in no part and is taken about the whole mean. A part in which a column is never seen
    takes the whole mean there. `pseudo_count` adds that many rows at the whole mean to every part.
    """
    share = weight / jnp.sum(weight)
    total = matmul(share, seen)
    center = matmul(share, seen * x) / jnp.where(total > 0, total, 1)
    mass = jax.ops.segment_sum(share[:, None] * seen, assignment, num_components)
    offset = jax.ops.segment_sum(share[:, None] * seen * (x - center), assignment, num_components)
    count = mass + pseudo_count / x.shape[0]
    mean = center + offset / jnp.where(count > 0, count, 1)
    # A row in no part, with index -1, is taken about the whole mean.
    about = jnp.concatenate([mean, center[None]])[assignment]
    return mean, seen * (x - about), center


def pooled_covariance(
    residual: Float[Array, "num_data dim"],
    seen: Float[Array, "num_data dim"],
    weight: Float[Array, " num_data"],
) -> tuple[Float[Array, "dim dim"], Float[Array, " dim"]]:
    """Returns (Σ wᵢ rᵢ rᵢᵀ / Σ w for residuals that are 0 where not seen, the variances of what is seen).

    These variances replace the matrix's diagonal, which keeps it positive semidefinite.
    """
    share = weight / jnp.sum(weight)
    within = matmul((share[:, None] * residual).T, residual)
    total = matmul(share, seen)
    variance = jnp.diagonal(within) / jnp.where(total > 0, total, 1)
    return within + jnp.diag(variance - jnp.diagonal(within)), variance
