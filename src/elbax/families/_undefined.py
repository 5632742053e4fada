"""Values for undefined answers."""

import jax
import jax.numpy as jnp

from .._types import Any, Array, Float, Int, Key, PyTree


def where_defined(defined: Any, z: PyTree) -> PyTree:
    """Returns z where it is `defined`; elsewhere NaN for numbers, −1 for labels, False for booleans.

    Inside of `jit` nothing can be raised: NaN input gives NaN output, or −1 for integers.
    """

    def one(leaf):
        if leaf.dtype == bool:
            return leaf & defined
        nothing = jnp.nan if jnp.issubdtype(leaf.dtype, jnp.inexact) else -1
        return jnp.where(defined, leaf, jnp.asarray(nothing, leaf.dtype))

    return jax.tree.map(one, z)


def draw_label(key: Key, logits: Float[Array, "... K"]) -> Int[Array, "..."]:
    """Returns a draw from the softmax of logits, −1 where they are NaN or allow no value."""
    return where_defined(jnp.isfinite(jnp.max(logits, -1)), jax.random.categorical(key, logits))
