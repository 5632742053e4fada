"""Linear regressions with normal noise."""

import math

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from .._arguments import check_kind, check_not_negative
from .._math.algebra import diagonal, matmul, without_data
from .._math.linear_algebra import solve_positive
from .._reference import Reference
from .._types import Any, AnyArray, Array, Float, PyTree
from ..data._check import check_described, check_row, check_rows, check_table
from ..data._incomplete_rows import has_incomplete, known_numbers
from ..priors import NormalInverseGamma
from ._component import AbstractComponent
from ._linear import design
from ._moved import unless
from ._residual import insert_residual, least_share, with_prior
from ._unit import floors, positive_variance, with_given_unit, with_unit


class LinearRegression(AbstractComponent):
    r"""Linear regressions with normal noise: $p(y \mid u, k) = N(y; \beta_{k0} + \beta_k \cdot u, \sigma_k^2)$.

    A datum is `(inputs, target)`: u of shape `(num_inputs,)` and a number y. The density is that of the target
    given the inputs. `Mixture(LinearRegression(), K)` is a mixture of regressions; `MixtureOfExperts` adds a gate.

    Params: `{"coefficients": (K, num_inputs + 1), "log_noise": (K,)}`, intercepts first. They also hold
    `"center"`, a `Reference` to the inputs' means, about which sums are formed (0 if absent), and with a floor
    `"unit"`, a `Reference` to the target's standard deviation.

    **Arguments:**

    - `floor`: the weight of the penalty −½ floor · var(y) / σ². It keeps a regression from collapsing onto a few
        points, whatever the target's units are. 0 turns it off.
    - `prior`: a `NormalInverseGamma` on the coefficients, with the intercept at the inputs' mean, and the noise.

    Rounding hides noise below 3e-7 of the target's standard deviation (3.5e-4 in float32): no fit goes below that.

    ```python
    >>> import elbax, jax, jax.numpy as jnp
    >>> u = jnp.linspace(0.0, 1.0, 50)
    >>> x = (u[:, None], jnp.where(jnp.arange(50) % 2 == 0, u, 1 - u))
    >>> model = elbax.Mixture(elbax.components.LinearRegression(), 2)
    >>> params = model.init(jax.random.key(0), x)
    >>> model.describe(params)["coefficients"].shape
    (2, 2)

    ```
    """

    floor: float = eqx.field(static=True, default=1e-6)
    prior: NormalInverseGamma | None = None

    def __check_init__(self):
        check_not_negative("LinearRegression", floor=self.floor)
        check_kind("LinearRegression", NormalInverseGamma, prior=self.prior)

    def check(self, x, weight, who, *, varied=False):
        check_regression(x, weight, who, varied)
        if varied:
            check_varied(x[1], weight, who)

    def table(self, x):
        """Returns inputs and target side by side."""
        return regression_table(x)

    def init(self, x, weight, assignment, num_components):
        """Returns least-squares fits in each part, shrunk slightly to the overall fit."""
        inputs, target = regression_numbers(x)
        coefficients = least_squares(inputs, target, weight, assignment, num_components)
        residual = target - jnp.sum(jax.vmap(design)(inputs) * coefficients[assignment], -1)
        share = weight / jnp.sum(weight)
        center = matmul(share, target)
        spread = matmul(share, (target - center) ** 2)
        variance = matmul(share, residual**2) + 1e-3 * positive_variance(spread)
        log_noise = jnp.full(num_components, 0.5 * jnp.log(variance))
        about = Reference(matmul(share, inputs))
        params = {"coefficients": coefficients[:-1], "log_noise": log_noise, "center": about}
        return with_unit(params, self.floor, spread)

    def shapes(self, num_components):
        return {
            "coefficients": (num_components, "num_inputs + 1"),
            "log_noise": (num_components,),
            "center": Reference((lambda sizes: sizes["num_inputs + 1"] - 1,)),
            "unit": Reference(()),
        }

    def natural(self, params: PyTree) -> PyTree:
        """Returns coordinates in units of the noise, about the current regression.

        With e = (y − β·ũ)/σ at the current β and ũ = (1, u − c), the log-density is count − ½ τ e² + e c·ũ − ½
        ũᵀGũ at τ = 1, c = 0, G = 0. Inputs far from 0 are centered, so that moments do not cancel, and slopes and
        the intercept (at the center) are nearly orthogonal.
        """
        coefficients, center = params["coefficients"], _center(params)
        num_components, width = coefficients.shape
        return {
            "count": -params["log_noise"] - 0.5 * math.log(2 * math.pi),
            "precision": jnp.ones_like(params["log_noise"]),
            "cross": jnp.zeros_like(coefficients),
            "gram": jnp.zeros((num_components, width, width), coefficients.dtype),
            "about": Reference(
                {
                    "coefficients": at_center(coefficients, center),
                    "center": center,
                    "deviation": jnp.exp(params["log_noise"]),
                }
            ),
        }

    def rebase(self, natural: PyTree, params: PyTree) -> PyTree:
        """Inserts the residual e = (σ'/σ) e' + d·ũ with d = (β' − β)/σ of the new params."""
        about, new = natural["about"].value, self.natural(params)["about"]
        deviation = about["deviation"]
        ratio = new.value["deviation"] / deviation
        shift = (new.value["coefficients"] - about["coefficients"]) / deviation[:, None]
        return natural | {"about": new} | insert_residual(natural, ratio, shift)

    def log_densities(self, natural: PyTree, x: Any) -> Float[Array, " K"]:
        inputs, target = x
        check_target(target, "LinearRegression")
        about = natural["about"].value
        coefficients = about["coefficients"]
        check_row(inputs, coefficients.shape[1] - 1, "LinearRegression, inputs")
        u = design(inputs.astype(coefficients.dtype) - about["center"])
        left = target.astype(u.dtype) - coefficients[:, 0]
        residual = (left - matmul(coefficients[:, 1:], u[1:])) / about["deviation"]
        quadratic = matmul(natural["gram"].reshape(len(residual), -1), jnp.outer(u, u).reshape(-1))
        gain = residual * matmul(natural["cross"], u)
        return natural["count"] - 0.5 * natural["precision"] * residual**2 + gain - 0.5 * quadratic

    def at_center(self, params: PyTree) -> Float[Array, "K width"]:
        """Returns the coefficients with intercepts at the inputs' mean."""
        return at_center(params["coefficients"], _center(params))

    def from_center(self, params: PyTree, row: Float[Array, "K width"]) -> Float[Array, "K width"]:
        """Returns coefficients with intercepts at u = 0, given those at the inputs' mean."""
        return at_center(row, -_center(params))

    def maximize(self, statistics, params, free):
        if self.prior is not None:
            row, variance = self.at_center(params), jnp.exp(2 * params["log_noise"])
            width = row.shape[-1]
            precisions = self.prior.precisions(width, row.dtype)
            # For the mode: N(w; 0, σ²/λ) has a factor 1/σ for each coefficient, IG(σ²; a, b) the power −(a + 1).
            count = 2 * self.prior.shape + 2 + width
            square = 2 * self.prior.rate
            statistics = with_prior(statistics, row, variance, precisions, count, square)
        return self.regress(statistics, params, free)

    def regress(self, statistics: PyTree, params: PyTree, free: PyTree) -> PyTree:
        """Returns least-squares coefficients and the variance of their residuals, at most with a floor."""
        count = statistics["count"]
        empty = without_data(count)
        safe = jnp.where(empty, 1, count)
        old, center = params["coefficients"], _center(params)
        deviation = jnp.exp(params["log_noise"])
        gram, cross = -2 * statistics["gram"], statistics["cross"]

        def explained(change):
            quadratic = jnp.einsum("ki,kij,kj->k", change, gram, change, precision="highest")
            return 2 * jnp.sum(change * cross, -1) - quadratic

        moving = jnp.broadcast_to(free["coefficients"], cross.shape) & ~empty[:, None]
        solve = jax.vmap(solve_masked)
        change = solve(gram / safe[:, None, None], cross / safe[:, None], moving)
        # The intercept at u = 0, from that at the center.
        shear = jnp.eye(len(center) + 1, dtype=center.dtype).at[0, 1:].set(-center)
        change = matmul(change, shear.T)
        if free["coefficients"] is not True:
            # A frozen intercept is the one at u = 0.
            back = 2 * jnp.eye(len(shear), dtype=center.dtype) - shear
            turned = matmul(back.T, matmul(gram, back))
            held = solve(turned / safe[:, None, None], matmul(cross, back) / safe[:, None], moving)
            change = jnp.where(moving[:, :1], change, held)
        new = jnp.where(moving, old + deviation[:, None] * change, old)

        def made(new):
            return (at_center(new, center) - at_center(old, center)) / deviation[:, None]

        lost = explained(jax.lax.stop_gradient(made(new))) <= 0
        new = unless(lost, old, new)
        square = -2 * statistics["precision"]
        residual = square - explained(made(new))
        if self.floor:
            residual += (floors(params, self.floor, "LinearRegression") / deviation) ** 2
        # The target's variance in units of the noise: that of e + β·u, without the intercept.
        weights = old / deviation[:, None]
        slopes = weights[:, 1:]
        mean, both = gram[:, 0, 1:] / safe[:, None], gram[:, 1:, 1:] / safe[:, None, None]
        covariance = both - mean[:, :, None] * mean[:, None, :]
        signal = jnp.einsum("ki,kij,kj->k", slopes, covariance, slopes, precision="highest")
        # A residual is a difference of numbers of this size: that of the terms of the fit.
        squares = diagonal(both) + center * (2 * mean + center)
        terms = weights[:, 0] ** 2 + jnp.sum(slopes**2 * squares, -1)
        rounding = 8 * gram.shape[-1] * jnp.finfo(count.dtype).eps * square / safe
        least = least_share(jnp.maximum(signal, 0) + square / safe, terms, rounding)
        log_noise = params["log_noise"] + 0.5 * jnp.log(jnp.maximum(residual / safe, least))
        return params | {
            "coefficients": new,
            "log_noise": jnp.where(empty, params["log_noise"], log_noise),
        }

    def log_prior(self, params):
        total = noise_penalty(params, self.floor, "LinearRegression")
        if self.prior is not None:
            row, variance = self.at_center(params), jnp.exp(2 * params["log_noise"])
            precisions = self.prior.precisions(row.shape[-1], row.dtype)
            total += jnp.sum(self.prior.log_density_of_row(row, variance, precisions))
            total += jnp.sum(self.prior.log_density_of_variance(variance))
        return total

    def describe(self, params):
        """Returns coefficients `(K, num_inputs + 1)`, intercepts first, and the noise's deviations `(K,)`."""
        return {
            "coefficients": params["coefficients"],
            "deviations": jnp.exp(params["log_noise"]),
        }

    def from_description(self, *, coefficients, deviations, unit=None, center=None):
        """Returns params from coefficients and standard deviations of the noise.

        **Arguments:**

        - `coefficients`: `(K, num_inputs + 1)`, intercepts first.
        - `deviations`: `(K,)`.
        - `unit`: the target's standard deviation, to which the floor is relative; by default the root mean square
            of `deviations`.
        - `center`: `(num_inputs,)`, the inputs' means, about which sums are formed; by default 0. It matters only
            for inputs that are many deviations from 0, which would lose digits.
        """
        check_described(
            "LinearRegression",
            coefficients=(coefficients, ("K", "num_inputs + 1"), "finite"),
            deviations=(deviations, ("K",), "positive"),
        )
        deviation, coefficients = jnp.asarray(deviations, float), jnp.asarray(coefficients, float)
        about = jnp.zeros_like(coefficients[0, 1:])
        if center is not None:
            about = jnp.asarray(center, about.dtype)
        size = coefficients[0, 1:].shape
        if about.shape != size:
            raise ValueError(
                f"LinearRegression: center must hold one number for each input, shape {size}; got shape "
                f"{about.shape}."
            )
        params = {
            "coefficients": coefficients,
            "log_noise": jnp.log(deviation),
            "center": Reference(about),
        }
        variance = jnp.mean(deviation**2)
        return with_given_unit(params, self.floor, unit, variance, "LinearRegression")

    def predict(self, params: PyTree, inputs: Float[Array, " P"]) -> Float[Array, " K"]:
        """Returns E[y | u, k] for all k."""
        return matmul(params["coefficients"], design(inputs))

    def sample(self, params, component, key, inputs=None):
        """Returns a target at the given inputs."""
        mean = self.predict(params, needed(inputs))[component]
        noise = jax.random.normal(key, (), mean.dtype)
        return mean + jnp.exp(params["log_noise"][component]) * noise

    def collapsed(self, params, *, ratio: float = 1e-3):
        """Returns whether a standard deviation is at most `ratio` times the average one, shape `(K,)`."""
        return noise_collapsed(params["log_noise"], ratio)


