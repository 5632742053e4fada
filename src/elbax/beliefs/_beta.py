"""Beta beliefs over single probabilities."""

from typing import ClassVar

import jax
import jax.numpy as jnp

from .._math.special import log_minus_digamma
from ..components import Bernoulli
from ..priors import Beta
from ._belief import AbstractOnePrior, belief, needed
from ._divergence import dirichlet_divergence
from ._flags import together


class BetaBelief(AbstractOnePrior):
    r"""Betas over the probabilities of Bernoulli columns: `logits` holds the mean and the count it is worth.

    $q(\pi) = \mathrm{Beta}(a, b)$ has mean a / (a + b) and count a + b, and $E_q[\log \pi] = \psi(a) - \psi(a +
    b)$. The best a and b are the prior's plus the expected numbers of ones and zeros.
    """

    block: ClassVar[str] = "logits"

    def __init__(self, component: Bernoulli):
        self.component = component
        self.prior: Beta = needed(
            component.prior, component, "prior", "elbax.priors.Beta(1.0, 1.0)"
        )

    def start(self, params, count):
        logits = params["logits"]
        count = jnp.broadcast_to(count, logits.shape[:1])[:, None]
        on, off = (count * jax.nn.sigmoid(sign * logits) for sign in (1, -1))
        return self._with(self.prior.a + on, self.prior.b + off)

    def _with(self, on, off):
        return {"logits": {"point": jnp.log(on) - jnp.log(off), "log_count": jnp.log(on + off)}}

    def _log_means(self, q):
        """Returns (log E[π], log E[1 − π])."""
        logits = q["logits"]["point"]
        return jax.nn.log_sigmoid(logits), jax.nn.log_sigmoid(-logits)

    def shapes(self, shapes):
        return {"logits": dict.fromkeys(("point", "log_count"), shapes["logits"])}

    def point(self, q):
        return {"logits": q["logits"]["point"]}

    def natural(self, q):
        log_count = q["logits"]["log_count"]
        of_all = log_minus_digamma(jnp.exp(log_count))
        on, off = (
            log_mean + of_all - log_minus_digamma(jnp.exp(log_count + log_mean))
            for log_mean in self._log_means(q)
        )
        return {"on": on, "off": off}

    def posterior(self, statistics, q, free):
        best = self._with(self.prior.a + statistics["on"], self.prior.b + statistics["off"])
        return {"logits": together(free["logits"], best["logits"], q["logits"])}

    def divergence(self, q):
        log_mean = jnp.stack(self._log_means(q), -1)
        concentration = jnp.exp(q["logits"]["log_count"][..., None] + log_mean)
        prior = jnp.array([self.prior.a, self.prior.b], log_mean.dtype)
        return {"logits": jnp.sum(dirichlet_divergence(log_mean, concentration, prior))}

    def sample(self, q, key):
        log_count = q["logits"]["log_count"]
        on, off = (
            jax.random.loggamma(key, jnp.exp(log_count + log_mean))
            for key, log_mean in zip(jax.random.split(key), self._log_means(q), strict=True)
        )
        return {"logits": on - off}

    def predictive(self, q):
        # A single row has each column once, of which only the mean matters.
        return self.component, self.point(q)


@belief.register(Bernoulli)
def _(component):
    return BetaBelief(component)
