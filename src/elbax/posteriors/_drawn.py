"""Distributions of other libraries, known by their samples and log-density."""

import dataclasses

import jax
import jax.numpy as jnp

from .._arguments import kind_of
from .._types import Any, Key, PyTree, Scalar
from ..families import AbstractFamily, AnyLatent
from ._particles import moves, Particles


class Drawn(Particles):
    r"""A `source` with `sample(key)` and `log_prob(z)`, whose expectations are estimated by one draw $z \sim r$.

    The bound is $\log p(x, z) - \log r(z)$. Its mean is the ELBO, and the mean of its derivative is the derivative
    of the ELBO: a continuous draw moves with the parameters of r, and a discrete one contributes its score.
    """

    source: Any = None

    @property
    def natural(self) -> PyTree:
        raise TypeError(
            f"{type(self.source).__name__} is not a family of elbax, so it has no natural parameters. Use an "
            "estimator that samples (Reparameterized, StickingTheLanding, ScoreFunction), or an encoder "
            "elbax.Amortized(network, model.latent)."
        )

    def sample(self, key: Key) -> PyTree:
        return self.source.sample(key)

    def log_prob(self, z: PyTree) -> Scalar:
        return log_density(self.source, z)


def as_distribution(q: Any, family: AbstractFamily, key: Key) -> Any:
    """Returns what a posterior returned for one datum, in the form that passes over data take.

    **Raises** `TypeError` for an object that is not a distribution, or whose `log_prob` is not a single number.
    """
    if isinstance(q, Particles) and (q.family is None or isinstance(q.family, AnyLatent)):
        return dataclasses.replace(q, family=family)
    if _can(q, "bound", "entropy", "expect"):
        return q
    if not _can(q, "sample", "log_prob"):
        given = kind_of(q)
        if isinstance(q, jax.Array):
            given = f"an array of shape {q.shape}"
        raise TypeError(
            "A posterior must return a distribution, an object with sample(key) and log_prob(z), but it "
            f"returned {given}. For an encoder use elbax.Amortized(network, model.latent)."
        )
    # The posterior may have drawn from the key itself.
    z = q.sample(jax.random.fold_in(key, 1))
    density = log_density(q, z)
    one = jax.tree.map(lambda leaf: leaf[None], z)
    return Drawn(
        one, jnp.zeros_like(density)[None], density[None], family, moves=moves(q, z), source=q
    )


def _can(q: Any, *names: str) -> bool:
    return all(callable(getattr(q, name, None)) for name in names)


def log_density(source: Any, z: PyTree) -> Scalar:
    """Returns log q(z); `TypeError` if it is not a single number."""
    density = source.log_prob(z)
    if jnp.shape(density) != ():
        raise TypeError(
            f"{type(source).__name__}.log_prob returned shape {jnp.shape(density)} for the latent of one datum; "
            "expected a single number, the log-density of all of z. In numpyro use .to_event(1). In distrax and "
            "distreqx use Independent."
        )
    return density