def _center(params: PyTree) -> Array:
    """Returns the center that is subtracted from the inputs."""
    if "center" in params:
        return jax.lax.stop_gradient(params["center"].value)
    return jnp.zeros_like(params["coefficients"][0, 1:])


def at_center(coefficients: Array, center: Array) -> Array:
    """Returns the coefficients with intercepts at the center.

    The barriers keep it apart from surrounding code, so that its last digit is the same wherever it is computed.
    """
    coefficients, center = jax.lax.optimization_barrier((coefficients, center))
    intercept = coefficients[..., 0] + matmul(coefficients[..., 1:], center)
    intercept = jax.lax.optimization_barrier(intercept)
    return jnp.concatenate([intercept[..., None], coefficients[..., 1:]], -1)


def noise_penalty(params: dict, floor: float, who: str) -> Array | float:
    """Returns −½ floor Σ var(y) / σ²."""
    if not floor:
        return 0.0
    return -0.5 * jnp.sum((floors(params, floor, who) * jnp.exp(-params["log_noise"])) ** 2)


def noise_collapsed(log_noise: Array, ratio: float) -> Array:
    deviation = jnp.exp(log_noise)
    return ~(deviation > ratio * jnp.sqrt(jnp.mean(deviation**2)))


def check_varied(target: AnyArray, weight: AnyArray, who: str) -> None:
    if np.ptp(np.asarray(target)[np.asarray(weight) > 0]) == 0:
        raise ValueError(
            f"{who}: the target is constant, so its variance would be estimated as 0. Use a target that varies."
        )


