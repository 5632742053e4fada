"""Reweighted wake-sleep: weighted draws for both blocks."""

import equinox as eqx
import jax
import jax.numpy as jnp

from ._estimator import AbstractFixedDraws, frozen
from ._importance_weighted import log_mean


class ReweightedWakeSleep(AbstractFixedDraws):
    r"""Computes the bound of `ImportanceWeighted`, with the slopes of reweighted wake-sleep's wake phase.

    With $w_s = p(x, z_s) / q(z_s)$ and $\tilde w_s = w_s / \sum_t w_t$ these are, for any latent,
    $\sum_s \tilde w_s \nabla_\theta \log p(x, z_s)$ and $\sum_s \tilde w_s \nabla_\phi \log q_\phi(z_s)$
    (Bornschein and Bengio 2015). The first is that of the bound. The second estimates the slope of
    $-\mathrm{KL}(p(z \mid x) \,\|\, q)$: it needs no derivative of draws and no baseline; its bias falls with S.
    Together they are no gradient of one function. In `Chain(SleepEStep(...), GradientMStep(...))` the encoder
    learns from dreams in place of the second.

    **Arguments:** `num_samples`: S.
    """

    num_samples: int = eqx.field(static=True, default=10)

    @property
    def tighter(self) -> bool:
        return True

    def __call__(self, log_joint, q, key):
        joint, density = self.log_densities(log_joint, q, key)
        log_weights = frozen(joint - density)
        share = jax.nn.softmax(log_weights)
        slope = jnp.sum(share * (joint + density))
        return log_mean(log_weights) + slope - frozen(slope)
