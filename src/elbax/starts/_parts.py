"""Random parts of the rows, for components that start with the spread of their own part."""

import jax
import jax.numpy as jnp

from .._types import Array, Float, Int, Key
from ._rows import nearest, scaled


def random_parts(
    key: Key,
    table: Float[Array, "num_data features"],
    weight: Float[Array, " num_data"],
    num_components: int,
) -> Int[Array, " num_data"]:
    """Returns random parts: unions of the cells of rows nearest to 2 K random rows.

    Each component takes one cell, and each of the other K goes to a random component. So parts differ in size and
    need not be convex: one may be a single cluster and another all the rest. Equal rows are in one part.
    """
    rows = scaled(table, weight)
    count = len(weight)
    number = min(2 * num_components, count)
    levels = jax.random.uniform(key, (count + number - num_components,), table.dtype)
    # Weighted sampling of rows without replacement (Efraimidis and Spirakis 2006).
    chosen = jax.lax.top_k(jnp.log(levels[:count]) / rows.share, number)[1]
    others = (levels[count:] * num_components).astype(chosen.dtype)
    owner = jnp.concatenate([jnp.arange(num_components, dtype=chosen.dtype), others])
    return owner[nearest(rows, rows.x[chosen])]
