"""A prior on a rate."""

from typing import ClassVar

import equinox as eqx
import jax.numpy as jnp
from jax.scipy.special import gammaln

from .._arguments import check_positive
from .._types import Array, Scalar


class Gamma(eqx.Module):
    r"""A gamma prior on a rate: $p(\lambda) \propto \lambda^{a - 1} e^{-b \lambda}$.

    For a Poisson rate it adds a − 1 pseudo-events in b pseudo-observations. For a `LinearGaussianStateSpace` λ is
    the precision of noise, and it adds 2a pseudo-observations whose squares have the sum 2b.

    **Arguments:** `shape`, `rate`: a and b, positive numbers.

    ```python
    >>> import elbax
    >>> component = elbax.components.Poisson(prior=elbax.priors.Gamma(shape=2.0, rate=0.5))

    ```
    """

    learnable: ClassVar[tuple[str, ...]] = ("shape", "rate")

    shape: float = eqx.field(static=True)
    rate: float = eqx.field(static=True)

    def __check_init__(self):
        check_positive("Gamma", shape=self.shape, rate=self.rate)

    def log_density(self, log_rate: Array) -> Scalar:
        """Returns the log-density in nats, summed over all rates."""
        shape, rate = (
            jnp.asarray(self.shape, log_rate.dtype),
            jnp.asarray(self.rate, log_rate.dtype),
        )
        constant = shape * jnp.log(rate) - gammaln(shape)
        return jnp.sum(constant + (shape - 1) * log_rate - rate * jnp.exp(log_rate))
