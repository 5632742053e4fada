"""Rows of the data drawn as centers, and the units in which distances are measured."""

import math

import equinox as eqx
import jax
import jax.numpy as jnp

from .._math.algebra import matmul
from .._types import Array, Float, Int, Key, Scalar


class Rows(eqx.Module):
    """A table in units of its columns' standard deviations, about their means; 0 where not observed."""

    x: Float[Array, "num_data features"]
    seen: Float[Array, "num_data features"]
    share: Float[Array, " num_data"]

    def distance(self, center: Float[Array, " features"]) -> Float[Array, " num_data"]:
        """Returns squared distances, over the columns that a row has."""
        return jnp.sum(self.seen * (self.x - center) ** 2, -1)


def scaled(table: Float[Array, "num_data features"], weight: Float[Array, " num_data"]) -> Rows:
    """Standardizes the columns; NaN is missing."""
    share = weight / jnp.sum(weight)
    seen = ~jnp.isnan(table)
    x = jnp.where(seen, table, 0)
    seen = seen.astype(x.dtype)
    total = matmul(share, seen)
    total = jnp.where(total > 0, total, 1)
    x = seen * (x - matmul(share, x) / total)
    # Divide first: powers of a column's largest number would overflow sooner than the column itself.
    largest = jnp.max(jnp.abs(x), 0)
    x = x / jnp.where(largest > 0, largest, 1)
    deviation = jnp.sqrt(matmul(share, x**2) / total)
    return Rows(x / jnp.where(deviation > 0, deviation, 1), seen, share)


def nearest(rows: Rows, centers: Float[Array, "num_centers features"]) -> Int[Array, " num_data"]:
    """Returns the argmin over centers of ‖x − c‖² over the observed columns, without the common term ‖x‖²."""
    distance = matmul(rows.seen, (centers**2).T) - 2 * matmul(rows.x, centers.T)
    return jnp.argmin(distance, -1)


def draw(key: Key, rows: Rows, number: int, power: float) -> Int[Array, " number"]:
    """Draws rows as centers, with probability ∝ weight · (squared distance from the nearest earlier center)^power.

    With power 0 rows are drawn by weight alone, with 1 as in k-means++ (Arthur and Vassilvitskii 2007). Centers
    are distinct as long as there are distinct rows.
    """
    levels = jax.random.uniform(key, (number, 2), rows.x.dtype)
    num_blocks = math.isqrt(len(rows.share) - 1) + 1

    def step(nearest, level):
        far = nearest > 0
        likely = rows.share * jnp.where(far, jnp.where(far, nearest, 1) ** power, 0)
        # If every row already is a center (fewer distinct rows than centers), any row will do.
        likely = jnp.where(jnp.max(likely) > 0, likely, rows.share)
        # Draw a block, then a row in it: two short cumulative sums instead of a long one.
        blocks = jnp.pad(likely, (0, num_blocks**2 - len(likely))).reshape(num_blocks, -1)
        block = _pick(jnp.sum(blocks, -1), level[0])
        chosen = block * num_blocks + _pick(blocks[block], level[1])
        return jnp.minimum(nearest, rows.distance(rows.x[chosen])), chosen

    everywhere = jnp.ones_like(rows.share)
    return jax.lax.scan(step, everywhere, levels)[1]


def _pick(likely: Float[Array, " n"], level: Scalar) -> Int[Array, ""]:
    """Returns the first place where the cumulative sum exceeds the share `level`, in [0, 1), of the total."""
    place = jnp.arange(len(likely))
    below = jnp.sum(jnp.where(place <= place[:, None], likely, 0), -1)
    return jnp.argmax(below > level * below[-1])


def random_from_data(
    key: Key,
    table: Float[Array, "num_data features"],
    weight: Float[Array, " num_data"],
    num_components: int,
) -> Int[Array, " num_data"]:
    """Takes distinct random rows as centers; the others are in no part, so shared params come from all data."""
    return _centers(scaled(table, weight), key, num_components, 0.0)


def k_means_plus_plus(
    key: Key,
    table: Float[Array, "num_data features"],
    weight: Float[Array, " num_data"],
    num_components: int,
) -> Int[Array, " num_data"]:
    """Takes distant rows as centers (Arthur and Vassilvitskii 2007); the others are in no part."""
    return _centers(scaled(table, weight), key, num_components, 1.0)


def _centers(rows: Rows, key: Key, number: int, power: float) -> Int[Array, " num_data"]:
    chosen = draw(key, rows, number, power)
    return jnp.full(rows.share.shape, -1).at[chosen].set(jnp.arange(number))
