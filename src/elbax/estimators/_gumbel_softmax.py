"""A relaxed categorical latent."""

import equinox as eqx
import jax
import jax.numpy as jnp

from .._arguments import check_positive
from ..families import Categorical
from ._estimator import AbstractEstimator, check_number


class GumbelSoftmax(AbstractEstimator):
    r"""Estimates the bound by $\frac1S \sum_s \log p(x, y_s) + H(q)$ at relaxed categorical draws $y_s$.

    $y_s = \mathrm{softmax}((\eta + g_s) / \tau)$ are points inside the simplex instead of its corners (Jang, Gu
    and Poole 2017; Maddison, Mnih and Teh 2017). The log-joint is called with a vector of K shares instead of a
    number 0, …, K − 1, so write it for one-hot z. A lower temperature gives less bias and more noise.

    **Arguments:**

    - `num_samples`: S.
    - `temperature`: τ.
    """

    num_samples: int = eqx.field(static=True, default=1)
    temperature: float = eqx.field(static=True, default=0.5)

    def __check_init__(self):
        check_number("GumbelSoftmax", self.num_samples)
        check_positive("GumbelSoftmax", temperature=self.temperature)

    def check(self, family):
        if not isinstance(family, Categorical):
            raise TypeError(
                f"GumbelSoftmax: the latent must be Categorical, got {type(family).__name__}. Use ScoreFunction."
            )

    def __call__(self, log_joint, q, key):
        return self.average(log_joint, q, key) + q.entropy()

    def average(self, function, q, key):
        shape = (self.num_samples, *q.natural.shape)
        noise = jax.random.gumbel(key, shape, q.natural.dtype)
        relaxed = jax.nn.softmax((q.natural + noise) / self.temperature, -1)
        return jnp.mean(jax.vmap(function)(relaxed))
