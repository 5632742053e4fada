"""A relaxed categorical latent."""

import equinox as eqx
import jax
import jax.numpy as jnp

from .._arguments import check_positive
from .._types import Key, PyTree
from ..families import AbstractFamily, Categorical, Copies, Product
from ..families._independent import has_parts
from ._estimator import AbstractEstimator, check_number


class GumbelSoftmax(AbstractEstimator):
    r"""Estimates the bound by $\frac1S \sum_s \log p(x, y_s) + H(q)$ at relaxed categorical draws $y_s$.

    $y_s = \mathrm{softmax}((\eta + g_s) / \tau)$ are points inside the simplex instead of its corners (Jang, Gu
    and Poole 2017; Maddison, Mnih and Teh 2017). The log-joint is called with a vector of K shares instead of a
    number 0, …, K − 1, so write it for one-hot z. A lower temperature gives less bias and more noise. Of a
    `families.Product` or `families.Copies` all categorical parts are relaxed; the others move with q.

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
        if not has_parts(family, Categorical):
            raise TypeError(
                "GumbelSoftmax: the latent must be Categorical, or a Product or Copies of such and of continuous "
                f"ones; got {type(family).__name__}. Use ScoreFunction."
            )

    def __call__(self, log_joint, q, key):
        return self.average(log_joint, q, key) + q.entropy()

    def average(self, function, q, key):
        keys = jax.random.split(key, self.num_samples)
        draw = lambda key: self._relaxed(q.family, q.natural, key)
        return jnp.mean(jax.vmap(function)(jax.vmap(draw)(keys)))

    def _relaxed(self, family: AbstractFamily, natural: PyTree, key: Key) -> PyTree:
        if isinstance(family, Product):
            keys = jax.random.split(key, len(family.factors))
            each = zip(family.factors, family.parts(natural), keys, strict=True)
            return family.whole([self._relaxed(*one) for one in each])
        if isinstance(family, Copies):
            keys = jax.random.split(key, len(jax.tree.leaves(natural)[0]))
            return jax.vmap(lambda own, key: self._relaxed(family.family, own, key))(natural, keys)
        if isinstance(family, Categorical):
            noise = jax.random.gumbel(key, natural.shape, natural.dtype)
            return jax.nn.softmax((natural + noise) / self.temperature, -1)
        return family.sample(natural, key)
