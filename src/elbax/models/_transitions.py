"""How the next state of a hidden Markov model depends on the present one: alone, or with inputs."""

import abc

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from .._arguments import check_function
from .._free import is_frozen
from .._invariance import beside_by_name, Invariances, nothing, shifts
from .._math.algebra import log
from .._types import Any, Array, Float, PyTree, Scalar
from ..posteriors import Network
from ..priors import Dirichlet
from ..priors._shares import log_prior_of_shares, log_shares_of, maximize_shares, vanished


class AbstractTransitions(eqx.Module):
    """A kind of transitions. `allowed` (K, K) says which are possible; the params are in the kind's own form."""

    @property
    @abc.abstractmethod
    def constant(self) -> bool:
        """Whether all steps have the same transitions."""

    @abc.abstractmethod
    def values_of(self, steps: PyTree) -> PyTree:
        """Returns what the states emit, of the data of one or more steps."""

    @abc.abstractmethod
    def shape(self, num_states: int) -> Any:
        """Returns the shape of the params, as `AbstractModel.shapes` does."""

    @abc.abstractmethod
    def start(self, logits: Float[Array, "K K"], steps: PyTree) -> PyTree:
        """Returns params with these logits for the given steps of data."""

    @abc.abstractmethod
    def natural(self, params: PyTree, allowed: np.ndarray) -> PyTree:
        """Returns the coordinates η: normalized log-probabilities if they are constant."""

    @abc.abstractmethod
    def along(self, natural: PyTree, steps: PyTree, allowed: np.ndarray) -> Array:
        """Returns the log-probabilities of one sequence, (K, K) or (T − 1, K, K)."""

    @abc.abstractmethod
    def maximize(
        self,
        statistics: PyTree,
        params: PyTree,
        free: PyTree,
        allowed: np.ndarray,
        prior: Dirichlet | None,
    ) -> PyTree:
        """Returns the params of highest expected log-joint, as `AbstractModel.maximize` does."""

    @abc.abstractmethod
    def log_prior(
        self, params: PyTree, allowed: np.ndarray, prior: Dirichlet | None
    ) -> Scalar | float:
        """Returns log p(params)."""

    @abc.abstractmethod
    def describe(self, params: PyTree, allowed: np.ndarray) -> dict[str, Array]:
        """Returns `{"transition": probabilities}` if they are constant, else nothing."""

    @abc.abstractmethod
    def described(self, transition: Any, num_states: int) -> dict[str, Any]:
        """Returns what `check_described` has to check, by name."""

    @abc.abstractmethod
    def from_description(self, transition: Any) -> PyTree:
        """Returns params."""

    @abc.abstractmethod
    def invariances(self, params: PyTree, allowed: np.ndarray) -> Invariances:
        """Returns the directions that leave the transitions unchanged."""

    @abc.abstractmethod
    def at_boundary(self, params: PyTree, least: float, allowed: np.ndarray) -> PyTree:
        """Returns which probabilities have vanished, as `AbstractModel.at_boundary` does."""


class Homogeneous(AbstractTransitions):
    """The same probabilities in every step. The params are their logits (K, K)."""

    @property
    def constant(self) -> bool:
        return True

    def values_of(self, steps):
        return steps

    def shape(self, num_states):
        return (num_states, num_states)

    def start(self, logits, steps):
        return logits

    def natural(self, params, allowed):
        return log_shares_of(params, allowed)

    def along(self, natural, steps, allowed):
        return natural

    def maximize(self, statistics, params, free, allowed, prior):
        return maximize_shares(statistics, params, free, allowed, prior)

    def log_prior(self, params, allowed, prior):
        return log_prior_of_shares(params, allowed, prior)

    def describe(self, params, allowed):
        table = log_shares_of(params, allowed)
        return {"transition": jnp.where(allowed, jnp.exp(table), 0)}

    def described(self, transition, num_states):
        return {"transition": (transition, (num_states, num_states), "shares")}

    def from_description(self, transition):
        return log(jnp.asarray(transition, float))

    def invariances(self, params, allowed):
        return shifts(params.shape, allowed)

    def at_boundary(self, params, least, allowed):
        return vanished(params, least, allowed)


class InputDriven(AbstractTransitions):
    """A function from a step's inputs to the logits (K, K) of the transition into it, which is the params.

    A datum is `(inputs, values)`.
    """

    @property
    def constant(self) -> bool:
        return False

    def values_of(self, steps):
        return steps[1]

    def shape(self, num_states):
        return callable

    def start(self, logits, steps):
        """Returns the same logits for all inputs, as a linear function of them."""
        slopes = jnp.zeros((*logits.shape, steps[0].shape[-1]), logits.dtype)
        return Network(_linear, {"logits": logits, "slopes": slopes})

    def natural(self, params, allowed):
        return params

    def along(self, natural, steps, allowed):
        return log_shares_of(jax.vmap(natural)(steps[0][1:]), allowed)

    def maximize(self, statistics, params, free, allowed, prior):
        if is_frozen(free):
            return params
        raise TypeError(
            "HiddenMarkovModel: transitions that depend on inputs have no closed-form M-step. Use "
            "GradientMStep(model, optimizer, free=...) for the transitions, and ClosedFormMStep(model, "
            "free={'initial': True, 'transition': False, 'components': True}) for the other params."
        )

    def log_prior(self, params, allowed, prior):
        return 0.0

    def describe(self, params, allowed):
        return {}

    def described(self, transition, num_states):
        check_function("HiddenMarkovModel", "elbax.Network(network)", transition=transition)
        return {}

    def from_description(self, transition):
        return transition

    def invariances(self, params, allowed):
        """Returns those of logits linear in the inputs; none for a network, where they are unknown."""
        weights = getattr(params, "weights", None)
        if not (isinstance(weights, dict) and set(weights) == {"logits", "slopes"}):
            return nothing(params)
        return beside_by_name(
            {
                "logits": shifts(weights["logits"].shape, allowed),
                "slopes": shifts(weights["slopes"].shape, allowed[..., None], axis=-2),
            }
        )

    def at_boundary(self, params, least, allowed):
        return jax.tree.map(lambda leaf: np.zeros(np.shape(leaf), bool), params)


def _linear(weights: PyTree, inputs: Array) -> Array:
    return weights["logits"] + weights["slopes"] @ inputs.astype(weights["slopes"].dtype)


TRANSITIONS: dict[str, AbstractTransitions] = {
    "homogeneous": Homogeneous(),
    "input-driven": InputDriven(),
}
