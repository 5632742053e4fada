"""Random parts of the rows, for components that start with the spread of their own part."""

from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp

from .._types import Array, Float, Int, Key, PyTree
from ._rows import nearest, scaled


if TYPE_CHECKING:
    from ._start import AbstractPartitioned


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


def with_own_spread(
    model: "AbstractPartitioned",
    x: PyTree,
    weight: Float[Array, " num_data"],
    parts: Int[Array, " num_data"],
    params: PyTree,
) -> PyTree:
    """Returns `params` with each component's own params fitted to its part; other rows have little weight.

    The other rows have just enough weight that no covariance is singular. Components are processed one after
    another, so that memory is that of one.
    """
    number, width = model.num_parts, model.start_table(x).shape[-1]
    share = weight / jnp.sum(weight)
    little = (width + 1) / jnp.sum((weight > 0).astype(weight.dtype)) + 0.01
    places = jnp.arange(number, dtype=parts.dtype)

    def one(params, component):
        inside = parts == component
        outside = jnp.sum(jnp.where(inside, 0, share))
        rate = jnp.minimum(1, little / jnp.where(outside > 0, outside, 1))
        labels = jnp.where(inside, parts, -1)
        fresh = model.from_parts(x, weight * jnp.where(inside, 1, rate), labels)
        return model.exchange_parts(places == component, fresh, params), None

    return jax.lax.scan(one, params, places)[0]
