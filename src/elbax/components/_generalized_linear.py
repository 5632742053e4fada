"""Regressions with any predictor: linear, or a network."""

import math
from typing import get_args, Literal

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from .._arguments import check_choice, check_not_negative
from .._math.special import half_deviance, highest_log_mass, softplus
from .._reference import Reference
from .._types import Any, Array, Float, PyTree
from ..data._check import check_described, check_values
from ..families._undefined import where_defined
from ._component import AbstractComponent
from ._linear import described, linear
from ._linear_regression import (
    check_regression,
    check_target,
    check_varied,
    least_squares,
    needed,
    noise_collapsed,
    noise_penalty,
    regression_numbers,
    regression_table,
)
from ._support import is_bit, is_count, log_indicator
from ._unit import positive_variance, with_given_unit, with_unit


Response = Literal["normal", "poisson", "bernoulli"]


class GeneralizedLinear(AbstractComponent):
    r"""Generalized linear models $p(y \mid u, k)$ with a normal, Poisson or Bernoulli response.

    A datum is `(inputs, target)`: u of shape `(num_inputs,)` and a number y. The predictor $f_k(u)$ is the mean
    (normal), its logarithm (Poisson) or its logit (Bernoulli). Params: `{"predictor": f}`, and for a normal
    response `"log_noise": (K,)` and `"unit"`, as for `LinearRegression`. f is a callable pytree that maps inputs
    `(num_inputs,)` to `(K,)`. `init` makes it linear; `elbax.Network(any network)` may replace it.

    There is no closed M-step. Use `NewtonMStep(model)` (for linear predictors, iteratively reweighted least
    squares) or `GradientMStep(model, optimizer)`.

    **Arguments:**

    - `response`: `"normal"`, `"poisson"` or `"bernoulli"`.
    - `floor`: for the noise of a normal response, as for `LinearRegression`.

    ```python
    >>> import elbax, jax, jax.numpy as jnp
    >>> u = jnp.linspace(0.0, 1.0, 20)[:, None]
    >>> counts = jnp.where(jnp.arange(20) % 2 == 0, 3, 8)
    >>> model = elbax.Mixture(elbax.components.GeneralizedLinear("poisson"), 2)
    >>> params = model.init(jax.random.key(0), (u, counts))
    >>> em = elbax.Chain(elbax.ExactEStep(model), elbax.NewtonMStep(model))
    >>> state = em.init(params, key=jax.random.key(1))
    >>> state, info = em(state, (u, counts))

    ```
    """

    response: Response = eqx.field(static=True)
    floor: float = eqx.field(static=True, default=1e-6)

    def __check_init__(self):
        check_choice("GeneralizedLinear", get_args(Response), response=self.response)
        check_not_negative("GeneralizedLinear", floor=self.floor)

    def check(self, x, weight, who, *, varied=False):
        check_regression(x, weight, who, varied)
        target = x[1]
        if self.response == "normal" and varied:
            check_varied(target, weight, who)
        if self.response == "poisson":
            bad = lambda y: (y < 0) | (y != np.round(y))
            check_values(target, weight, f"{who}, target", bad, "counts 0, 1, 2, ...")
        if self.response == "bernoulli":
            bad = lambda y: (y != 0) & (y != 1)
            check_values(target, weight, f"{who}, target", bad, "zeros and ones")

    def table(self, x):
        return regression_table(x)

    def init(self, x, weight, assignment, num_components):
        """Returns linear predictors, by least squares of the transformed target in each part."""
        inputs, target = regression_numbers(x)
        transform = {
            "normal": lambda y: y,
            "poisson": lambda y: jnp.log(y + 0.5),
            "bernoulli": lambda y: 4 * y - 2,
        }[self.response]
        transformed = transform(target)
        coefficients = least_squares(inputs, transformed, weight, assignment, num_components)
        params: dict[str, Any] = {"predictor": linear(coefficients[:-1])}
        if self.response == "normal":
            share = weight / jnp.sum(weight)
            center = jnp.sum(share * target)
            variance = jnp.sum(share * (target - center) ** 2)
            half = 0.5 * positive_variance(variance)
            params["log_noise"] = jnp.full(num_components, 0.5 * jnp.log(half))
            params = with_unit(params, self.floor, variance)
        return params

    def shapes(self, num_components):
        found: dict[str, Any] = {"predictor": callable}
        if self.response == "normal":
            found |= {"log_noise": (num_components,), "unit": Reference(())}
        return found

    def natural(self, params: PyTree) -> PyTree:
        """Returns the params: with a network the log-density is not linear in any finite set of coordinates."""
        return params

    def rebase(self, natural: PyTree, params: PyTree) -> PyTree:
        """Returns them unchanged: without a closed form nothing is computed from its statistics."""
        return natural

    def log_densities(self, natural: PyTree, x: Any) -> Float[Array, " K"]:
        inputs, target = x
        check_target(target, "GeneralizedLinear")
        predictor = natural["predictor"](inputs)
        y = target.astype(predictor.dtype)
        if self.response == "normal":
            residual = (y - predictor) * jnp.exp(-natural["log_noise"])
            return -0.5 * residual**2 - natural["log_noise"] - 0.5 * math.log(2 * math.pi)
        if self.response == "poisson":
            inside = is_count(target)
            y = jnp.where(inside, y, 0)
            possible = log_indicator(target, True, inside).astype(y.dtype)
            return possible + highest_log_mass(y) - half_deviance(y, predictor)
        possible = log_indicator(target, True, is_bit(target)).astype(y.dtype)
        return y * predictor - softplus(predictor) + possible

    def describe(self, params):
        """Returns coefficients `(K, num_inputs + 1)`, or other weights, and a normal's standard deviations."""
        noise = {"deviations": jnp.exp(params["log_noise"])} if "log_noise" in params else {}
        return described(params["predictor"]) | noise

    def from_description(self, *, coefficients, deviations=None, unit=None):
        """Returns params from coefficients, a normal's deviations, and `unit` as in `LinearRegression`."""
        check_described(
            "GeneralizedLinear",
            coefficients=(coefficients, ("K", "num_inputs + 1"), "finite"),
            **({} if deviations is None else {"deviations": (deviations, ("K",), "positive")}),
        )
        params: dict[str, Any] = {"predictor": linear(jnp.asarray(coefficients, float))}
        if self.response == "normal":
            if deviations is None:
                raise ValueError("GeneralizedLinear('normal'): deviations must be given.")
            deviation = jnp.asarray(deviations, float)
            params["log_noise"] = jnp.log(deviation)
            variance = jnp.mean(deviation**2)
            params = with_given_unit(params, self.floor, unit, variance, "GeneralizedLinear")
        return params

    def predict(self, params: PyTree, inputs: Array) -> Float[Array, " K"]:
        """Returns E[y | u, k] for all k."""
        predictor = params["predictor"](inputs)
        inverse_link = {"normal": lambda f: f, "poisson": jnp.exp, "bernoulli": jax.nn.sigmoid}
        return inverse_link[self.response](predictor)

    def sample(self, params, component, key, inputs=None):
        """Returns a target at the given inputs."""
        mean = self.predict(params, needed(inputs))[component]
        if self.response == "normal":
            noise = jax.random.normal(key, (), mean.dtype)
            return mean + jnp.exp(params["log_noise"][component]) * noise
        draw = {"poisson": jax.random.poisson, "bernoulli": jax.random.bernoulli}[self.response]
        return where_defined(~jnp.isnan(mean), draw(key, mean).astype(mean.dtype))

    def log_prior(self, params):
        if "log_noise" not in params:
            return 0.0
        return noise_penalty(params, self.floor, "GeneralizedLinear")

    def collapsed(self, params, *, ratio: float = 1e-3):
        """Returns whether a normal's deviation is at most `ratio` times the average one, shape `(K,)`."""
        if "log_noise" not in params:
            return super().collapsed(params)
        return noise_collapsed(params["log_noise"], ratio)

    def summary(self):
        return {"response": self.response}
