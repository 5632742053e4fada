"""Random parts of the rows, and components of which each begins with the spread of its own part."""

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
    """The rows nearest to each of 2 K random rows; each component takes one such cell, the K others fall to any.

    So parts differ in size and need not be convex: one may be a single cluster and another all the rest. Of rows
    that are equal one has them all.
    """
    rows = scaled(table, weight)
    count = len(weight)
    number = min(2 * num_components, count)
    levels = jax.random.uniform(key, (count + number - num_components,), table.dtype)
    # Rows by their weights, without replacement (Efraimidis and Spirakis 2006).
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
    """`params`, in which what each component has to itself is as if the rows outside its part hardly counted.

    They count as much as so many rows that no covariance is singular. One component after the other, so that no
    more memory is taken than for one.
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
