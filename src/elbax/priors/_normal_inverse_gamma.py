"""A prior on the coefficients of a regression and on the variance of its noise."""

import math
from typing import Any

import equinox as eqx
import jax.numpy as jnp

from .._arguments import check_positive
from .._types import Array
from ._gamma import Gamma


class NormalInverseGamma(eqx.Module):
    r"""A prior on coefficients and a variance, $N(w; 0, \sigma^2 / \lambda)\, \mathrm{IG}(\sigma^2; a, b)$.

    For `LinearRegression` it is a prior on the coefficients of each regression, with the intercept at the inputs'
    mean; for factor models on the mean and loadings of each column; for `LinearGaussianStateSpace` on the offset
    and the matrix of each row. As pseudo-data: λ rows with a target of 0 for each coefficient, and 2a rows with a
    sum of squares of 2b.

    **Arguments:**

    - `precision`: λ of slopes or loadings, in units of the noise; or a `Gamma` prior on it, one for each input or
        factor. Those that explain nothing then get a large λ and vanish ("automatic relevance determination",
        MacKay 1995; Bishop 1999 for factors). Only `Bayesian` infers it.
    - `shape`, `rate`: a and b, positive numbers.
    - `intercept_precision`: λ of the intercept or mean, weak by default.

    **Raises** `ValueError` for numbers that are not positive.

    ```python
    >>> import elbax
    >>> prior = elbax.priors.NormalInverseGamma(precision=1.0, shape=1.0, rate=1.0)
    >>> component = elbax.components.LinearRegression(prior=prior)

    ```
    """

    precision: float | Gamma = eqx.field(static=True)
    shape: float = eqx.field(static=True)
    rate: float = eqx.field(static=True)
    intercept_precision: float = eqx.field(static=True)

    def __init__(
        self,
        precision: float | Gamma,
        shape: float,
        rate: float,
        intercept_precision: float = 1e-3,
    ):
        if not isinstance(precision, Gamma):
            check_positive("NormalInverseGamma", precision=precision)
            precision = float(precision)
        check_positive(
            "NormalInverseGamma", shape=shape, rate=rate, intercept_precision=intercept_precision
        )
        self.precision = precision
        self.shape, self.rate = float(shape), float(rate)
        self.intercept_precision = float(intercept_precision)

    def precisions(self, width: int, dtype: Any) -> Array:
        """Returns λ of the intercept and of all others, shape `(width,)`.

        **Raises** `TypeError` if they have a prior of their own.
        """
        if isinstance(self.precision, Gamma):
            raise TypeError(
                "NormalInverseGamma: the precision has a prior of its own, which only Bayesian infers. Use "
                "Bayesian(model), or a number as precision."
            )
        found = [self.intercept_precision] + [self.precision] * (width - 1)
        return jnp.array(found, dtype)

    def log_density_of_row(self, row: Array, variance: Array, precisions: Array) -> Array:
        """Returns log N(w; 0, σ²/λ), in nats; the coefficients are the last axis."""
        square = jnp.sum(precisions * row**2, -1) / variance
        logs = jnp.sum(jnp.log(precisions)) - row.shape[-1] * jnp.log(2 * math.pi * variance)
        return 0.5 * (logs - square)

    def log_density_of_variance(self, variance: Array) -> Array:
        """Returns log IG(σ²; a, b), in nats."""
        constant = self.shape * math.log(self.rate) - math.lgamma(self.shape)
        return constant - (self.shape + 1) * jnp.log(variance) - self.rate / variance
