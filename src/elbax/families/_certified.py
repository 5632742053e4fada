"""Log-normalizers computed from products of weights where these are accurate, and in log space elsewhere."""

import abc
import functools

import jax
import jax.numpy as jnp

from .._math.algebra import in_every_lane, is_label
from .._types import Array, PyTree, Scalar
from ._semiring import AbstractSemiring, LOG
from ._structured import AbstractStructured


class AbstractCertified(AbstractStructured):
    """A dynamic program that can also run on weights, forward and backward, with far fewer exponentials.

    Weights that are too small for a float are lost. The backward pass shows whether that could matter. If it
    could, the program runs again in log space: one `lax.cond` per pass.
    """

    @abc.abstractmethod
    def by_products(self, natural: PyTree) -> tuple[Array, Scalar, PyTree]:
        """Returns (whether the rest is accurate, the log-normalizer, its gradient in some of `natural`).

        Accurate means up to rounding.
        """

    @abc.abstractmethod
    def by_logarithms(self, natural: PyTree, semiring: AbstractSemiring) -> Scalar:
        """Returns the sum over all structures."""


def certified(family: AbstractCertified, natural: PyTree) -> Scalar:
    """Returns the log-normalizer; its derivative is the marginals."""
    # Params and data may differ in precision, but both ways must return the same dtype.
    dtype = jnp.result_type(*(leaf for leaf in jax.tree.leaves(natural) if not is_label(leaf)))
    cast = lambda leaf: leaf if is_label(leaf) else leaf.astype(dtype)
    return _certified(family, jax.tree.map(cast, natural))


@functools.partial(jax.custom_jvp, nondiff_argnums=(0,))
def _certified(family: AbstractCertified, natural: PyTree) -> Scalar:
    return _value_and_marginals(family, natural)[0]


@_certified.defjvp
def _(family, primals, tangents):
    (natural,), (slope,) = primals, tangents
    value, marginals = _value_and_marginals(family, natural)
    return value, sum(jnp.sum(marginals[name] * slope[name]) for name in marginals)


def _value_and_marginals(family, natural):
    certain, *found = family.by_products(natural)
    potentials = {name: natural[name] for name in found[1]}

    def in_logs():
        total = lambda potentials: family.by_logarithms(natural | potentials, LOG)
        return jax.value_and_grad(total)(potentials)

    return jax.lax.cond(in_every_lane(certain), lambda: tuple(found), in_logs)
