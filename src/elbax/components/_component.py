"""The interface between a mixture and its components."""

import abc

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from .._free import is_frozen
from .._invariance import Invariances, nothing
from .._reference import is_reference, without_reference
from .._shortcut import Shortcut
from .._types import Any, AnyArray, Array, Bool, Float, Int, Key, PyTree, Scalar
from ..data._check import check_table
from ..data._incomplete_rows import known, known_numbers
from ._imputation import filled, moments_of_mixture


class AbstractComponent(eqx.Module):
    r"""K densities $p(x \mid z = k; \theta_k)$ of one exponential family, evaluated together.

    The arrays of the params have the component axis first; shared arrays do not have it. The component itself
    holds static numbers only and does not know K.

    A component may have a latent of its own (a scale, factors, the missing columns). It is eliminated inside
    `log_densities` by its family's log-normalizer. The gradient in the natural coordinates is then the expected
    statistics under its exact conditional, and the M-step is that of EM for both latents.
    """

    def check(self, x: PyTree, weight: AnyArray, who: str, *, varied: bool = False) -> None:
        """Raises `ValueError` for rows that no params could produce; with `varied` for constant columns too.

        It is called where values are known. Starts pass `varied`; one batch of many may be constant.
        """
        check_table(x, weight, who, varied=varied)

    def table(self, x: PyTree) -> Float[Array, "num_data features"]:
        """Returns numbers in which similar rows are close, for starts; NaN where missing."""
        values, observed = known_numbers(x)
        return jnp.where(observed, values, jnp.nan)

    @abc.abstractmethod
    def init(
        self,
        x: PyTree,
        weight: Float[Array, " num_data"],
        assignment: Int[Array, " num_data"],
        num_components: int,
    ) -> PyTree:
        """Returns params from a partition of the weighted data.

        A row with index −1 is in no part, but it counts in what components share (a pooled covariance).
        """

    def shapes(self, num_components: int | str) -> PyTree | None:
        """Returns the shapes of the params, as `AbstractModel.shapes` does; `None` if they are not checked."""
        return None

    def exchange(self, which: Bool[Array, " K"], fresh: PyTree, params: PyTree) -> PyTree:
        """Returns `fresh` for the components in `which`, `params` for the others and for shared arrays."""

        def take(new, old):
            return jnp.where(which.reshape((-1,) + (1,) * (old.ndim - 1)), new, old)

        return {
            name: block if is_reference(block) else jax.tree.map(take, fresh[name], block)
            for name, block in params.items()
        }

    @abc.abstractmethod
    def natural(self, params: PyTree) -> PyTree:
        """Returns the coordinates in which every log-density is linear, including log-normalizers."""

    def prepare(self, natural: PyTree) -> PyTree:
        """Returns the input of `log_densities`, linear in the natural coordinates: computed once per pass."""
        return natural

    def rebase(self, natural: PyTree, params: PyTree) -> PyTree:
        """Returns the same coordinates about `params`, as for a model."""
        return without_reference(natural, type(self).__name__)

    @abc.abstractmethod
    def log_densities(self, natural: PyTree, x: PyTree) -> Float[Array, " K"]:
        """Returns log p(x | z = k) for all k, in nats, from prepared coordinates.

        It is −∞ outside of the support and NaN if x or the coordinates are NaN.
        """

    def maximize(self, statistics: PyTree, params: PyTree, free: PyTree) -> PyTree:
        """Returns the params that maximize the expected log-density plus log-prior; `free` as for a model.

        **Raises** `TypeError` for a component without a closed form, unless all of it is frozen.
        """
        if is_frozen(free):
            return params
        raise TypeError(
            f"{type(self).__name__} has no closed-form M-step. Use NewtonMStep(model) or GradientMStep(model, "
            "optimizer) for its params, and ClosedFormMStep(model, free=...) for params that have a closed form."
        )

    @abc.abstractmethod
    def describe(self, params: PyTree) -> dict[str, Any]:
        """Returns the params in readable form."""

    @abc.abstractmethod
    def from_description(self, **described: Any) -> PyTree:
        """Returns the params with the given description: the inverse of `describe`."""

    @abc.abstractmethod
    def sample(
        self, params: PyTree, component: Int[Array, ""], key: Key, inputs: Any = None
    ) -> Any:
        """Returns one datum of the given component, for a regression at the given inputs."""

    def invariances(self, params: PyTree) -> Invariances:
        """Returns the directions in the params that leave the densities unchanged, as for a model."""
        return nothing(params)

    def at_boundary(self, params: PyTree, least: float) -> PyTree:
        """Returns which numbers have reached the end of their range, as for a model."""
        return jax.tree.map(lambda leaf: np.zeros(np.shape(leaf), bool), params)

    def summary(self) -> dict[str, Any]:
        """Returns what distinguishes it from others of its class, as for a model."""
        return {}

    def log_prior(self, params: PyTree) -> Scalar | float:
        """Returns log p(θ), in nats."""
        return 0.0

    def shortcut(self, params: PyTree, x: PyTree) -> Shortcut | None:
        """Returns a faster form for a pass over the rows `x`, as for a model, or None."""
        return None

    def collapsed(self, params: PyTree) -> Bool[Array, "..."]:
        """Returns which components (K,) have shrunk onto a few points, where the likelihood is unbounded."""
        return jnp.zeros((), bool)

    def moments(self, params: PyTree, x: PyTree) -> tuple[Array, Array]:
        """Returns E[x | k] and var[x | k] of a row's numbers, given the observed ones, each `(K, dim)`.

        **Raises** `TypeError` for a component that has no density of all its columns.
        """
        raise TypeError(f"imputed: {type(self).__name__} does not impute missing numbers.")

    def impute(
        self, params: PyTree, x: PyTree, weights: Float[Array, " K"]
    ) -> tuple[PyTree, PyTree]:
        """Returns (the row with missing numbers replaced by their means, their standard deviations).

        `weights` are the probabilities of the components, given the row.
        """
        if eqx.is_array(x):
            return x, jnp.zeros(x.shape, weights.dtype)
        mean, variance = moments_of_mixture(weights, *self.moments(params, x))
        return filled(*known(x), mean, variance)

    def predict(self, params: PyTree, inputs: Array) -> Float[Array, " K"]:
        """Returns E[y | inputs, k] for all k, for a regression.

        **Raises** `TypeError` for a component that is not a regression.
        """
        raise TypeError(
            f"{type(self).__name__} is not a regression: it has no inputs from which to predict a target."
        )
