"""Fixed draws and the score function."""

import equinox as eqx
import jax
import jax.numpy as jnp

from ._estimator import AbstractEstimator, check_number, draws, frozen


class ScoreFunction(AbstractEstimator):
    r"""Estimates the gradient by $\frac1S \sum_s (\ell_s - \bar\ell_{-s}) \nabla_\phi \log q_\phi(z_s)$.

    Here $\ell = \log p(x, z) - \log q(z)$, and the baseline is the mean of the other draws (Williams 1992; Mnih
    and Rezende 2016). It needs only draws and their density, and has the largest variance.

    **Arguments:** `num_samples`: S, at least 2.
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
