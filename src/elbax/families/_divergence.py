"""The prior of a latent, and how far a posterior is from it."""

import dataclasses

import jax

from .._math.algebra import is_label
from .._types import Any, Callable, PyTree, Scalar
from ._family import AbstractFamily, Distribution


@dataclasses.dataclass(frozen=True)
class LogDensity:
    """A density that is known by its logarithm alone."""

    log_prob: Callable[[Any], Any]


def as_prior(given: Any, family: AbstractFamily) -> Any:
    """p(z) as an object with `log_prob(z)`, from such an object, a function z ↦ log p(z), or natural parameters of
    the family."""
    if callable(getattr(given, "log_prob", None)):
        return given
    return LogDensity(given) if callable(given) else family(given)


def exact_divergence(q: Any, prior: Any) -> Scalar | None:
    """KL(q ‖ p) = A(η₀) − (E_q⟨η₀, t(z)⟩ + H(q)), in nats; `None` where the two are not of one family."""
    if not isinstance(prior, Distribution) or not _has_exact_bound(q):
        return None
    if q.family.of_potentials != prior.family:
        return None
    natural = like(prior.natural, q)
    return prior.family.log_normalizer(natural) - q.bound(natural)


def _has_exact_bound(q: Any) -> bool:
    """Whether q is of a family, or weighted draws, which are what they are; not so one draw for a distribution."""
    of_family = getattr(q, "family", None) is not None
    return of_family and (isinstance(q, Distribution) or not hasattr(q, "log_prob"))


def like(natural: PyTree, q: Any) -> PyTree:
    """Natural parameters in the precision of q: a prior of fixed numbers comes in the default one."""
    inexact = [
        leaf.dtype for leaf in jax.tree.leaves(getattr(q, "natural", ())) if not is_label(leaf)
    ]
    if not inexact:
        return natural
    return jax.tree.map(lambda leaf: leaf if is_label(leaf) else leaf.astype(inexact[0]), natural)
