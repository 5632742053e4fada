"""Sums over the values of a finite latent."""

import functools
import math
import operator

import jax
import jax.numpy as jnp
import numpy as np

from .._types import Any, Array, Float, Scalar
from ..families import Copies, Product
from ._estimator import AbstractEstimator, frozen
from ._sites import check_sites, Site, sites


_MOST = 4096


class Enumeration(AbstractEstimator):
    r"""Computes $\sum_z q(z) (\log p(x, z) - \log q(z))$ exactly, over all values of a finite latent.

    It is the default of a `Model` over a `Categorical`. Of a `families.Product` or `families.Copies` it sums over
    all combinations of the values of their finite parts, at one draw of the continuous parts.

    **Raises** `TypeError` for a latent without such parts, `ValueError` for more than 4096 combinations.
    """

    @property
    def exact(self) -> bool:
        return True

    def check(self, family):
        if not family.finite:
            check_sites("Enumeration", family)

    def __call__(self, log_joint, q, key):
        if not isinstance(q.family, Product | Copies):
            potentials, constant = q.family.read(log_joint, q.natural.dtype)
            return q.bound(potentials) + constant
        return self.average(log_joint, q, key) + q.entropy()

    def average(self, function, q, key):
        if not isinstance(q.family, Product | Copies):
            return q.expect(function)
        found = sites(q.family, q.natural)
        sizes = [len(site.probabilities) for site in found]
        if math.prod(sizes) > _MOST:
            raise ValueError(
                f"Enumeration: the latent has {math.prod(sizes)} combinations of values, more than {_MOST}. Use "
                "LocalExpectation, which sums over one part at a time."
            )
        z = q.sample(key)
        combinations = np.indices(sizes).reshape(len(sizes), -1)

        def at(values):
            return function(_with_values(z, found, values))

        each = zip(found, combinations, strict=True)
        weights = functools.reduce(
            operator.mul, (site.probabilities[values] for site, values in each)
        )
        return _weighted(weights, jax.vmap(at)(jnp.asarray(combinations.T)))


class LocalExpectation(AbstractEstimator):
    r"""Sums over one finite part of z at a time, at one draw of all others (Titsias and Lázaro-Gredilla 2015).

    The value is that at the draw. The gradient in the probabilities of a part is $\sum_k \nabla q_i(k) \log p(x,
    z_{-i}, k)$, whose noise comes from the other parts alone. It is for a `families.Product` or `families.Copies`;
    their continuous parts move with q. It evaluates the log-joint once for each value of each part.

    **Raises** `TypeError` for a latent without finite parts.
    """

    def check(self, family):
        check_sites("LocalExpectation", family)

    def __call__(self, log_joint, q, key):
        return self.average(log_joint, q, key) + q.entropy()

    def average(self, function, q, key):
        found, z = sites(q.family, q.natural), q.sample(key)
        value = function(z)
        stay = frozen(z)
        for site in found:
            every = jnp.arange(len(site.probabilities))
            values = frozen(jax.vmap(lambda k, site=site: function(site.put(stay, k)))(every))
            local = _weighted(site.probabilities, values)
            # Its value is zero.
            value = value + local - frozen(local)
        return value


def _with_values(z: Any, found: list[Site], values: Array) -> Any:
    for site, value in zip(found, values):
        z = site.put(z, value)
    return z


def _weighted(weights: Float[Array, " K"], values: Float[Array, " K"]) -> Scalar:
    # An impossible value contributes 0, not 0 · (−∞).
    return jnp.sum(jnp.where(weights > 0, weights * jnp.where(weights > 0, values, 0), 0))
