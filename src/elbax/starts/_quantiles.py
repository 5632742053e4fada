"""Parts of equal weight along the data's longest direction."""

import jax
import jax.numpy as jnp

from .._algebra import matmul
from .._types import Array, Float, Int, Key
from ._rows import scaled


_NUM_ROUNDS = 50


def quantiles(
    key: Key,
    table: Float[Array, "num_data features"],
    weight: Float[Array, " num_data"],
    num_components: int,
) -> Int[Array, " num_data"]:
    """Rows in the order of their first principal component, cut at its quantiles; equal rows stay together.

    The key draws where the power method for the component begins, which does not matter where it is unique.
    """
    rows = scaled(table, weight)
    width = rows.x.shape[1]
    correlation = matmul((rows.share[:, None] * rows.x).T, rows.x)

    def turn(direction, _):
        turned = matmul(correlation, direction)
        length = jnp.linalg.norm(turned)
        return jnp.where(length > 0, turned / jnp.where(length > 0, length, 1), direction), None

    begin = jax.random.normal(key, (width,), rows.x.dtype)
    direction, _ = jax.lax.scan(turn, begin, length=_NUM_ROUNDS)
    place = matmul(rows.x, direction)
    order = jnp.argsort(place)
    below = jnp.cumsum(rows.share[order])
    levels = jnp.arange(1, num_components, dtype=place.dtype) / num_components
    cuts = place[order][jnp.searchsorted(below, levels * below[-1])]
    return jnp.searchsorted(cuts, place)
