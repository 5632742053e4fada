"""Protocols of what some models can do in addition; steps look for them in a model."""

from typing import Protocol, runtime_checkable

from ._model import AbstractModel
from ._types import Array, Float, Key, PyTree


@runtime_checkable
class StartsFromData(Protocol):
    """A model that makes params from data, as a pure function of the key."""

    def check(self, batch: PyTree, who: str) -> None:
        """Raises `ValueError` for data to which the model cannot be fitted."""
        ...

    def init(self, key: Key, x: PyTree) -> PyTree:
        """Returns params to start from."""
        ...


@runtime_checkable
class StartsInside(Protocol):
    """A model that starts where the model inside of it does."""

    model: AbstractModel

    def start(self, params: PyTree, batch: PyTree) -> PyTree:
        """Returns params about those of the model inside."""
        ...


@runtime_checkable
class MaximizesEvidence(Protocol):
    """A model with a closed-form maximum of its evidence in a block of params, from moments of the data."""

    def moments_about(self, params: PyTree) -> Float[Array, " dim"]:
        """Returns the point about which `maximize_evidence` takes the data's moments."""
        ...

    def residuals(
        self, params: PyTree, deviations: Float[Array, "num_data dim"]
    ) -> Float[Array, "num_data width"]:
        """Returns the residuals whose second moments `maximize_evidence` takes, linear in the deviations."""
        ...

    def maximize_evidence(self, moments: PyTree, params: PyTree, free: PyTree) -> PyTree:
        """Returns argmax of the evidence itself over a block of θ; `free` is as for `maximize`."""
        ...


@runtime_checkable
class RestartsComponents(Protocol):
    """A model whose components can be restarted from a partition of the data."""

    def restart_components(
        self, params: PyTree, which: Array, x: PyTree, weight: Array, assignment: Array
    ) -> PyTree:
        """Returns params with the components in `which` restarted, the others unchanged."""
        ...
