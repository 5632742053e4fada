"""A prior on probabilities."""

import equinox as eqx
import jax.numpy as jnp
from jax.scipy.special import gammaln

from .._types import Array, Scalar
from ._check import positive


class Dirichlet(eqx.Module):
    r"""$p(\pi) \propto \prod_k \pi_k^{\alpha - 1}$: α − 1 pseudo-observations of each value.

    At α = 1 it is flat. A concentration below 1 favors empty values; a mode is then on the boundary,
    where the M-step keeps probabilities at the smallest that their dtype holds.

    ```python
    >>> import elbax
    >>> model = elbax.Mixture(
    ...     elbax.components.Normal(), 3, prior=elbax.priors.Dirichlet(concentration=2.0)
    ... )

    ```
    """

    concentration: float = eqx.field(static=True)

    def __check_init__(self):
        positive("Dirichlet", concentration=self.concentration)

    @property
    def pseudo_count(self) -> float:
        return self.concentration - 1

    def log_density(self, log_probabilities: Array) -> Scalar:
        """Summed over all leading axes."""
        num_values = log_probabilities.shape[-1]
        alpha = jnp.asarray(self.concentration, log_probabilities.dtype)
        constant = gammaln(num_values * alpha) - num_values * gammaln(alpha)
        each = constant + self.pseudo_count * jnp.sum(log_probabilities, -1)
        return jnp.sum(each)
