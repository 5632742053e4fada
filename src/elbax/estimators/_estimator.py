"""The interface between a model and an estimator."""

import abc
from typing import ClassVar

import equinox as eqx
import jax

from .._arguments import check_count
from .._types import Any, Array, Callable, Key, Scalar
from ..families import AbstractFamily


class AbstractEstimator(eqx.Module):
    """`estimator(log_joint, q, key)` returns the bound of one datum; its derivative estimates the bound's."""

    @property
    def exact(self) -> bool:
        """Whether it is deterministic."""
        return False

    @property
    def moves_draws(self) -> bool:
        """Whether its slope is that of draws which move with the parameters of q."""
        return False

    @property
    def tighter(self) -> bool:
        """Whether it bounds log p(x) by several draws: a bound that is not reconstruction less KL."""
        return False

    @abc.abstractmethod
    def check(self, family: AbstractFamily) -> None:
        """Raises `TypeError` for a family that it does not support."""

    def average(self, function: Callable[[Any], Scalar], q: Any, key: Key) -> Scalar | None:
        """E_q[function(z)] alone, or its estimate, for a model that knows KL(q ‖ p(z)) exactly; `None` for an
        estimator that needs the density of q with it."""
        return None

    @abc.abstractmethod
    def __call__(self, log_joint: Callable[[Any], Scalar], q: Any, key: Key) -> Scalar:
        """Returns E_q[log_joint(z) − log q(z)] or its estimate, in nats."""


class AbstractMovingDraws(AbstractEstimator):
    """An estimator from `num_samples` draws that move with the parameters of q."""

    num_samples: eqx.AbstractVar[int]

    def __check_init__(self):
        check_number(type(self).__name__, self.num_samples)

    @property
    def moves_draws(self) -> bool:
        return True

    def check(self, family: AbstractFamily) -> None:
        if not family.moves:
            raise TypeError(
                f"{type(self).__name__}: got a discrete {type(family).__name__} latent, but draws can be "
                "reparameterized only for a continuous one. Use ScoreFunction. For a Categorical latent, "
                "Enumeration and GumbelSoftmax are available too."
            )


class AbstractFixedDraws(AbstractEstimator):
    """An estimator from `num_samples` draws that stay where they are, of any latent: the density of q moves."""

    num_samples: eqx.AbstractVar[int]

    least: ClassVar[int] = 1

    def __check_init__(self):
        check_number(type(self).__name__, self.num_samples, self.least)

    def check(self, family: AbstractFamily) -> None:
        pass

    def log_densities(
        self, log_joint: Callable[[Any], Scalar], q: Any, key: Key
    ) -> tuple[Array, Array]:
        """Returns (log p(x, z), log q(z)) of each draw."""
        z = frozen(draws(q, key, self.num_samples))
        return over_draws(lambda z: (log_joint(z), q.log_prob(z)), z, self.num_samples)


def draws(q: Any, key: Key, number: int) -> Any:
    if number == 1:
        return jax.tree.map(lambda leaf: leaf[None], q.sample(key))
    return jax.vmap(q.sample)(jax.random.split(key, number))


def over_draws(function: Callable[[Any], Any], z: Any, number: int) -> Any:
    if number == 1:
        # An axis of one draw would transpose the products of networks and copy their results.
        found = function(jax.tree.map(lambda leaf: leaf[0], z))
        return jax.tree.map(lambda leaf: leaf[None], found)
    # The number is told for a model without latents, whose z has no parts.
    return jax.vmap(function, axis_size=number)(z)


def frozen(tree: Any) -> Any:
    # A distribution of another library may hold functions among its arrays.
    stop = lambda leaf: jax.lax.stop_gradient(leaf) if eqx.is_array(leaf) else leaf
    return jax.tree.map(stop, tree)


def check_number(name: str, number: int, least: int = 1) -> None:
    check_count(name, least=least, num_samples=number)
