"""Which params an update claims: the rest it leaves as they are, to the bit."""

import equinox as eqx
import jax
import jax.numpy as jnp

from ._algebra import log
from ._types import Any, Array, PyTree


def spread(free: PyTree, params: PyTree, name: str = "free") -> PyTree:
    """One bool (or mask that broadcasts) for each leaf of `params`, from a prefix of that tree.

    **Raises** `ValueError` for a tree that is no prefix, or a leaf that is no truth value.
    """

    def one(flag, below):
        if not (isinstance(flag, bool) or getattr(flag, "dtype", None) == jnp.dtype(bool)):
            raise ValueError(
                f"{name}: expected True, False or an array of them for each block, got {flag!r}."
            )
        if not isinstance(flag, bool):
            for leaf in jax.tree.leaves(below):
                _check_broadcast(flag, leaf, name)
        return jax.tree.map(lambda _: flag, below)

    try:
        return jax.tree.map(one, free, params)
    except ValueError as error:
        if str(error).startswith(f"{name}:"):
            raise
        raise ValueError(
            f"{name}: expected one True or False for each block, such as "
            f"{jax.tree.map(lambda _: True, params)!r} or a tree that ends earlier; got {free!r}."
        ) from None


def _check_broadcast(mask: Array, leaf: Array, name: str) -> None:
    try:
        fits = jnp.broadcast_shapes(mask.shape, leaf.shape) == leaf.shape
    except ValueError:
        fits = False
    if not fits:
        raise ValueError(
            f"{name}: a mask of shape {mask.shape} does not broadcast to the params' {leaf.shape}."
        )


def is_frozen(free: PyTree) -> bool:
    """Whether nothing below may move."""
    return not any(flag is not False for flag in jax.tree.leaves(free))


def moving(free: PyTree, params: PyTree) -> PyTree:
    """The inexact arrays that may move; `None` stands for all others."""
    kept = jax.tree.map(lambda flag, leaf: None if flag is False else leaf, free, params)
    return eqx.filter(kept, eqx.is_inexact_array)


def choose(free: PyTree, moved: PyTree, params: PyTree) -> PyTree:
    """`moved` where free, else `params`."""

    def one(flag, new, old):
        if isinstance(flag, bool):
            return new if flag else old
        return jnp.where(flag, new, old)

    return jax.tree.map(one, free, moved, params)


def log_shares(count: Array, logits: Array, free: Any) -> Array:
    """Logits of shares, along the last axis, in proportion to the counts.

    Frozen ones keep theirs, and the others share what is left. A count of 0 has the smallest share that
    its dtype holds.
    """
    shares = log(count)
    if isinstance(free, bool):
        return jax.nn.log_softmax(shares)
    moving = jnp.broadcast_to(free, logits.shape)
    left = jax.nn.logsumexp(jnp.where(moving, logits, -jnp.inf), -1, keepdims=True)
    moved = jax.nn.log_softmax(jnp.where(moving, shares, -jnp.inf)) + left
    return jnp.where(moving, moved, logits)
