"""Draws that move with q."""

import equinox as eqx
import jax
import jax.numpy as jnp

from ..families import Distribution
from ._estimator import AbstractEstimator, check_continuous, check_number, draws, frozen


class Reparameterized(AbstractEstimator):
    r"""$\frac1S \sum_s \log p(x, z_s) + H(q)$ with $z_s = g(\epsilon_s, \phi)$ and the entropy in closed
    form (Kingma and Welling 2014); of a q from another library $H(q)$ is $-\frac1S \sum_s \log q(z_s)$.

    It is what a `Model` over a continuous latent does unless told otherwise, with S = 1.
    """

    num_samples: int = eqx.field(static=True, default=1)

    def __check_init__(self):
        check_number("Reparameterized", self.num_samples)

    def check(self, family):
        check_continuous("Reparameterized", family)

    def __call__(self, log_joint, q, key):
        if isinstance(q, Distribution):
            return self.average(log_joint, q, key) + q.entropy()
        z = draws(q, key, self.num_samples)
        return jnp.mean(jax.vmap(log_joint)(z) - jax.vmap(q.log_prob)(z))

    def average(self, function, q, key):
        return jnp.mean(jax.vmap(function)(draws(q, key, self.num_samples)))


class StickingTheLanding(AbstractEstimator):
    r"""$\frac1S \sum_s \log p(x, z_s) - \log q_{\bar\phi}(z_s)$, the density's own parameters held fixed
    (Roeder, Wu and Duvenaud 2017).

    Leaving out the score, whose mean is zero, leaves no noise at all in the gradient of q where $q = p(z \mid x)$.
    """

    num_samples: int = eqx.field(static=True, default=1)

    def __check_init__(self):
        check_number("StickingTheLanding", self.num_samples)

    def check(self, family):
        check_continuous("StickingTheLanding", family)

    def __call__(self, log_joint, q, key):
        z, fixed = draws(q, key, self.num_samples), frozen(q)
        return jnp.mean(jax.vmap(lambda z: log_joint(z) - fixed.log_prob(z))(z))
