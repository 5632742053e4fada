"""A prior on probabilities."""

from typing import ClassVar

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import gammaln

from .._arguments import check_positive
from .._types import Array, Scalar


class Dirichlet(eqx.Module):
    r"""A symmetric Dirichlet prior on probabilities: $p(\pi) \propto \prod_k \pi_k^{\alpha - 1}$.

    It adds α − 1 pseudo-observations of each value. At α = 1 it is flat. A concentration below 1 favors empty
    values; a mode is then on the boundary, where the M-step keeps probabilities at the smallest number of their
    dtype.

    **Arguments:** `concentration`: α, a positive number.

    ```python
    >>> import elbax
    >>> model = elbax.Mixture(
    ...     elbax.components.Normal(), 3, prior=elbax.priors.Dirichlet(concentration=2.0)
    ... )

    ```
    """

    learnable: ClassVar[tuple[str, ...]] = ("concentration",)

    concentration: float = eqx.field(static=True)

    def __check_init__(self):
        check_positive("Dirichlet", concentration=self.concentration)

    @property
    def pseudo_count(self) -> float:
        return self.concentration - 1

    def log_density(
        self, log_probabilities: Array, possible: np.ndarray | Array | None = None
    ) -> Scalar:
        """Returns the log-density in nats, summed over leading axes; impossible values must have logarithm 0."""
        if possible is None:
            possible = np.ones(log_probabilities.shape[-1:], bool)
        dtype = log_probabilities.dtype
        num_values = possible.sum(-1).astype(dtype)
        alpha = jnp.asarray(self.concentration, dtype)
        constant = gammaln(jnp.maximum(num_values, 1) * alpha) - num_values * gammaln(alpha)
        constant = jnp.where(num_values > 0, constant, 0)
        each = constant + self.pseudo_count * jnp.sum(log_probabilities, -1)
        return jnp.sum(each)
