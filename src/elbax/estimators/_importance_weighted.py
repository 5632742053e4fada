"""The bound from several draws, and its three gradients."""

from typing import ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from ._estimator import AbstractFixedDraws, AbstractMovingDraws, draws, frozen, over_draws


class ImportanceWeighted(AbstractMovingDraws):
    r"""Computes the importance-weighted bound $\log \frac1S \sum_s p(x, z_s) / q(z_s)$.

    Its expectation is at least the ELBO and tends to log p(x) (Burda, Grosse and Salakhutdinov 2016). For q itself
    more draws do not help: the signal-to-noise ratio of the encoder's gradient falls as $S^{-1/2}$ (Rainforth et
    al. 2018); see `DoublyReparameterized`.

    **Arguments:** `num_samples`: S.
    """

    num_samples: int = eqx.field(static=True, default=10)

    @property
    def tighter(self) -> bool:
        return True

    def __call__(self, log_joint, q, key):
        z = draws(q, key, self.num_samples)
        log_weight = lambda z: log_joint(z) - q.log_prob(z)
        return log_mean(over_draws(log_weight, z, self.num_samples))


class DoublyReparameterized(AbstractMovingDraws):
    r"""Computes the bound of `ImportanceWeighted`, with a better gradient for the encoder.

    That gradient, $\sum_s \tilde w_s^2\, \partial_z \log w_s\, \partial_\phi z_s$, is unbiased, and its
    signal-to-noise ratio grows as $S^{1/2}$ (Tucker et al. 2019). The gradient in θ is the plain one.

    **Arguments:** `num_samples`: S.
    """

    num_samples: int = eqx.field(static=True, default=10)

    @property
    def tighter(self) -> bool:
        return True

    def __call__(self, log_joint, q, key):
        z, fixed = draws(q, key, self.num_samples), frozen(q)
        stay = frozen(z)
        log_weight = lambda z: log_joint(z) - fixed.log_prob(z)
        log_weights, pull = over_draws(jax.value_and_grad(log_weight), stay, self.num_samples)
        share = frozen(jax.nn.softmax(log_weights))
        # Its value is zero; its gradient in φ goes through the draws alone.
        moved = jax.tree.map(
            lambda pull, z, stay: jnp.sum(
                (share**2).reshape((-1,) + (1,) * (z.ndim - 1)) * frozen(pull) * (z - stay)
            ),
            pull,
            z,
            stay,
        )
        # The log-mean has the gradient in θ, at fixed draws.
        return log_mean(log_weights) + sum(jax.tree.leaves(moved))


class ImportanceWeightedScore(AbstractFixedDraws):
    r"""Computes the bound of `ImportanceWeighted` for any latent, with the score of the draws: VIMCO.

    The gradient for the encoder is $\sum_s (\hat L - \hat L_{-s})\, \nabla_\phi \log q(z_s) + \sum_s \tilde w_s\,
    \nabla_\phi \log w_s$, which is unbiased. $\hat L_{-s}$ is the bound with the geometric mean of the other
    weights in place of $w_s$, so that each draw learns what it added (Mnih and Rezende 2016).

    **Arguments:** `num_samples`: S, at least 2.
    """

    num_samples: int = eqx.field(static=True, default=10)

    least: ClassVar[int] = 2

    @property
    def tighter(self) -> bool:
        return True

    def __call__(self, log_joint, q, key):
        joint, density = self.log_densities(log_joint, q, key)
        log_weights = joint - density
        bound = log_mean(log_weights)
        own = np.eye(self.num_samples, dtype=bool)
        others = jnp.sum(jnp.where(own, 0, log_weights), 1) / (self.num_samples - 1)
        without = jax.vmap(log_mean)(jnp.where(own, others[:, None], log_weights))
        # Its value is zero.
        score = frozen(bound - without) * (density - frozen(density))
        return bound + jnp.sum(score)


def log_mean(x):
    return jax.nn.logsumexp(x) - jnp.log(jnp.asarray(len(x), x.dtype))
