"""Where mixtures start: k-means++ and a few rounds of k-means, on the device."""

import jax
import jax.numpy as jnp

from .._types import Array, Float, Int, Key


def k_means(
    key: Key,
    x: Float[Array, "num_data dim"],
    weight: Float[Array, " num_data"],
    num_clusters: int,
    num_rounds: int = 10,
) -> Int[Array, " num_data"]:
    """The cluster of each row, found in units of the columns' standard deviations.

    The first centers are drawn by k-means++ (Arthur and Vassilvitskii 2007): each from the data,
    with probability in proportion to weight times squared distance from the nearest center before.
    It takes memory for one number a row and cluster in blocks, not for all at once.
    """
    share = weight / jnp.sum(weight)
    center = jnp.einsum("n,nd->d", share, x)
    deviation = jnp.sqrt(jnp.einsum("n,nd->d", share, (x - center) ** 2))
    x = (x - center) / jnp.where(deviation > 0, deviation, 1)
    log_weight = jnp.log(weight)
    first, *rest = jax.random.split(key, num_clusters)

    centers = jnp.zeros((num_clusters, x.shape[1]), x.dtype)
    centers = centers.at[0].set(x[jax.random.categorical(first, log_weight)])
    nearest = jnp.sum((x - centers[0]) ** 2, -1)

    def draw(carry, step):
        centers, nearest = carry
        k, key = step
        # Where every row already is a center (fewer distinct rows than clusters) any row will do.
        logits = jnp.where(jnp.max(nearest) > 0, jnp.log(nearest), 0) + log_weight
        fresh = x[jax.random.categorical(key, logits)]
        nearest = jnp.minimum(nearest, jnp.sum((x - fresh) ** 2, -1))
        return (centers.at[k].set(fresh), nearest), None

    if num_clusters > 1:
        steps = (jnp.arange(1, num_clusters), jnp.stack(rest))
        (centers, _), _ = jax.lax.scan(draw, (centers, nearest), steps)

    def assign(centers):
        def one(row):
            return jnp.argmin(jnp.sum((row - centers) ** 2, -1))

        return jax.lax.map(one, x, batch_size=min(x.shape[0], 1 << 16))

    def improve(centers, _):
        assignment = assign(centers)
        mass = jax.ops.segment_sum(share, assignment, num_clusters)
        total = jax.ops.segment_sum(share[:, None] * x, assignment, num_clusters)
        moved = total / jnp.where(mass > 0, mass, 1)[:, None]
        return jnp.where(mass[:, None] > 0, moved, centers), None

    centers, _ = jax.lax.scan(improve, centers, length=num_rounds)
    return assign(centers)
