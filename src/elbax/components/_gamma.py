"""Independent positive columns."""

import functools
import math

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from .._arguments import check_positive
from .._free import choose
from .._math.algebra import matmul, without_data
from .._math.special import excess, inverse_digamma, solve_shape, stirling_error
from .._reference import Reference
from .._shortcut import Shortcut
from ..data._check import check_described, check_row, check_table, check_values
from ..data._incomplete_rows import is_incomplete, known, known_numbers
from ._component import AbstractComponent
from ._parts import part_means
from ._support import is_positive, known_within, LARGEST_EXPANDED


# The bound on each single term: the statistics of a narrow density are small differences of its terms.
_LARGEST_TERM = 256.0


class Gamma(AbstractComponent):
    r"""Independent gamma columns with shapes α and rates β.

    $p(x \mid k) = \prod_j \beta_{kj}^{\alpha_{kj}} x_j^{\alpha_{kj} - 1} e^{-\beta_{kj} x_j} /
    \Gamma(\alpha_{kj})$, where x has shape `(dim,)` and is positive. Params: `{"log_shapes": (K, dim),
    "log_rates": (K, dim)}`. Rows may be `IncompleteRows`. The M-step solves log α − ψ(α) = log E[x] − E[log x] to
    rounding by Newton's method.

    **Arguments:**

    - `largest_shape`: an upper bound on α. Without it a component could shrink onto equal values, with unbounded
        likelihood.

    ```python
    >>> import elbax, jax, jax.numpy as jnp
    >>> x = jax.random.gamma(jax.random.key(0), 4.0, (100, 1))
    >>> model = elbax.Mixture(elbax.components.Gamma(), 2)
    >>> params = model.init(jax.random.key(1), x)
    >>> sorted(model.describe(params))
    ['rates', 'shapes', 'weights']

    ```
    """

    largest_shape: float = eqx.field(static=True, default=1e4)

    def __check_init__(self):
        check_positive("Gamma", largest_shape=self.largest_shape)

    def check(self, x, weight, who, *, varied=False):
        check_table(x, weight, who, varied=varied)
        check_values(x, weight, who, lambda x: x <= 0, "positive numbers")

    def table(self, x):
        """Returns logarithms."""
        return jnp.log(super().table(x))

    def init(self, x, weight, assignment, num_components):
        """Returns gammas with the means of the parts and their pooled coefficient of variation."""
        x, observed = known_numbers(x)
        seen = observed.astype(x.dtype)
        mean, residual, center = part_means(x, seen, weight, assignment, num_components, 1.0)
        share = weight / jnp.sum(weight)
        about = jnp.concatenate([mean, center[None]])[assignment]
        relative = matmul(share, (residual / about) ** 2) / matmul(share, seen)
        shape = jnp.clip(1 / jnp.maximum(relative, 1e-3), 1e-2, self.largest_shape)
        log_shapes = jnp.broadcast_to(jnp.log(shape), mean.shape)
        return {"log_shapes": log_shapes, "log_rates": log_shapes - jnp.log(mean)}

    def shapes(self, num_components):
        return dict.fromkeys(("log_shapes", "log_rates"), (num_components, "dim"))

    def natural(self, params):
        r"""Returns coordinates in units of the current mean, v = x / mean − 1.

        The log-density is count − shape (v − log(1 + v)) + tilt v − log x. In these units $\log \beta^\alpha /
        \Gamma(\alpha)$ reduces to ½ log α/2π less Stirling's error: the powers of α that would cancel are gone.
        `tilt` is shape − rate, 0 at the current params.
        """
        shape = jnp.exp(params["log_shapes"])
        return {
            "count": 0.5 * (params["log_shapes"] - math.log(2 * math.pi)) - stirling_error(shape),
            "shape": shape,
            "tilt": jnp.zeros_like(shape),
            "about": Reference(params["log_shapes"] - params["log_rates"]),
        }

    def rebase(self, natural, params):
        """Inserts 1 + v = (1 + v') m'/m, where m' is the new mean."""
        about = self.natural(params)["about"]
        log_growth = about.value - natural["about"].value
        change, shape, tilt = jnp.expm1(log_growth), natural["shape"], natural["tilt"]
        count = natural["count"] - shape * excess(change, log_growth) + tilt * change
        tilt = tilt + (tilt - shape) * change
        return {"count": count, "shape": shape, "tilt": tilt, "about": about}

    def log_densities(self, natural, x):
        check_row(x, natural["shape"].shape[-1], "Gamma")
        dtype = natural["shape"].dtype
        value, observed, possible = known_within(x, is_positive, dtype, otherwise=1)
        log_value, log_mean = jnp.log(value), natural["about"].value
        v = value * jnp.exp(-log_mean) - 1
        loss = excess(v, log_value - log_mean)
        terms = natural["count"] - natural["shape"] * loss + natural["tilt"] * v - log_value
        return jnp.sum(jnp.where(observed, terms, 0), -1) + possible

    def maximize(self, statistics, params, free):
        count, losses, total = statistics["count"], -statistics["shape"], statistics["tilt"]
        empty = without_data(count)
        safe = jnp.where(empty, 1, count)
        # log E[x] − E[log x], for numbers in units of the current mean.
        change = jnp.where(empty, 0, total / safe)
        loss = losses / safe
        log_mean = change - loss
        shape = solve_shape(loss - excess(change, jnp.log1p(change)), largest=self.largest_shape)
        if free["log_rates"] is not True:
            # For given rates: ψ(α) = log β + E[log x], with β and x in units of the current mean.
            given = inverse_digamma(params["log_shapes"] + log_mean)
            given = jnp.clip(given, 1e-3, self.largest_shape)
            shape = choose(free["log_rates"], shape, given)
        log_shapes = jnp.where(empty, params["log_shapes"], jnp.log(shape))
        log_shapes = choose(free["log_shapes"], log_shapes, params["log_shapes"])
        # For a given shape the rate of highest likelihood is the shape divided by the mean.
        unit = params["log_shapes"] - params["log_rates"]
        return {"log_shapes": log_shapes, "log_rates": log_shapes - jnp.log1p(change) - unit}

    def moments(self, params, x):
        means = jnp.exp(params["log_shapes"] - params["log_rates"])
        return means, means**2 * jnp.exp(-params["log_shapes"])

    def shortcut(self, params, x):
        # The sum of the products in a typical row of some component.
        shape, log_mean = jnp.exp(params["log_shapes"]), params["log_shapes"] - params["log_rates"]
        gap = jnp.abs(log_mean - jnp.mean(log_mean, 0))
        terms = (shape + jnp.sqrt(shape)) * (1 + gap)
        allowed = jnp.max(jnp.sum(terms, -1)) <= LARGEST_EXPANDED
        allowed &= jnp.max(terms) <= _LARGEST_TERM
        base = functools.partial(_log_reciprocals, dtype=shape.dtype)
        return Shortcut(allowed, _Expanded(self.largest_shape), base)

    def describe(self, params):
        """Returns shapes and rates, `(K, dim)`."""
        return {"shapes": jnp.exp(params["log_shapes"]), "rates": jnp.exp(params["log_rates"])}

    def from_description(self, *, shapes, rates):
        size = ("K", "dim")
        check_described("Gamma", shapes=(shapes, size, "positive"), rates=(rates, size, "positive"))
        return {
            "log_shapes": jnp.log(jnp.asarray(shapes, float)),
            "log_rates": jnp.log(jnp.asarray(rates, float)),
        }

    def sample(self, params, component, key, inputs=None):
        shape = jnp.exp(params["log_shapes"][component])
        return jax.random.gamma(key, shape) / jnp.exp(params["log_rates"][component])

    def at_boundary(self, params, least):
        largest = np.asarray(params["log_shapes"]) >= np.log(self.largest_shape) - 1e-3
        return {"log_shapes": largest, "log_rates": np.zeros(largest.shape, bool)}

    def collapsed(self, params):
        return jnp.any(params["log_shapes"] >= np.log(self.largest_shape) - 1e-3, -1)


