"""Reparameterized draws, which move with q."""

import equinox as eqx
import jax.numpy as jnp

from .._arguments import check_flag
from ..families import Distribution
from ._estimator import AbstractMovingDraws, draws, frozen, over_draws


class Reparameterized(AbstractMovingDraws):
    r"""Estimates the bound by $\frac1S \sum_s \log p(x, z_s) + H(q)$, with reparameterized draws.

    The draws are $z_s = g(\epsilon_s, \phi)$. The entropy is in closed form (Kingma and Welling 2014); for a q
    from another library it is $-\frac1S \sum_s \log q(z_s)$. With S = 1 it is the default of a `Model` over a
    continuous latent.

    **Arguments:**

    - `num_samples`: S.
    - `stepwise`: whether, where q and p(z) are ancestral programs, the closed form of the KL of each draw given
        those before takes the place of the difference of its log-densities, as in
        `programs.Ancestral.log_ratio`. The slopes of an encoder have less noise by it, and most for a ladder, in
        which q contains p. The value has more where q is near p(z | x), as in diffusion.
    """

    num_samples: int = eqx.field(static=True, default=1)
    stepwise: bool = eqx.field(static=True, default=False)

    def __check_init__(self):
        check_flag("Reparameterized", stepwise=self.stepwise)

    def __call__(self, log_joint, q, key):
        if isinstance(q, Distribution):
            return self.average(log_joint, q, key) + q.entropy()
        return self._mean(lambda z: log_joint(z) - q.log_prob(z), q, key)

    def average(self, function, q, key):
        return self._mean(function, q, key)

    def _mean(self, function, q, key):
        z = draws(q, key, self.num_samples)
        return jnp.mean(over_draws(function, z, self.num_samples))


class StickingTheLanding(AbstractMovingDraws):
    r"""Estimates the bound by $\frac1S \sum_s \log p(x, z_s) - \log q_{\bar\phi}(z_s)$, $\bar\phi$ held fixed.

    The draws $z_s$ are reparameterized; the density's own parameters have no gradient. Omitting the score, whose
    mean is zero, leaves no noise in the gradient of q where $q = p(z \mid x)$ (Roeder, Wu and Duvenaud 2017). The
    gradient through a q that reads θ, such as a ladder, has more noise by it: what p and q share cancels only in
    `Reparameterized`.

    **Arguments:** `num_samples`: S.
    """

    num_samples: int = eqx.field(static=True, default=1)

    def __call__(self, log_joint, q, key):
        z, fixed = draws(q, key, self.num_samples), frozen(q)
        log_weight = lambda z: log_joint(z) - fixed.log_prob(z)
        return jnp.mean(over_draws(log_weight, z, self.num_samples))
