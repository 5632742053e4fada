"""Probabilities with a Dirichlet distribution."""

from typing import ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.scipy.special import digamma, gammaln

from .._arguments import check_count
from .._math.algebra import log
from .._types import Any, Array, Callable, Float, Key, Scalar
from ._conjugate import AbstractConjugateFamily


class Dirichlet(AbstractConjugateFamily):
    r"""Latent probabilities of K values with $q(z) \propto \prod_k z_k^{\alpha_k - 1}$ and t(z) = log z.

    The natural parameters are α − 1, of shape `(num_values,)`:
    $A = \sum_k \log \Gamma(\alpha_k) - \log \Gamma(\sum_k \alpha_k)$. An encoder returns log α.

    ```python
    >>> import elbax, jax.numpy as jnp
    >>> q = elbax.families.Dirichlet(2).from_description(concentration=jnp.array([2.0, 4.0]))
    >>> print(q.mode())
    [0.25 0.75]

    ```
    """

    num_values: int = eqx.field(static=True)

    event_ndim: ClassVar[int] = 1

    def __check_init__(self):
        check_count("Dirichlet", num_values=self.num_values)

    @property
    def event_shape(self) -> Any:
        return (self.num_values,)

    @property
    def natural_shapes(self) -> Any:
        return ((self.num_values,),)

    def batch_ndim(self, natural: Array) -> int:
        return jnp.ndim(natural) - 1

    def from_description(self, *, concentration: Any) -> Any:
        """Returns the Dirichlet distribution of parameters α, or of one number for all values."""
        given = jnp.asarray(concentration, float)
        return self((jnp.broadcast_to(given, given.shape[:-1] + self.event_shape)) - 1)

    def log_normalizer(self, natural: Float[Array, " K"]) -> Scalar:
        concentration = natural + 1
        concentration = jnp.where(jnp.all(concentration > 0), concentration, jnp.nan)
        return jnp.sum(gammaln(concentration)) - gammaln(jnp.sum(concentration))

    def mean(self, natural: Float[Array, " K"]) -> Float[Array, " K"]:
        return _mean_log(natural)

    def statistics(self, z: Float[Array, " K"]) -> Float[Array, " K"]:
        return jnp.log(z)

    def outside(self, z: Float[Array, " K"]) -> Array:
        return jnp.any(z < 0)

    def sample(self, natural: Float[Array, " K"], key: Key) -> Float[Array, " K"]:
        return jax.nn.softmax(jax.random.loggamma(key, natural + 1))

    def mode(self, natural: Float[Array, " K"]) -> Float[Array, " K"]:
        """Returns (α − 1) / Σ (α − 1); an α below 1 counts as 1, and if all are, the shares are equal."""
        count = jnp.maximum(natural, 0)
        total = jnp.sum(count)
        return jnp.where(total > 0, count / jnp.where(total > 0, total, 1), 1 / self.num_values)

    def from_network(self, output: Float[Array, " K"]) -> Float[Array, " K"]:
        return jnp.expm1(output)

    def center(self, natural):
        concentration = natural + 1
        return concentration / jnp.sum(concentration, -1, keepdims=True)

    def near(self, point):
        return self.num_values * point - 1

    def nodes(self, natural):
        """Returns one point, exp E log z, whose sum is less than 1."""
        return jnp.exp(_mean_log(natural))[None]

    def read_about(self, function: Callable[[Any], Scalar], point: Array) -> Array:
        """Of Σ e log z the derivatives are e/z."""
        return point * jax.grad(function)(point)

    def to_unconstrained(self, point):
        return log(point)

    def from_unconstrained(self, free):
        return jax.nn.softmax(free, -1)

    def origin(self, dtype):
        return jnp.full(self.event_shape, 1 / self.num_values, dtype)


def _mean_log(natural: Array) -> Array:
    concentration = natural + 1
    return digamma(concentration) - digamma(jnp.sum(concentration, -1, keepdims=True))
