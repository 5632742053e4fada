"""Random responsibilities."""

import jax
import jax.numpy as jnp

from .._types import Array, Float, Key


def random(
    key: Key,
    table: Float[Array, "num_data features"],
    weight: Float[Array, " num_data"],
    num_components: int,
) -> Float[Array, "num_data num_components"]:
    """Returns uniform random responsibilities, normalized to sum to 1: all components start near the whole.

    It is scikit-learn's `init_params="random"`. `random_from_data` finds more optima.
    """
    drawn = jax.random.uniform(key, (len(table), num_components), table.dtype, 1e-3)
    return drawn / jnp.sum(drawn, -1, keepdims=True)
