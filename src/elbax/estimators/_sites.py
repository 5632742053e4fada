"""The parts of a latent that have finitely many values."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from .._arguments import kind_of
from .._types import Any, Array, Callable, Float, PyTree
from ..families import AbstractFamily, Bernoulli, Categorical, Copies, Product
from ..families._independent import has_parts


class Site(NamedTuple):
    """An independent part of z with values 0, …, K − 1: their probabilities, and `put(z, value)`."""

    probabilities: Float[Array, " K"]
    put: Callable[[PyTree, Any], PyTree]


def sites(family: AbstractFamily, natural: PyTree) -> list[Site]:
    """Returns the parts of z that have finitely many values."""
    if isinstance(family, Categorical):
        return [Site(family.mean(natural), lambda z, value: value)]
    if isinstance(family, Bernoulli):
        # Both from logits, since 1 − p cancels.
        both = jax.nn.sigmoid(jnp.stack([-natural, natural]))
        return [Site(both, lambda z, value: value)]
    if isinstance(family, Product):
        return [
            Site(site.probabilities, _put_factor(family, i, site))
            for i, (factor, own) in enumerate(zip(family.factors, family.parts(natural)))
            for site in sites(factor, own)
        ]
    if isinstance(family, Copies):
        rows = range(len(jax.tree.leaves(natural)[0]))
        return [
            Site(site.probabilities, _put_row(i, site))
            for i in rows
            for site in sites(family.family, jax.tree.map(lambda leaf, i=i: leaf[i], natural))
        ]
    return []


def _put_factor(family: Product, i: int, site: Site) -> Callable[[PyTree, Any], PyTree]:
    def put(z, value):
        parts = list(family.parts(z))
        parts[i] = site.put(parts[i], value)
        return family.whole(parts)

    return put


def _put_row(i: int, site: Site) -> Callable[[PyTree, Any], PyTree]:
    def put(z, value):
        row = site.put(jax.tree.map(lambda leaf: leaf[i], z), value)
        return jax.tree.map(lambda leaf, new: leaf.at[i].set(new), z, row)

    return put


def check_sites(who: str, family: AbstractFamily) -> None:
    """Raises `TypeError` unless some parts of z have finitely many values, and the others draws that move."""
    if not has_parts(family, Categorical, Bernoulli):
        raise TypeError(
            f"{who}: the latent must have finitely many values, such as Categorical(K), or be a Product or Copies "
            f"of such and of continuous ones; got {kind_of(family)}. Use ScoreFunction, Reparameterized or "
            "Quadrature."
        )
