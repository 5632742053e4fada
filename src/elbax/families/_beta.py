"""A probability with a beta distribution."""

from typing import ClassVar

import jax
import jax.numpy as jnp
from jax.scipy.special import betaln, digamma

from .._math.algebra import log
from .._types import Any, Array, Callable, Key, Scalar
from ._conjugate import AbstractConjugateFamily


class Beta(AbstractConjugateFamily):
    r"""A latent probability with $q(z) \propto z^{a - 1} (1 - z)^{b - 1}$ and t(z) = (log z, log(1 − z)).

    The natural parameters are (a − 1, b − 1): A = log B(a, b). An encoder returns log a and log b.

    ```python
    >>> import elbax
    >>> q = elbax.families.Beta().from_description(a=3.0, b=2.0)
    >>> print(q.mode().round(4))
    0.6667

    ```
    """

    event_ndim: ClassVar[int] = 0
    event_shape: ClassVar[Any] = ()

    def batch_ndim(self, natural: tuple) -> int:
        return jnp.ndim(natural[0])

    def from_description(self, *, a: Any, b: Any) -> Any:
        """Returns the beta distribution with these parameters, one for each entry of arrays."""
        a, b = jnp.broadcast_arrays(jnp.asarray(a, float), jnp.asarray(b, float))
        return self((a - 1, b - 1))

    def log_normalizer(self, natural: tuple) -> Scalar:
        a, b = natural[0] + 1, natural[1] + 1
        proper = (a > 0) & (b > 0)
        return betaln(jnp.where(proper, a, jnp.nan), jnp.where(proper, b, jnp.nan))

    def mean(self, natural: tuple) -> tuple[Scalar, Scalar]:
        a, b = natural[0] + 1, natural[1] + 1
        return digamma(a) - digamma(a + b), digamma(b) - digamma(a + b)

    def statistics(self, z: Scalar) -> tuple[Scalar, Scalar]:
        return jnp.log(z), jnp.log1p(-z)

    def outside(self, z: Scalar) -> Array:
        return (z < 0) | (z > 1)

    def sample(self, natural: tuple, key: Key) -> Scalar:
        keys = jax.random.split(key)
        up = jax.random.loggamma(keys[0], natural[0] + 1)
        return jax.nn.sigmoid(up - jax.random.loggamma(keys[1], natural[1] + 1))

    def mode(self, natural: tuple) -> Scalar:
        """Returns (a − 1) / (a + b − 2); a parameter below 1 counts as 1, and two of them give ½."""
        up, down = jnp.maximum(natural[0], 0), jnp.maximum(natural[1], 0)
        some = up + down > 0
        return jnp.where(some, up / jnp.where(some, up + down, 1), 0.5)

    def from_network(self, output: Array) -> tuple[Scalar, Scalar]:
        return jnp.expm1(output[0]), jnp.expm1(output[1])

    def center(self, natural):
        a, b = natural[0] + 1, natural[1] + 1
        return a / (a + b)

    def near(self, point):
        return 2 * point - 1, 1 - 2 * point

    def nodes(self, natural):
        """Returns the roots of z² − s z + p² with p = exp E log z, s = 1 + p² − r², r = exp E log(1 − z).

        Their product is p², and that of 1 − z is 1 − s + p² = r².
        """
        a, b = natural[0] + 1, natural[1] + 1
        low = jnp.exp(digamma(a) - digamma(a + b))
        high = jnp.exp(digamma(b) - digamma(a + b))
        gap = (1 - low) ** 2 - high**2
        spread = jnp.sqrt(jnp.maximum(gap, 0) * ((1 + low) ** 2 - high**2))
        up = 0.5 * (1 + low**2 - high**2 + spread)
        # The root next to 0 is known by the product.
        return jnp.stack([up, low**2 / up])

    def read_about(self, function: Callable[[Any], Scalar], point: Array) -> tuple[Array, Array]:
        """Solves g = e/z − f/(1 − z) and h = −e/z² − f/(1 − z)² for the exponents e and f."""
        slope, curvature = jax.jvp(jax.grad(function), (point,), (jnp.ones_like(point),))
        rest = 1 - point
        up = (slope / rest - curvature) * point**2 * rest
        down = -(slope / point + curvature) * point * rest**2
        return up, down

    def to_unconstrained(self, point):
        return log(point) - log(1 - point)

    def from_unconstrained(self, free):
        return jax.nn.sigmoid(free)

    def origin(self, dtype):
        return jnp.full((), 0.5, dtype)
