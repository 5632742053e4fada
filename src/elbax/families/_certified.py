"""Log-normalizers by products of weights where these are certain, by logarithms elsewhere."""

import abc
import functools

import jax
import jax.numpy as jnp

from .._algebra import in_every_lane, is_label
from .._types import Array, PyTree, Scalar
from ._semiring import AbstractSemiring, LOG
from ._structured import AbstractStructured


class AbstractCertified(AbstractStructured):
    """A dynamic program that can also be run on weights, forward and back, at a fraction of the exponentials.

    Weights lose what is too small for a float; running back shows whether that could matter. If it could, the
    logarithms are added up after all: one `lax.cond` a pass.
    """

    @abc.abstractmethod
    def by_products(self, natural: PyTree) -> tuple[Array, Scalar, PyTree]:
        """(whether the rest is right to rounding, the log-normalizer, its gradient in some of `natural`)."""

    @abc.abstractmethod
    def by_logarithms(self, natural: PyTree, semiring: AbstractSemiring) -> Scalar:
        """The sum over all structures."""


def certified(family: AbstractCertified, natural: PyTree) -> Scalar:
    """The log-normalizer, with its marginals for a derivative."""
    # Params and data may differ in precision, and either way of adding up must give the same.
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
