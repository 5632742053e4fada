"""Proportions with a Dirichlet distribution, in the measure of log-ratios."""

from typing import ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp

from .._arguments import check_count
from .._math.algebra import vdot
from .._math.special import positive_digamma, positive_gammaln
from .._types import Any, Array, Callable, Float, Key, Scalar
from ._family import AbstractFamily


class Proportions(AbstractFamily):
    r"""Proportions p > 0 with $\sum_k p_k = 1$: $t(p) = \log p$ and $A(\alpha) = \sum_k \log\Gamma(\alpha_k) -
    \log\Gamma(\sum_k \alpha_k)$.

    The natural parameters are the concentrations α, shape `(num_values,)`, all positive. Densities are with
    respect to $\prod_k dp_k / p_k$, the uniform measure of log-ratios (MacKay 1998, "Choice of basis for Laplace
    approximation"). So the most probable p is the mean α / Σα, for small α too, and the entropy is SciPy's less
    $\sum_k E[\log p_k]$. Divergences do not depend on the measure. The mean parameters are $E[\log p_k] =
    \psi(\alpha_k) - \psi(\sum_j \alpha_j)$. An encoder returns log α.

    ```python
    >>> import elbax, jax.numpy as jnp
    >>> q = elbax.families.Proportions(3)(jnp.array([1.0, 2.0, 5.0]))
    >>> print(q.mode(), [f"{mean:.3f}" for mean in q.mean()])
    [0.125 0.25  0.625] ['-2.593', '-1.593', '-0.510']

    ```
    """

    num_values: int = eqx.field(static=True)

    event_ndim: ClassVar[int] = 1

    def __check_init__(self):
        check_count("Proportions", num_values=self.num_values)

    @property
    def natural_shapes(self) -> Any:
        return ((self.num_values,),)

    def batch_ndim(self, natural: Float[Array, "..."]) -> int:
        return jnp.ndim(natural) - 1

    def log_normalizer(self, natural: Float[Array, " K"]) -> Scalar:
        return jnp.sum(positive_gammaln(natural)) - positive_gammaln(jnp.sum(natural))

    def mean(self, natural: Float[Array, " K"]) -> Float[Array, " K"]:
        return positive_digamma(natural) - positive_digamma(jnp.sum(natural))

    def statistics(self, z: Float[Array, " K"]) -> Float[Array, " K"]:
        return jnp.log(z)

    def outside(self, z: Float[Array, " K"]) -> Array:
        return jnp.any(z < 0)

    def sample(self, natural: Float[Array, " K"], key: Key) -> Float[Array, " K"]:
        # Logarithms of gamma variables: those of small shapes would underflow.
        return jax.nn.softmax(jax.random.loggamma(key, natural))

    def mode(self, natural: Float[Array, " K"]) -> Float[Array, " K"]:
        return natural / jnp.sum(natural)

    def from_network(self, output: Float[Array, " K"]) -> Float[Array, " K"]:
        if output.shape != (self.num_values,):
            raise ValueError(
                f"Proportions({self.num_values}): an encoder must return {self.num_values} numbers, the "
                f"logarithms "
                f"of the concentrations; got shape {output.shape}."
            )
        return jnp.exp(output)

    def read(
        self, function: Callable[[Any], Scalar], dtype: Any = float
    ) -> tuple[Float[Array, " K"], Scalar]:
        """Takes one gradient at equal proportions: of ⟨λ, log p⟩ it is λ / p."""
        equal = jnp.full(self.num_values, 1 / self.num_values, dtype)
        value, slope = jax.value_and_grad(function)(equal)
        potentials = equal * slope
        return potentials, value - vdot(potentials, jnp.log(equal))
