"""Which params an update moves; the others are unchanged, bit for bit."""

import jax
import jax.numpy as jnp
from jax.core import Tracer

from ._math.algebra import log
from ._reference import is_reference, split_coordinates
from ._types import Any, AnyArray, Array, PyTree


def spread(free: PyTree, params: PyTree, name: str = "free") -> PyTree:
    """Returns one bool (or mask that broadcasts) for each leaf of `params`, from a prefix of that tree.

    A `Reference` is never free, and a dictionary of flags may leave it out.

    **Raises** `ValueError` for a tree that is not a prefix, a leaf that is not a boolean, or a mask that does not
    broadcast; `TypeError` for a single traced flag of an array of several numbers.
    """

    def one(flag, below):
        if not (isinstance(flag, bool) or getattr(flag, "dtype", None) == jnp.dtype(bool)):
            raise ValueError(
                f"{name}: expected True, False or a boolean array for each block, got {flag!r}."
            )
        return jax.tree.map(lambda node: over(flag, node), below, is_leaf=is_reference)

    def over(flag, node):
        if is_reference(node):
            return jax.tree.map(lambda _: False, node)
        if isinstance(flag, Tracer) and jnp.shape(flag) == () != jnp.shape(node):
            raise TypeError(
                f"{name}: got a traced flag, but the flags must be known while the step is traced. If the update "
                "is an argument of a jitted function, use equinox.filter_jit, which traces only arrays."
            )
        if not isinstance(flag, bool):
            _check_broadcast(flag, node, name)
        return flag

    try:
        return jax.tree.map(one, _with_references(free, params), params)
    except ValueError as error:
        if str(error).startswith(f"{name}:"):
            raise
        raise ValueError(
            f"{name}: expected True or False for each block, such as {jax.tree.map(lambda _: True, params)!r} or "
            f"a prefix of this tree; got {free!r}."
        ) from None


def _with_references(free: PyTree, params: PyTree) -> PyTree:
    """Returns `free` with `False` for every reference, which its dictionaries may leave out."""
    if not (isinstance(free, dict) and isinstance(params, dict)):
        return free
    found = {name: _with_references(flag, params.get(name)) for name, flag in free.items()}
    return found | {name: False for name, node in params.items() if is_reference(node)}


def _check_broadcast(mask: AnyArray, leaf: AnyArray, name: str) -> None:
    try:
        fits = jnp.broadcast_shapes(mask.shape, leaf.shape) == leaf.shape
    except ValueError:
        fits = False
    if not fits:
        raise ValueError(
            f"{name}: got a mask of shape {mask.shape}, which does not broadcast to the shape {leaf.shape} of "
            "the block."
        )


def is_frozen(free: PyTree) -> bool:
    """Returns whether no entry of a tree of flags may move."""
    return not any(flag is not False for flag in jax.tree.leaves(free))


def moving(free: PyTree, params: PyTree) -> PyTree:
    """Returns the inexact arrays that may move, with `None` in place of all others."""
    kept = jax.tree.map(lambda flag, leaf: None if flag is False else leaf, free, params)
    return split_coordinates(kept)[0]


def choose(free: PyTree, moved: PyTree, params: PyTree) -> PyTree:
    """Returns `moved` where free, else `params`."""

    def one(flag, new, old):
        if isinstance(flag, bool):
            return new if flag else old
        return jnp.where(flag, new, old)

    return jax.tree.map(one, free, moved, params)


def log_shares(count: Array, logits: Array, free: Any) -> Array:
    """Returns logits of shares in proportion to the counts, along the last axis.

    Frozen logits are unchanged, and the others share the remaining probability. A count of 0 counts as the
    smallest positive number of its dtype.
    """
    shares = log(count)
    if isinstance(free, bool):
        return jax.nn.log_softmax(shares)
    moving = jnp.broadcast_to(free, logits.shape)
    left = jax.nn.logsumexp(jnp.where(moving, logits, -jnp.inf), -1, keepdims=True)
    moved = jax.nn.log_softmax(jnp.where(moving, shares, -jnp.inf)) + left
    return jnp.where(moving, moved, logits)
