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
    NaN is missing: distances are over the columns that a row has, centers the means of what is seen.
    It takes memory for one number a row and cluster in blocks, not for all at once.
    """
    share = weight / jnp.sum(weight)
    seen = ~jnp.isnan(x)
    x = jnp.where(seen, x, 0)
    seen = seen.astype(x.dtype)
    total = jnp.einsum("n,nd->d", share, seen)
    total = jnp.where(total > 0, total, 1)
    center = jnp.einsum("n,nd->d", share, seen * x) / total
    deviation = jnp.sqrt(jnp.einsum("n,nd->d", share, seen * (x - center) ** 2) / total)
    x = seen * (x - center) / jnp.where(deviation > 0, deviation, 1)
    log_weight = jnp.log(weight)
    first, *rest = jax.random.split(key, num_clusters)

    def distance(x, seen, center):
        return jnp.sum(seen * (x - center) ** 2, -1)

    # A center drawn from an incomplete row lies in the middle where nothing is known.
    centers = jnp.zeros((num_clusters, x.shape[1]), x.dtype)
    centers = centers.at[0].set(x[jax.random.categorical(first, log_weight)])
    nearest = distance(x, seen, centers[0])

    def draw(carry, step):
        centers, nearest = carry
        k, key = step
        # Where every row already is a center (fewer distinct rows than clusters) any row will do.
        logits = jnp.where(jnp.max(nearest) > 0, jnp.log(nearest), 0) + log_weight
        fresh = x[jax.random.categorical(key, logits)]
        nearest = jnp.minimum(nearest, distance(x, seen, fresh))
        return (centers.at[k].set(fresh), nearest), None

    if num_clusters > 1:
        steps = (jnp.arange(1, num_clusters), jnp.stack(rest))
        (centers, _), _ = jax.lax.scan(draw, (centers, nearest), steps)

    def assign(centers):
        def one(row):
            x, seen = row
            return jnp.argmin(distance(x, seen, centers))

        return jax.lax.map(one, (x, seen), batch_size=min(x.shape[0], 1 << 16))

    def improve(centers, _):
        assignment = assign(centers)
        mass = jax.ops.segment_sum(share[:, None] * seen, assignment, num_clusters)
        total = jax.ops.segment_sum(share[:, None] * x, assignment, num_clusters)
        moved = total / jnp.where(mass > 0, mass, 1)
        return jnp.where(mass > 0, moved, centers), None

    centers, _ = jax.lax.scan(improve, centers, length=num_rounds)
    return assign(centers)
