"""The prior of a latent, and the divergence of a posterior from it."""

import dataclasses

import jax
import jax.numpy as jnp

from .._math.algebra import is_label
from .._types import Any, Array, Callable, Float, PyTree
from ._any_latent import AnyLatent
from ._diagonal_gaussian import DiagonalGaussian
from ._family import AbstractFamily, Distribution
from ._independent import Copies, Product


@dataclasses.dataclass(frozen=True)
class LogDensity:
    """A distribution of which only the log-density is known."""

    log_prob: Callable[[Any], Any]


def as_prior(given: Any, family: AbstractFamily) -> Any:
    """Returns p(z) as an object with `log_prob(z)`.

    `given` is such an object, a function z ↦ log p(z), or natural parameters of the family.
    """
    if callable(getattr(given, "log_prob", None)):
        return given
    if callable(given):
        return LogDensity(given)
    if isinstance(family, AnyLatent):
        raise TypeError(
            "Model: prior returned natural parameters, but the model has no latent family. Pass one, Model(..., "
            "latent=elbax.Gaussian(2)), or return a distribution with log_prob(z) or a function of z."
        )
    natural = jax.tree.map(jnp.asarray, given)
    if family.natural_shapes is not None:
        whole = lambda leaf: jnp.issubdtype(leaf.dtype, jnp.integer)
        natural = jax.tree.map(lambda leaf: leaf.astype(float) if whole(leaf) else leaf, natural)
    found, expected = tuple(map(jnp.shape, jax.tree.leaves(natural))), family.natural_shapes
    if expected is not None and found != expected:
        raise ValueError(
            f"Model: prior returned natural parameters of shapes {found}; those of one latent of "
            f"{type(family).__name__} have shapes {expected}."
        )
    return family(natural)


def exact_divergence(q: Any, prior: Any) -> Float[Array, "*batch"] | None:
    """Returns KL(q ‖ p) = A(η₀) − (E_q⟨η₀, t(z)⟩ + H(q)) in nats, or `None` if the two are not of one family."""
    if not isinstance(prior, Distribution) or not _has_exact_bound(q):
        return None
    if q.family.of_potentials != prior.family:
        return None
    natural = in_precision_of(getattr(q, "natural", ()), prior.natural)
    # The bound of a tight q is right at its own potentials only.
    tight = getattr(q, "tight", False)
    expected = q.family.bound(q.natural, natural) if tight else q.bound(natural)
    return prior.family.log_normalizer(natural) - expected


def exact_divergences(q: Any, prior: Any) -> PyTree | None:
    """Returns KL(q ‖ p) by independent part, in the structure of z, or `None` as `exact_divergence` does.

    Parts are the coordinates of a `DiagonalGaussian`, the factors of a `Product` and the members of `Copies`.
    """
    total = exact_divergence(q, prior)
    if total is None or not (isinstance(q, Distribution) and q.family == prior.family):
        return total
    of_family: Any = lambda family, *naturals: exact_divergences(*map(family, naturals))
    family, naturals = q.family, (q.natural, in_precision_of(q.natural, prior.natural))
    if isinstance(family, Product):
        each = zip(family.factors, *map(family.parts, naturals), strict=True)
        return family.whole([of_family(*own) for own in each])
    if isinstance(family, Copies):
        return jax.vmap(lambda *own: of_family(family.family, *own))(*naturals)
    if isinstance(family, DiagonalGaussian):
        columns = jax.tree.map(lambda leaf: leaf[:, None], naturals)
        one = lambda *own: exact_divergence(*map(DiagonalGaussian(1), own))
        return jax.vmap(one)(*columns)
    return total


def _has_exact_bound(q: Any) -> bool:
    """Returns whether q is a member of a family or a set of weighted draws, and not estimated by one draw."""
    of_family = getattr(q, "family", None) is not None
    return of_family and (isinstance(q, Distribution) or not hasattr(q, "log_prob"))


def in_precision_of(tree: PyTree, natural: PyTree) -> PyTree:
    """Returns natural parameters in the precision of the first floating-point array of a pytree."""
    leaves = [leaf for leaf in jax.tree.leaves(tree) if hasattr(leaf, "dtype")]
    inexact = [leaf.dtype for leaf in leaves if jnp.issubdtype(leaf.dtype, jnp.inexact)]
    if not inexact:
        return natural
    return jax.tree.map(lambda leaf: leaf if is_label(leaf) else leaf.astype(inexact[0]), natural)
