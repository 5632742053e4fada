"""Expectations over several independent blocks."""

import jax
import jax.numpy as jnp

from .._types import Any, Array, Callable, PyTree


def average(function: Callable[[dict[str, Any]], Array], nodes: dict[str, PyTree]) -> Array:
    """Returns the mean of function(values) over all combinations of the blocks' nodes, of equal weight.

    If the function is in the span of each block's family, given the others, it is a sum of products of statistics,
    one of each block. The nodes of a block have the mean statistics of its q, so the result is E_q exactly. All
    entries of a plate take their nodes together: they must not multiply each other.
    """
    if not nodes:
        return function({})
    (name, points), *rest = nodes.items()

    def inner(point):
        return average(lambda values: function(values | {name: point}), dict(rest))

    if jax.tree.leaves(points)[0].shape[0] == 1:
        return inner(jax.tree.map(lambda leaf: leaf[0], points))
    return jnp.mean(jax.vmap(inner)(points))
