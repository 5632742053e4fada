"""Parts of equal weight along the data's first principal component."""

import jax
import jax.numpy as jnp

from .._math.algebra import matmul
from .._types import Array, Float, Int, Key
from ._rows import scaled


_NUM_ROUNDS = 50


def quantiles(
    key: Key,
    table: Float[Array, "num_data features"],
    weight: Float[Array, " num_data"],
    num_components: int,
) -> Int[Array, " num_data"]:
    """Cuts the rows at the quantiles of their first principal component; equal rows stay together.

    The key draws the start of the power method, which does not matter if the component is unique.
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
