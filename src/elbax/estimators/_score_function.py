"""Fixed draws and the score function."""

from typing import ClassVar

import equinox as eqx
import jax.numpy as jnp

from ._estimator import AbstractFixedDraws, frozen


class ScoreFunction(AbstractFixedDraws):
    r"""Estimates the gradient by $\frac1S \sum_s (\ell_s - \bar\ell_{-s}) \nabla_\phi \log q_\phi(z_s)$.

    Here $\ell = \log p(x, z) - \log q(z)$, and the baseline is the mean of the other draws (Williams 1992; Mnih
    and Rezende 2016). It needs only draws and their density, and has the largest variance.

    **Arguments:** `num_samples`: S, at least 2.
    """

    num_samples: int = eqx.field(static=True, default=2)

    least: ClassVar[int] = 2

    def __call__(self, log_joint, q, key):
        joint, density = self.log_densities(log_joint, q, key)
        learned = frozen(joint - density)
        others = (jnp.sum(learned) - learned) / (self.num_samples - 1)
        score = (learned - others) * (density - frozen(density))
        return jnp.mean(joint - frozen(density) + score)
