"""How far a residual variance may shrink in one M-step."""

import jax.numpy as jnp

from .._types import Array


# The smallest standard deviation of noise in units of its column's. The factors' precision has a condition of the
# square of signal over noise, which rounding leaves intact up to 1 / eps: so the square root of eps in float32 (of
# 36 tables of low rank some fell by more than their size at 1e-5, by 1e-2 at 1e-4, none at this), and more in
# float64, where an ELBO shall not fall by 1e-10 (by 2e-9 at 1e-7).
_SMALLEST = {4: 3.5e-4, 8: 3e-7}


def least_share(variance: Array, offset: Array, rounding: Array) -> Array:
    """What of a noise variance is left at the least, of a residual variance that is known up to `rounding`.

    All is in units of the noise variance before. `variance` is the column's, `offset` the squares of the
    numbers that residuals are differences of. What rounding hides is not told from noise: the variance shrinks by
    as much as is sure, which ascends too, and the next sweep sees further. It never grows for it.
    """
    dtype = variance.dtype
    hidden = _SMALLEST[dtype.itemsize] ** 2 * variance + rounding_of_residuals(offset)
    return jnp.clip(jnp.maximum(hidden, rounding), jnp.finfo(dtype).tiny, 1)


def rounding_of_residuals(square: Array) -> Array:
    """The square of rounding in differences of numbers of this mean square."""
    return (4 * jnp.finfo(square.dtype).eps) ** 2 * square
