"""A move of params as rounding leaves it, accepted only where it gains."""

import jax
import jax.numpy as jnp

from .._types import Array, Bool


def unless(lost: Bool[Array, "..."], old: Array, new: Array) -> Array:
    """Returns `new`, or the row of `old` where the move is `lost`, that is, where rounding turned it into a loss.

    A number far from 0 moves in steps of its own rounding. If these are not small beside the noise, a move that is
    optimal in theory may lose. The rest of an M-step is evaluated at the move that was made, so that the M-step is
    one of ECM (Meng and Rubin 1993) and ascends. The derivative is that of `new`.
    """
    lost = lost.reshape(lost.shape + (1,) * (new.ndim - lost.ndim))
    return new - jax.lax.stop_gradient(jnp.where(lost, new - old, 0))
