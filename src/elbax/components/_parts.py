"""Means of the parts of a partition, and the covariance within them."""

import jax
import jax.numpy as jnp

from .._algebra import matmul
from .._types import Array, Float, Int


def part_means(
    x: Float[Array, "num_data dim"],
    seen: Float[Array, "num_data dim"],
    weight: Float[Array, " num_data"],
    assignment: Int[Array, " num_data"],
    num_components: int,
    pseudo_count: float = 0.0,
) -> tuple[Array, Array, Array]:
    """(each part's mean (K, dim), x − the mean of its part or 0 where not seen, the whole mean (dim,)).

    A row of index −1 is in no part, and about the whole mean.

    A part in which a column is never seen takes the whole mean there; so does every part, as if it
    had seen `pseudo_count` rows there.
    """
    share = weight / jnp.sum(weight)
    total = matmul(share, seen)
    center = matmul(share, seen * x) / jnp.where(total > 0, total, 1)
    mass = jax.ops.segment_sum(share[:, None] * seen, assignment, num_components)
    offset = jax.ops.segment_sum(share[:, None] * seen * (x - center), assignment, num_components)
    count = mass + pseudo_count / x.shape[0]
    mean = center + offset / jnp.where(count > 0, count, 1)
    # A row in no part, of index -1, is taken about the whole mean.
    about = jnp.concatenate([mean, center[None]])[assignment]
    return mean, seen * (x - about), center


def pooled_covariance(
    residual: Float[Array, "num_data dim"],
    seen: Float[Array, "num_data dim"],
    weight: Float[Array, " num_data"],
) -> tuple[Float[Array, "dim dim"], Float[Array, " dim"]]:
    """(Σ wᵢ rᵢ rᵢᵀ / Σ w of residuals that are 0 where not seen, the variances of what is seen).

    The matrix has those variances on its diagonal, which leaves it positive semidefinite.
    """
    share = weight / jnp.sum(weight)
    within = matmul((share[:, None] * residual).T, residual)
    total = matmul(share, seen)
    variance = jnp.diagonal(within) / jnp.where(total > 0, total, 1)
    return within + jnp.diag(variance - jnp.diagonal(within)), variance
