"""What a mixture asks of its components."""

import abc

import equinox as eqx

from .._types import Array, Bool, Float, Int, Key, PyTree, Scalar


class AbstractComponent(eqx.Module):
    r"""K densities $p(x \mid z = k; \theta_k)$ of one exponential family, side by side.

    The params' arrays carry the component axis in front (shared ones do not); the component itself
    holds static numbers only and does not know K.
    """

    @abc.abstractmethod
    def init(
        self,
        x: Float[Array, "num_data dim"],
        weight: Float[Array, " num_data"],
        assignment: Int[Array, " num_data"],
        num_components: int,
    ) -> PyTree:
        """Params from a partition of the weighted data."""

    @abc.abstractmethod
    def natural(self, params: PyTree) -> PyTree:
        """The coordinates in which every log-density is linear, log-normalizers among them."""

    def prepare(self, natural: PyTree) -> PyTree:
        """What `log_densities` needs of them, linear in the coordinates: computed once a pass."""
        return natural

    @abc.abstractmethod
    def log_densities(self, natural: PyTree, x: Array) -> Float[Array, " K"]:
        """log p(x | z = k) for all k, from prepared coordinates and linear in them."""

    @abc.abstractmethod
    def maximize(self, statistics: PyTree, params: PyTree) -> PyTree:
        """The params of highest expected log-density plus prior."""

    @abc.abstractmethod
    def describe(self, params: PyTree) -> dict[str, Array]:
        """What people want to read."""

    @abc.abstractmethod
    def sample(self, params: PyTree, component: Int[Array, ""], key: Key) -> Array:
        """One datum of the given component."""

    @abc.abstractmethod
    def num_free_params(self, params: PyTree) -> int:
        """How many numbers are estimated."""

    def log_prior(self, params: PyTree) -> Scalar | float:
        """log p(θ), up to a constant."""
        return 0.0

    def shortcut(self, params: PyTree) -> "tuple[Bool[Array, ''], AbstractComponent] | None":
        """(whether it may be taken, a faster component), as for a model."""
        return None

    @abc.abstractmethod
    def collapsed(self, params: PyTree) -> Bool[Array, " K"]:
        """Which components have shrunk onto a few points, where the likelihood is unbounded."""
