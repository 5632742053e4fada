"""Draws that stay where they are."""

import equinox as eqx
import jax
import jax.numpy as jnp

from ._estimator import AbstractEstimator, check_number, draws, frozen


class ScoreFunction(AbstractEstimator):
    r"""$\nabla_\phi \approx \frac1S \sum_s (\ell_s - \bar\ell_{-s}) \nabla_\phi \log q_\phi(z_s)$ with $\ell
    = \log p(x, z) - \log q(z)$ and the mean of the other draws as baseline (Williams 1992; Mnih and Rezende
    2016).

    It asks nothing of the latent but draws and their density, and has the largest variance.
    """

    num_samples: int = eqx.field(static=True, default=2)

    def __check_init__(self):
        check_number("ScoreFunction", self.num_samples, 2)

    def check(self, family):
        pass

    def __call__(self, log_joint, q, key):
        z = frozen(draws(q, key, self.num_samples))
        joint, density = jax.vmap(lambda z: (log_joint(z), q.log_prob(z)))(z)
        learned = frozen(joint - density)
        others = (jnp.sum(learned) - learned) / (self.num_samples - 1)
        score = (learned - others) * (density - frozen(density))
        return jnp.mean(joint - frozen(density) + score)
