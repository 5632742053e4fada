"""Which params an update claims: the rest it leaves as they are, to the bit."""

import jax
import jax.numpy as jnp

from ._types import PyTree


def spread(free: PyTree, params: PyTree) -> PyTree:
    """One bool (or mask that broadcasts) for each leaf of `params`, from a prefix of that tree.

    **Raises** `ValueError` for a tree that is no prefix, or a leaf that is no truth value.
    """

    def one(flag, below):
        if not (isinstance(flag, bool) or getattr(flag, "dtype", None) == jnp.dtype(bool)):
            raise ValueError(
                f"free: expected True, False or an array of them for each block, got {flag!r}."
            )
        return jax.tree.map(lambda _: flag, below)

    try:
        return jax.tree.map(one, free, params)
    except ValueError as error:
        if str(error).startswith("free:"):
            raise
        raise ValueError(
            "free: expected one True or False for each block of params, such as "
            f"{jax.tree.map(lambda _: True, params)!r} or a tree that ends earlier; got {free!r}."
        ) from None


def is_frozen(free: PyTree) -> bool:
    """Whether nothing below may move."""
    return not any(flag is not False for flag in jax.tree.leaves(free))


def choose(free: PyTree, moved: PyTree, params: PyTree) -> PyTree:
    """`moved` where free, else `params`."""

    def one(flag, new, old):
        if isinstance(flag, bool):
            return new if flag else old
        return jnp.where(flag, new, old)

    return jax.tree.map(one, free, moved, params)
