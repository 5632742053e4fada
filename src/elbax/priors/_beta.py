"""A prior on one probability."""

from typing import ClassVar

import equinox as eqx
import jax.numpy as jnp
from jax.scipy.special import betaln

from .._arguments import check_positive
from .._types import Array, Scalar


class Beta(eqx.Module):
    r"""A beta prior on a probability: $p(\pi) \propto \pi^{a - 1} (1 - \pi)^{b - 1}$.

    It adds a − 1 pseudo-successes and b − 1 pseudo-failures.

    **Arguments:** `a`, `b`: positive numbers.

    ```python
    >>> import elbax
    >>> component = elbax.components.Bernoulli(prior=elbax.priors.Beta(2.0, 2.0))

    ```
    """

    learnable: ClassVar[tuple[str, ...]] = ("a", "b")

    a: float = eqx.field(static=True)
    b: float = eqx.field(static=True)

    def __check_init__(self):
        check_positive("Beta", a=self.a, b=self.b)

    def log_density(self, log_on: Array, log_off: Array) -> Scalar:
        """Returns the log-density in nats, summed over all probabilities, from log π and log(1 − π)."""
        a, b = jnp.asarray(self.a, log_on.dtype), jnp.asarray(self.b, log_on.dtype)
        return jnp.sum((a - 1) * log_on + (b - 1) * log_off - betaln(a, b))
