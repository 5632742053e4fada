"""A normal prior on the coefficients of a regression without a noise variance."""

import math
from typing import ClassVar

import equinox as eqx
import jax.numpy as jnp

from .._arguments import check_positive
from .._types import Any, Array, Float, Scalar


class Normal(eqx.Module):
    r"""A prior $N(w_j; 0, \text{deviation}^2)$ on each slope, and a wider one on the intercept.

    It is that of `LogisticRegression` and `ProbitRegression`, with the intercept at the inputs' mean. A deviation
    is in units of the score per unit of an input, so standardize inputs of different units. With λ = 1/deviation²
    it is the ridge penalty −½ λ |w|²; scikit-learn's C is deviation².

    **Arguments:**

    - `deviation`: the standard deviation of the slopes.
    - `intercept_deviation`: that of the intercept, weak by default.

    **Raises** `ValueError` for numbers that are not positive.

    ```python
    >>> import elbax
    >>> model = elbax.LogisticRegression(prior=elbax.priors.Normal(deviation=2.0))

    ```
    """

    learnable: ClassVar[tuple[str, ...]] = ("deviation",)

    deviation: float = eqx.field(static=True)
    intercept_deviation: float = eqx.field(static=True)

    def __init__(self, deviation: float, intercept_deviation: float = 10.0):
        check_positive("Normal", deviation=deviation, intercept_deviation=intercept_deviation)
        self.deviation = float(deviation)
        self.intercept_deviation = float(intercept_deviation)

    def precisions(self, width: int, dtype: Any) -> Float[Array, " width"]:
        """Returns the inverse variances of the intercept and of all slopes."""
        deviations = [self.intercept_deviation] + [self.deviation] * (width - 1)
        return 1 / jnp.array(deviations, dtype) ** 2

    def log_density(self, coefficients: Float[Array, " width"]) -> Scalar:
        """Returns log p(w), in nats, of the intercept and the slopes."""
        width = coefficients.shape[-1]
        precisions = self.precisions(width, coefficients.dtype)
        square = jnp.sum(precisions * coefficients**2)
        return 0.5 * (jnp.sum(jnp.log(precisions)) - width * math.log(2 * math.pi) - square)
