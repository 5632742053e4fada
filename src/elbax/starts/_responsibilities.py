"""Every row shared among the components at random."""

import jax
import jax.numpy as jnp

from .._types import Array, Float, Key


def random(
    key: Key,
    table: Float[Array, "num_data features"],
    weight: Float[Array, " num_data"],
    num_components: int,
) -> Float[Array, "num_data num_components"]:
    """Responsibilities drawn uniformly and brought to sum 1: components that all begin near the whole.

    scikit-learn's `init_params="random"`. `random_from_data` finds more.
    """
    drawn = jax.random.uniform(key, (len(table), num_components), table.dtype, 1e-3)
    return drawn / jnp.sum(drawn, -1, keepdims=True)
