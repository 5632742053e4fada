"""What a mixture asks of its components."""

import abc

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from .._check import check_table
from .._free import is_frozen
from .._incomplete import known_numbers
from .._invariance import Invariances, nothing
from .._reference import is_reference
from .._shortcut import Shortcut
from .._types import Any, AnyArray, Array, Bool, Float, Int, Key, PyTree, Scalar


class AbstractComponent(eqx.Module):
    r"""K densities $p(x \mid z = k; \theta_k)$ of one exponential family, side by side.

    The params' arrays carry the component axis in front (shared ones do not); the component itself
    holds static numbers only and does not know K.

    A component may have a latent of its own (a scale, factors, the missing columns): it is eliminated
    inside `log_densities`, by its family's log-normalizer. The gradient in the natural coordinates is
    then the expected statistics under its exact conditional, and the M-step is EM's for both latents.
    """

    @property
    def linear(self) -> bool:
        """Whether log-densities are linear in statistics of x alone: no latent is eliminated, no network
        inside."""
        return True

    def check(self, x: PyTree, weight: AnyArray, who: str, *, varied: bool = False) -> None:
        """Raises `ValueError` for rows that no params could have made; if `varied` for constant columns too.

        Called where values are known, at a start with `varied`: one batch of many may be constant.
        """
        check_table(x, weight, who, varied=varied)

    def table(self, x: PyTree) -> Float[Array, "num_data features"]:
        """Numbers in which rows that are alike are near, for starts; NaN where missing."""
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
        """Params from a partition of the weighted data.

        A row of index −1 is in no part, but counts in what components share (a pooled covariance).
        """

    def shapes(self, num_components: int | str) -> PyTree | None:
        """Shapes of the params, as `AbstractModel.shapes` has them; `None` where they are not looked at."""
        return None

    def exchange(self, which: Bool[Array, " K"], fresh: PyTree, params: PyTree) -> PyTree:
        """`fresh` for the components in `which`, the others' own; what all share stays."""

        def take(new, old):
            return jnp.where(which.reshape((-1,) + (1,) * (old.ndim - 1)), new, old)

        return {
            name: block if is_reference(block) else jax.tree.map(take, fresh[name], block)
            for name, block in params.items()
        }

    @abc.abstractmethod
    def natural(self, params: PyTree) -> PyTree:
        """The coordinates in which every log-density is linear, log-normalizers among them."""

    def prepare(self, natural: PyTree) -> PyTree:
        """What `log_densities` needs of them, linear in the coordinates: computed once a pass."""
        return natural

    @abc.abstractmethod
    def log_densities(self, natural: PyTree, x: PyTree) -> Float[Array, " K"]:
        """log p(x | z = k) for all k, from prepared coordinates: −∞ outside of the support, NaN of NaN."""

    def maximize(self, statistics: PyTree, params: PyTree, free: PyTree) -> PyTree:
        """The params of highest expected log-density plus prior; `free` as for a model."""
        if is_frozen(free):
            return params
        raise TypeError(
            f"{type(self).__name__} has no closed-form M-step. Use NewtonMStep(model) or "
            "GradientMStep(model, optimizer) for it, beside ClosedFormMStep(model, free=...) for what "
            "has one."
        )

    @abc.abstractmethod
    def describe(self, params: PyTree) -> dict[str, Any]:
        """What people want to read."""

    @abc.abstractmethod
    def from_description(self, **described: Any) -> PyTree:
        """The params that `describe` so: its inverse."""

    @abc.abstractmethod
    def sample(
        self, params: PyTree, component: Int[Array, ""], key: Key, inputs: Any = None
    ) -> Any:
        """One datum of the given component (given its inputs, for a regression)."""

    def invariances(self, params: PyTree) -> Invariances:
        """The directions in the params that change nothing, as for a model; none unless one says so."""
        return nothing(params)

    def at_boundary(self, params: PyTree, least: float) -> PyTree:
        """Which numbers have run to the end of their range, as for a model."""
        return jax.tree.map(lambda leaf: np.zeros(np.shape(leaf), bool), params)

    def summary(self) -> dict[str, Any]:
        """What tells it from others of its kind, as for a model."""
        return {}

    def log_prior(self, params: PyTree) -> Scalar | float:
        """log p(θ)."""
        return 0.0

    def shortcut(self, params: PyTree, x: PyTree) -> Shortcut | None:
        """A faster form for a pass over the rows `x`, as for a model."""
        return None

    def collapsed(self, params: PyTree) -> Bool[Array, "..."]:
        """Which components (K,) have shrunk onto a few points, where the likelihood is unbounded."""
        return jnp.zeros((), bool)

    def predict(self, params: PyTree, inputs: Array) -> Float[Array, " K"]:
        """E[y | inputs, k] for all k, of a regression."""
        raise TypeError(
            f"{type(self).__name__} is no regression: it has no inputs to predict a target from."
        )
