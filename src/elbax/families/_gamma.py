"""A positive number with a gamma distribution."""

from typing import ClassVar

import jax
import jax.numpy as jnp
from jax.scipy.special import gammaln

from .._math.algebra import log
from .._math.special import log_minus_digamma
from .._types import Any, Array, Callable, Key, Scalar
from ._conjugate import AbstractConjugateFamily


class Gamma(AbstractConjugateFamily):
    r"""A positive latent, a rate or a precision, with $q(z) \propto z^{a - 1} e^{-b z}$ and t(z) = (log z, −z).

    The natural parameters are (a − 1, b): $A = \log \Gamma(a) - a \log b$. They are NaN-valued answers unless a
    and b are positive. The mode is 0 for a ≤ 1. An encoder returns log a and log b.

    ```python
    >>> import elbax
    >>> q = elbax.families.Gamma().from_description(shape=3.0, rate=2.0)
    >>> print(q.mode(), -q.mean()[1])
    1.0 1.5

    ```
    """

    event_ndim: ClassVar[int] = 0
    event_shape: ClassVar[Any] = ()

    def batch_ndim(self, natural: tuple) -> int:
        return jnp.ndim(natural[0])

    def from_description(self, *, shape: Any, rate: Any) -> Any:
        """Returns the gamma distribution of shape a and rate b, one for each entry of arrays."""
        shape, rate = jnp.broadcast_arrays(jnp.asarray(shape, float), jnp.asarray(rate, float))
        return self((shape - 1, rate))

    def log_normalizer(self, natural: tuple) -> Scalar:
        shape, rate = natural[0] + 1, natural[1]
        return gammaln(jnp.where(shape > 0, shape, jnp.nan)) - shape * jnp.log(rate)

    def statistics(self, z: Scalar) -> tuple[Scalar, Scalar]:
        return jnp.log(z), -z

    def outside(self, z: Scalar) -> Array:
        return z < 0

    def sample(self, natural: tuple, key: Key) -> Scalar:
        return jnp.exp(jax.random.loggamma(key, natural[0] + 1) - jnp.log(natural[1]))

    def mode(self, natural: tuple) -> Scalar:
        return jnp.maximum(natural[0], 0) / natural[1]

    def from_network(self, output: Array) -> tuple[Scalar, Scalar]:
        return jnp.expm1(output[0]), jnp.exp(output[1])

    def center(self, natural):
        return (natural[0] + 1) / natural[1]

    def near(self, point):
        return jnp.zeros_like(point), 1 / point

    def nodes(self, natural):
        """Returns E z (1 ± s): log z averages to log E z + ½ log(1 − s²), which is to be E log z."""
        shape, center = natural[0] + 1, self.center(natural)
        spread = jnp.sqrt(-jnp.expm1(-2 * log_minus_digamma(shape)))
        return jnp.stack([center * (1 + spread), center * (1 - spread)])

    def read_about(self, function: Callable[[Any], Scalar], point: Array) -> tuple[Array, Array]:
        """Of e log z − b z the derivatives are e/z − b and −e/z²."""
        slope, curvature = jax.jvp(jax.grad(function), (point,), (jnp.ones_like(point),))
        exponent = -curvature * point**2
        return exponent, exponent / point - slope

    def to_unconstrained(self, point):
        return log(point)

    def from_unconstrained(self, free):
        return jnp.exp(free)

    def origin(self, dtype):
        return jnp.ones((), dtype)
