r"""The normal distribution function Φ and the normal truncated to positive numbers, without cancellation.

With h(a) = φ(a)/Φ(a), a normal N(a, 1) truncated to positive numbers has the mean e(a) = a + h(a) and the mass
Φ(a). Far below 0 both Φ and e vanish. There, with x = −a, Laplace's continued fraction for Mills' ratio
gives e = 1/(x + 2/(x + 3/(x + …))), h = x + e and log Φ = −x²/2 − ½ log 2π − log h.
"""

import math

import jax
import jax.numpy as jnp
from jax.scipy.special import erfc

from .._types import Any, Array


# From here on 20 terms of the continued fraction are exact to 1e-16; above, Φ does not underflow in float32.
_FAR = -6.0
_TERMS = 20
_HALF_LOG_TAU = 0.5 * math.log(2 * math.pi)


def _tail(a: Array) -> Array:
    """Returns e(a) below `_FAR`."""
    x: Any = jnp.maximum(-a, -_FAR)
    rest = x
    for k in range(_TERMS, 1, -1):
        rest = x + k / rest
    return 1 / rest


@jax.custom_jvp
def hazard(a: Array) -> Array:
    """Returns h(a) = φ(a) / Φ(a), the derivative of log Φ."""
    near = jnp.maximum(a, _FAR)
    mass = 0.5 * erfc(-near * math.sqrt(0.5))
    density = jnp.exp(-0.5 * near**2 - _HALF_LOG_TAU)
    return jnp.where(a < _FAR, _tail(a) - a, density / mass)


@hazard.defjvp
def _(primals, tangents):
    value = hazard(*primals)
    return value, -value * truncated_mean(*primals) * tangents[0]


@jax.custom_jvp
def truncated_mean(a: Array) -> Array:
    """Returns a + φ(a) / Φ(a), the mean of N(a, 1) given that it is positive."""
    return jnp.where(a < _FAR, _tail(a), a + hazard(jnp.maximum(a, _FAR)))


@truncated_mean.defjvp
def _(primals, tangents):
    # The variance of the truncated normal.
    mean = truncated_mean(*primals)
    return mean, (1 - mean * hazard(*primals)) * tangents[0]


@jax.custom_jvp
def log_normal_cdf(a: Array) -> Array:
    """Returns log Φ(a)."""
    far = -0.5 * a**2 - _HALF_LOG_TAU - jnp.log(hazard(jnp.minimum(a, _FAR)))
    below = jnp.log(0.5 * erfc(-jnp.clip(a, _FAR, 0) * math.sqrt(0.5)))
    above = jnp.log1p(-0.5 * erfc(jnp.maximum(a, 0) * math.sqrt(0.5)))
    return jnp.where(a < _FAR, far, jnp.where(a < 0, below, above))


@log_normal_cdf.defjvp
def _(primals, tangents):
    return log_normal_cdf(*primals), hazard(*primals) * tangents[0]


@jax.custom_jvp
def log_truncated_mass(a: Array) -> Array:
    """Returns a²/2 + log Φ(a) = log ∫ exp(a z − z²/2) dz − ½ log 2π over z > 0."""
    far = -_HALF_LOG_TAU - jnp.log(hazard(jnp.minimum(a, _FAR)))
    near = jnp.maximum(a, _FAR)
    return jnp.where(a < _FAR, far, 0.5 * near**2 + log_normal_cdf(near))


@log_truncated_mass.defjvp
def _(primals, tangents):
    return log_truncated_mass(*primals), truncated_mean(*primals) * tangents[0]