def check_target(target: Any, who: str) -> None:
    """Raises `ValueError` for a datum whose target is not a single number."""
    if jnp.shape(target) != ():
        raise ValueError(
            f"{who}: got a target of shape {jnp.shape(target)}; expected one datum (inputs, target) whose target "
            "is a single number. A posterior takes one datum. For all rows of a table use "
            "jax.vmap(posterior)(x)."
        )


def check_regression(x: Any, weight: AnyArray, who: str, varied: bool) -> None:
    if not (isinstance(x, tuple) and len(x) == 2):
        raise ValueError(
            f"{who}: the data of a regression must be a pair (inputs, target) of shapes (num_data, num_inputs) "
            f"and (num_data,); got {type(x).__name__}."
        )
    if has_incomplete(x):
        raise ValueError(
            f"{who}: got missing values, but a regression needs every input and target. Drop the incomplete "
            "rows, or impute the missing values."
        )
    inputs, target = map(np.asanyarray, x)
    if target.ndim != 1:
        raise ValueError(f"{who}: expected targets of shape (num_data,), got {target.shape}.")
    check_table(inputs, weight, f"{who}, inputs", varied=varied)
    check_rows(target[:, None], weight, f"{who}, target")


def regression_numbers(x: Any) -> tuple[Array, Array]:
    inputs, _ = known_numbers(x[0])
    return inputs, jnp.asarray(x[1]).astype(inputs.dtype)


