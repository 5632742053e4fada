"""Independent count columns."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from .._arguments import check_kind
from .._math.algebra import difference, log, matmul
from .._math.special import half_deviance, highest_log_mass
from .._reference import Reference
from .._shortcut import Shortcut
from ..data._check import check_described, check_row, check_table, check_values
from ..data._incomplete_rows import is_incomplete, known, known_numbers
from ..families._undefined import where_defined
from ..priors import Gamma
from ._component import AbstractComponent
from ._parts import part_means
from ._support import is_count, known_within, LARGEST_EXPANDED, log_reciprocal_factorials


# Up to this many rates a product saves little, and a second form would have to be compiled.
_FEW_RATES = 8


class Poisson(AbstractComponent):
    r"""Independent Poisson columns: $p(x \mid k) = \prod_j \lambda_{kj}^{x_j} e^{-\lambda_{kj}} / x_j!$.

    x has shape `(dim,)` and holds counts, or is `IncompleteRows`. Params: `{"log_rates": (K, dim)}`. A rate of 0
    is kept at the smallest number of its dtype.

    **Arguments:**

    - `prior`: a `Gamma` prior on every rate.

    Log-densities are computed as deviances of each count from each rate, which is accurate at any rate. Passes
    over many rows multiply counts by logarithms of rates instead, if a bound on the cancellation allows it.

    ```python
    >>> import elbax, jax.numpy as jnp
    >>> # Hasselblad (1969): days with 0, 1, ..., 9 deaths of women of 80 and older.
    >>> days = jnp.array([162, 267, 271, 185, 111, 61, 27, 8, 3, 1])
    >>> batch = elbax.Batch(jnp.arange(10)[:, None], weight=days)
    >>> model = elbax.Mixture(elbax.components.Poisson(), 2)
    >>> params = model.from_description(weights=[0.4, 0.6], rates=[[1.0], [3.0]])
    >>> print(f"{elbax.evidence(model, params, batch):.3f}")
    -1.825

    ```
    """

    prior: Gamma | None = None

    def __check_init__(self):
        check_kind("Poisson", Gamma, prior=self.prior)

    def check(self, x, weight, who, *, varied=False):
        check_table(x, weight, who, varied=False)
        check_values(x, weight, who, lambda x: (x < 0) | (x != np.round(x)), "counts 0, 1, 2, ...")

    def table(self, x):
        """Returns square roots, whose variance does not depend on the rate."""
        return jnp.sqrt(super().table(x))

    def init(self, x, weight, assignment, num_components):
        """Returns the mean counts of the parts."""
        table, observed = known_numbers(x)
        mean, _, center = part_means(
            table, observed.astype(table.dtype), weight, assignment, num_components, 1.0
        )
        floor = 1e-3 * jnp.where(center > 0, center, 1)
        return {"log_rates": jnp.log(jnp.maximum(mean, floor))}

    def shapes(self, num_components):
        return {"log_rates": (num_components, "dim")}

    def natural(self, params):
        """Returns log p = log p at the current rate + x · log_rate − (rate − current rate), at log_rate = 0."""
        log_rates = params["log_rates"]
        return {
            "log_rate": jnp.zeros_like(log_rates),
            "rate": jnp.exp(log_rates),
            "about": Reference(log_rates),
        }

    def rebase(self, natural, params):
        gap = difference(natural["about"].value, params["log_rates"])
        about = Reference(params["log_rates"])
        return natural | {"log_rate": natural["log_rate"] + gap, "about": about}

    def log_densities(self, natural, x):
        log_rates = natural["about"].value
        check_row(x, log_rates.shape[-1], "Poisson")
        count, observed, possible = known_within(x, is_count, log_rates.dtype)
        seen = observed.astype(log_rates.dtype)
        gain, rate = matmul(natural["log_rate"], count), natural["rate"]
        loss = jnp.sum(seen * half_deviance(count, log_rates), -1)
        reference = possible + jnp.sum(highest_log_mass(count)) - loss
        return reference + gain - matmul(rate - jnp.exp(log_rates), seen)

    def maximize(self, statistics, params, free):
        events, exposure = statistics["log_rate"], -statistics["rate"]
        if self.prior is not None:
            events, exposure = events + (self.prior.shape - 1), exposure + self.prior.rate
        seen = exposure > jnp.finfo(events.dtype).tiny
        log_rates = log(events / jnp.where(seen, exposure, 1))
        return {"log_rates": jnp.where(seen, log_rates, params["log_rates"])}

    def moments(self, params, x):
        rates = jnp.exp(params["log_rates"])
        return rates, rates

    def log_prior(self, params):
        return 0.0 if self.prior is None else self.prior.log_density(params["log_rates"])

    def shortcut(self, params, x):
        log_rates = params["log_rates"]
        if log_rates.size <= _FEW_RATES:
            return None
        # The sum of the products in a typical row of some component.
        rates = jnp.exp(log_rates)
        base = functools.partial(log_reciprocal_factorials, dtype=log_rates.dtype)
        size = jnp.max(jnp.sum((rates + jnp.sqrt(rates)) * (1 + jnp.abs(log_rates)), -1))
        return Shortcut(size <= LARGEST_EXPANDED, _Expanded(self.prior), base)

    def describe(self, params):
        """Returns rates, `(K, dim)`."""
        return {"rates": jnp.exp(params["log_rates"])}

    def from_description(self, *, rates):
        check_described("Poisson", rates=(rates, ("K", "dim"), "not negative"))
        return {"log_rates": log(jnp.asarray(rates, float))}

    def sample(self, params, component, key, inputs=None):
        rate = jnp.exp(params["log_rates"][component])
        return where_defined(~jnp.isnan(rate), jax.random.poisson(key, rate).astype(rate.dtype))

    def at_boundary(self, params, least):
        return {"log_rates": np.asarray(params["log_rates"]) < np.log(least)}


class _Expanded(Poisson):
    """The density x · log rate − rate, without log h(x) = −log x!."""

    def prepare(self, natural):
        return natural | {"log_rate": natural["about"].value + natural["log_rate"]}

    def log_densities(self, natural, x):
        log_rate, rate = natural["log_rate"], natural["rate"]
        check_row(x, rate.shape[-1], "Poisson")
        if not is_incomplete(x):
            return matmul(log_rate, x.astype(rate.dtype)) - jnp.sum(rate, -1)
        values, observed = known(x)
        count, seen = jnp.where(observed, values, 0), observed.astype(rate.dtype)
        return matmul(log_rate, count.astype(rate.dtype)) - matmul(rate, seen)
