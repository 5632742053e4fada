"""Gamma beliefs over rates."""

from typing import ClassVar

import jax
import jax.numpy as jnp

from .._math.special import log_minus_digamma
from ..components import Poisson
from ..priors import Gamma
from ._belief import AbstractOnePrior, belief, needed
from ._divergence import gamma_divergence
from ._flags import together


class GammaBelief(AbstractOnePrior):
    r"""Gammas over the rates of Poisson columns: `log_rates` holds the mean and the exposure it is worth.

    $q(\lambda) = \mathrm{Gamma}(a, b)$ has mean a / b and exposure b, and $E_q[\log \lambda] = \psi(a) - \log b$.
    The best a is the prior's shape plus the expected events, the best b its rate plus the expected exposure.
    """

    block: ClassVar[str] = "log_rates"

    def __init__(self, component: Poisson):
        self.component = component
        self.prior: Gamma = needed(
            component.prior, component, "prior", "elbax.priors.Gamma(shape=1.0, rate=1.0)"
        )

    def start(self, params, count):
        rates = jnp.exp(params["log_rates"])
        count = jnp.broadcast_to(count, rates.shape[:1])[:, None]
        return self._with(self.prior.shape + rates * count, self.prior.rate + count)

    def _with(self, shape, rate):
        log_count = jnp.broadcast_to(jnp.log(rate), shape.shape)
        return {"log_rates": {"point": jnp.log(shape) - log_count, "log_count": log_count}}

    def _shape(self, q):
        return jnp.exp(q["log_rates"]["point"] + q["log_rates"]["log_count"])

    def shapes(self, shapes):
        return {"log_rates": dict.fromkeys(("point", "log_count"), shapes["log_rates"])}

    def point(self, q):
        return {"log_rates": q["log_rates"]["point"]}

    def natural(self, q):
        natural = self.component.natural(self.point(q))
        return natural | {"log_rate": natural["log_rate"] - log_minus_digamma(self._shape(q))}

    def about(self, natural, q):
        return self.component.rebase(natural, self.point(q))

    def posterior(self, statistics, q, free):
        events, exposure = statistics["log_rate"], -statistics["rate"]
        best = self._with(self.prior.shape + events, self.prior.rate + exposure)
        return {"log_rates": together(free["log_rates"], best["log_rates"], q["log_rates"])}

    def divergence(self, q):
        rates = jnp.exp(q["log_rates"]["point"])
        each = gamma_divergence(rates, self._shape(q), self.prior.shape, self.prior.rate)
        return {"log_rates": jnp.sum(each)}

    def sample(self, q, key):
        draws = jax.random.loggamma(key, self._shape(q))
        return {"log_rates": draws - q["log_rates"]["log_count"]}


@belief.register(Poisson)
def _(component):
    return GammaBelief(component)