def regression_table(x: Any) -> Array:
    inputs, target = regression_numbers(x)
    return jnp.concatenate([inputs, target[:, None]], 1)


def needed(inputs: Any) -> Any:
    if inputs is None:
        raise TypeError(
            "sample: a regression does not model its inputs, so it cannot draw them. Pass them: sample(..., "
            "inputs=...)."
        )
    return inputs


def solve_masked(gram: Array, cross: Array, moving: Array) -> Array:
    """Returns the argmin over the moving entries of ½ bᵀ gram b − cross·b; the others are 0.

    Columns are scaled alike first, and a ridge of the size of rounding keeps collinear ones finite.
    """
    scale = jnp.sqrt(diagonal(gram))
    scale = jnp.where(scale > 0, scale, 1)
    eye = jnp.eye(len(cross), dtype=gram.dtype)
    ridge = 8 * len(cross) * jnp.finfo(gram.dtype).eps
    system = gram / jnp.outer(scale, scale) + ridge * eye
    system = jnp.where(moving[:, None] & moving, system, eye)
    right = jnp.where(moving, cross / scale, 0)
    return solve_positive(system, right) / scale


def least_squares(inputs, target, weight, assignment, num_components, pull: float = 0.1) -> Array:
    """Returns coefficients (K + 1, width) in each part and, last, in the whole.

    In each part the whole counts with weight `pull`, so that the line of a part with one row is near the overall
    line.
    """
    share = weight / jnp.sum(weight)
    center = matmul(share, inputs)
    u = jax.vmap(design)(inputs - center)
    outer = jax.vmap(jnp.outer)(u, u)
    weighted = share[:, None, None] * outer, share[:, None] * u * target[:, None]
    mass = jax.ops.segment_sum(share, assignment, num_components)

    def systems(weighted):
        parts, whole = (
            jax.ops.segment_sum(weighted, assignment, num_components),
            jnp.sum(weighted, 0),
        )
        each = mass.reshape((-1,) + (1,) * (parts.ndim - 1))
        mixed = parts / jnp.where(each > 0, each, 1) + pull * whole
        return jnp.concatenate([mixed, whole[None]])

    gram, cross = map(systems, weighted)
    found = jax.vmap(lambda g, c: solve_masked(g, c, jnp.ones(len(c), bool)))(gram, cross)
    return at_center(found, -center)