class _Expanded(Gamma):
    r"""The density expanded in x / c and log(x / c), without log h(x) = −log x; c is a common center.

    [count + shape (1 + log c/mean) − tilt] + shape log(x/c) + (tilt − shape) (c/mean) (x/c).
    """

    def prepare(self, natural):
        log_mean = natural["about"].value
        # The density does not depend on the center, so no derivative is taken.
        center = jax.lax.stop_gradient(jnp.mean(log_mean, 0))
        gap, shape, tilt = center - log_mean, natural["shape"], natural["tilt"]
        return {
            "constant": natural["count"] + shape * (1 + gap) - tilt,
            "shape": shape,
            "slope": (tilt - shape) * jnp.exp(gap),
            "about": Reference(center),
        }

    def log_densities(self, natural, x):
        check_row(x, natural["shape"].shape[-1], "Gamma")
        log_center, constant = natural["about"].value, natural["constant"]
        values, observed = known(x)
        values = values.astype(log_center.dtype)
        ratio = values * jnp.exp(-log_center)
        log_ratio = jnp.log(jnp.where(values <= 0, 1, values)) - log_center
        if is_incomplete(x):
            log_ratio, ratio = (jnp.where(observed, part, 0) for part in (log_ratio, ratio))
            constant = matmul(constant, observed.astype(ratio.dtype))
        else:
            constant = jnp.sum(constant, -1)
        return constant + matmul(natural["shape"], log_ratio) + matmul(natural["slope"], ratio)


def _log_reciprocals(x, dtype):
    """Returns −Σⱼ log xⱼ of a row, −∞ if a number is not positive."""
    value, _, possible = known_within(x, is_positive, dtype, otherwise=1)
    return possible - jnp.sum(jnp.log(value))
