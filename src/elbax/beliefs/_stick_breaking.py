"""Beliefs over the weights of a truncated Dirichlet process."""

import jax
import jax.numpy as jnp

from .._math.special import log_minus_digamma
from .._types import Array
from ..priors import StickBreaking
from ._belief import AbstractOnePrior
from ._divergence import dirichlet_divergence
from ._flags import together


class StickBreakingBelief(AbstractOnePrior):
    r"""Betas over the fractions $v_k$: q is `{"on": log a, "off": log b}`, each of shape `(K − 1,)`.

    The best a is 1 plus the expected number of data in the component, the best b is γ plus that in all later ones
    (Blei and Jordan 2006, equations 18 and 19).
    """

    def __init__(self, prior: StickBreaking):
        self.prior = prior

    def _of_counts(self, counts: Array) -> dict[str, Array]:
        later = jnp.cumsum(counts[::-1])[::-1][1:]
        return {"on": jnp.log(1 + counts[:-1]), "off": jnp.log(self.prior.concentration + later)}

    def counts(self, q) -> Array:
        """Returns the expected number of data in each component."""
        last = jnp.exp(q["off"][-1:]) - self.prior.concentration
        return jnp.concatenate([jnp.exp(q["on"]) - 1, last])

    def start(self, params, count):
        return self._of_counts(count * jax.nn.softmax(params))

    def shapes(self, shapes):
        (number,) = shapes
        return dict.fromkeys(("on", "off"), (number - 1,))

    def _log_means(self, q) -> Array:
        """Returns (log E[v], log E[1 − v]), on the last axis."""
        both = jnp.stack([q["on"], q["off"]], -1)
        return both - jax.nn.logsumexp(both, -1, keepdims=True)

    def point(self, q):
        """Returns the logarithms of the mean weights."""
        return _weights(self._log_means(q))

    def natural(self, q):
        both = jnp.stack([q["on"], q["off"]], -1)
        of_all = log_minus_digamma(jnp.sum(jnp.exp(both), -1, keepdims=True))
        return _weights(self._log_means(q) + of_all - log_minus_digamma(jnp.exp(both)))

    def posterior(self, statistics, q, free):
        return together(free, self._of_counts(statistics), q)

    def divergence(self, q):
        log_mean = self._log_means(q)
        concentration = jnp.exp(jnp.stack([q["on"], q["off"]], -1))
        prior = jnp.array([1.0, self.prior.concentration], log_mean.dtype)
        return {"": jnp.sum(dirichlet_divergence(log_mean, concentration, prior))}

    def sample(self, q, key):
        keys = jax.random.split(key)
        on, off = (
            jax.random.loggamma(key, jnp.exp(q[name])) for key, name in zip(keys, ("on", "off"))
        )
        both = jnp.stack([on, off], -1)
        return _weights(both - jax.nn.logsumexp(both, -1, keepdims=True))


def _weights(log_fractions: Array) -> Array:
    """Returns log v_k + Σ_{j<k} log(1 − v_j) of all components."""
    on, off = log_fractions[..., 0], log_fractions[..., 1]
    nothing = jnp.zeros((1,), on.dtype)
    before = jnp.concatenate([nothing, jnp.cumsum(off)])
    return jnp.concatenate([on, nothing]) + before
