"""k-means++ and a few rounds of k-means, on the device."""

import jax
import jax.numpy as jnp

from .._math.algebra import matmul
from .._types import Array, Float, Int, Key
from ._rows import draw, nearest, Rows, scaled


_BLOCK = 1 << 14


def k_means(
    key: Key,
    table: Float[Array, "num_data features"],
    weight: Float[Array, " num_data"],
    num_components: int,
    num_rounds: int = 10,
) -> Int[Array, " num_data"]:
    """Returns the cluster of each row, by k-means from k-means++, in units of the columns' standard deviations.

    NaN is missing: distances use the columns that a row has, and centers are means of observed values. Distances
    are computed as matrix products over blocks of rows.
    """
    rows = scaled(table, weight)
    # A center drawn from an incomplete row has the column's mean where nothing is observed.
    centers = rows.x[draw(key, rows, num_components, 1.0)]
    blocks = _in_blocks(rows)

    def improve(centers, _):
        def add(sums, rows):
            member = jax.nn.one_hot(nearest(rows, centers), num_components, dtype=centers.dtype)
            member = (member * rows.share[:, None]).T
            mass, total = sums
            return (mass + matmul(member, rows.seen), total + matmul(member, rows.x)), None

        zeros = jnp.zeros_like(centers)
        (mass, total), _ = jax.lax.scan(add, (zeros, zeros), blocks)
        moved = total / jnp.where(mass > 0, mass, 1)
        return jnp.where(mass > 0, moved, centers), None

    centers, _ = jax.lax.scan(improve, centers, length=num_rounds)
    assignment = jax.lax.map(lambda rows: nearest(rows, centers), blocks)
    return assignment.reshape(-1)[: len(weight)]


def _in_blocks(rows: Rows) -> Rows:
    """Adds a leading axis of blocks; padding rows of the last block have share 0."""
    count = -(-len(rows.share) // _BLOCK)
    size = -(-len(rows.share) // count)
    missing = count * size - len(rows.share)

    def block(leaf):
        padding = [(0, missing)] + [(0, 0)] * (leaf.ndim - 1)
        return jnp.pad(leaf, padding).reshape((count, size, *leaf.shape[1:]))

    return jax.tree.map(block, rows)
