"""What stands where there is no answer."""

import jax
import jax.numpy as jnp

from .._types import Any, Array, Float, Int, Key, PyTree


def where_defined(defined: Any, z: PyTree) -> PyTree:
    """z where it is `defined`; else NaN for numbers, −1 for labels, False for truth values.

    Inside of `jit` nothing can be raised: NaN in is NaN out, and of an integer −1 says the same.
    """

    def one(leaf):
        if leaf.dtype == bool:
            return leaf & defined
        nothing = jnp.nan if jnp.issubdtype(leaf.dtype, jnp.inexact) else -1
        return jnp.where(defined, leaf, jnp.asarray(nothing, leaf.dtype))

    return jax.tree.map(one, z)


def draw_label(key: Key, logits: Float[Array, "... K"]) -> Int[Array, "..."]:
    """A draw from the softmax of logits, −1 where they are NaN or allow nothing."""
    return where_defined(jnp.isfinite(jnp.max(logits, -1)), jax.random.categorical(key, logits))
