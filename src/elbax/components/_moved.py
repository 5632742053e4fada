"""A move of params that rounding alters: taken as it was made, and only where it gains."""

import jax
import jax.numpy as jnp

from .._types import Array, Bool


def unless(lost: Bool[Array, "..."], old: Array, new: Array) -> Array:
    """`new`, or the row of `old` where the move is `lost`: one that rounding turned into a loss.

    A number far from 0 moves in steps of its own rounding. Where these are not small beside the noise, a move that
    is best in theory may lose as it is made. What comes after it in an M-step is taken at the move that was made,
    so that it is a step of ECM (Meng and Rubin 1993) and ascends. The derivative is that of `new`.
    """
    lost = lost.reshape(lost.shape + (1,) * (new.ndim - lost.ndim))
    return new - jax.lax.stop_gradient(jnp.where(lost, new - old, 0))
