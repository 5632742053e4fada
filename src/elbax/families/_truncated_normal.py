"""A positive number with a normal distribution that is truncated at 0."""

import math
from typing import ClassVar

import jax
import jax.numpy as jnp
from jax.scipy.special import ndtri

from .._math.normal import hazard, log_normal_cdf, log_truncated_mass, truncated_mean
from .._types import Any, Array, Callable, Key, Scalar
from ._family import AbstractFamily
from ._normal import Normal


class TruncatedNormal(AbstractFamily):
    r"""A normal number truncated to z > 0, with $t(z) = (z, -\tfrac12 z^2)$.

    The natural parameters are (h, J), those of the `Normal` that is truncated: J is its precision and h = J m.
    With $a = h / \sqrt J$ the log-normalizer is $A = \tfrac12 (a^2 - \log J + \log 2\pi) + \log \Phi(a)$. It is
    the latent of `ProbitRegression` (Albert and Chib 1993). An encoder returns m and the log standard deviation
    before the truncation.

    ```python
    >>> import elbax
    >>> q = elbax.families.TruncatedNormal().from_description(mean=0.0, precision=1.0)
    >>> print(f"{q.mean()[0]:.4f} {q.entropy():.4f}")
    0.7979 0.7258

    ```
    """

    event_ndim: ClassVar[int] = 0

    def batch_ndim(self, natural: tuple) -> int:
        return jnp.ndim(natural[0])

    def from_description(self, *, mean: Any, precision: Any) -> Any:
        """Returns N(mean, 1 / precision) truncated to z > 0, one for each entry of arrays."""
        return self(Normal().from_description(mean=mean, precision=precision).natural)

    def log_normalizer(self, natural: tuple) -> Scalar:
        linear, precision = natural
        mass = log_truncated_mass(linear / jnp.sqrt(precision))
        return mass - 0.5 * jnp.log(precision) + 0.5 * math.log(2 * math.pi)

    def mean(self, natural: tuple) -> tuple[Scalar, Scalar]:
        deviation = 1 / jnp.sqrt(natural[1])
        start = natural[0] * deviation
        mean = truncated_mean(start)
        return deviation * mean, -0.5 * deviation**2 * (1 + start * mean)

    def entropy(self, natural: tuple) -> Scalar:
        # In units of the deviation: A − a E[z] + ½ E[z²], without the terms that cancel on either side of 0.
        start = natural[0] / jnp.sqrt(natural[1])
        below, above = jnp.minimum(start, 0), jnp.maximum(start, 0)
        small = log_truncated_mass(below) - 0.5 * below * truncated_mean(below)
        large = log_normal_cdf(above) - 0.5 * above * hazard(above)
        unit = jnp.where(start < 0, small, large)
        return unit + 0.5 * (math.log(2 * math.pi * math.e) - jnp.log(natural[1]))

    def statistics(self, z: Scalar) -> tuple[Scalar, Scalar]:
        return Normal().statistics(z)

    def outside(self, z: Scalar) -> Array:
        return z <= 0

    def sample(self, natural: tuple, key: Key) -> Scalar:
        deviation = 1 / jnp.sqrt(natural[1])
        start = natural[0] * deviation
        dtype = start.dtype
        uniform = jax.random.uniform(key, dtype=dtype, minval=jnp.finfo(dtype).tiny)
        above = jnp.maximum(start, 0)
        inside = above - ndtri(uniform * jnp.exp(log_normal_cdf(above)))
        drawn = jnp.where(start < 0, _beyond(-jnp.minimum(start, 0), -jnp.log(uniform)), inside)
        return deviation * drawn

    def mode(self, natural: tuple) -> Scalar:
        return jnp.maximum(natural[0], 0) / natural[1]

    def from_network(self, output: Array) -> tuple[Scalar, Scalar]:
        return Normal().from_network(output)

    def read(
        self, function: Callable[[Any], Scalar], dtype: Any = float
    ) -> tuple[tuple[Scalar, Scalar], Scalar]:
        """Takes two derivatives at z = 1."""
        point = jnp.ones((), dtype)
        slope, curvature = jax.jvp(jax.grad(function), (point,), (point,))
        natural = slope - curvature, -curvature
        return natural, function(point) - self.score(natural, point)


def _beyond(start: Array, level: Array) -> Array:
    """Returns δ with Φ(−start − δ) = e^(−level) Φ(−start), for start ≥ 0.

    The left side's logarithm is concave in δ, and at the δ with start δ + δ²/2 = level it lies below the right
    side's. So Newton's method from there falls to the root without overshooting it.
    """
    whole = log_truncated_mass(-start)

    def newton(_, step):
        left = log_truncated_mass(-start - step) - start * step - 0.5 * step**2
        return step + (left - whole + level) / hazard(-start - step)

    first = 2 * level / (start + jnp.sqrt(start**2 + 2 * level))
    return jax.lax.fori_loop(0, 6, newton, first)
