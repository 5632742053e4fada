"""Families in whose span a function can be read, for plates of entries at once."""

import abc
from typing import ClassVar

import jax
import jax.numpy as jnp

from .._types import Any, Array, Callable, PyTree, Scalar
from ._family import AbstractFamily


class AbstractConjugateFamily(AbstractFamily):
    r"""A family whose members are read off a log-density f(z) = ⟨λ, t(z)⟩ + c by differentiating it.

    Its base measure is constant, so that the natural parameters of a density are read off its logarithm, and those
    of a product of densities add up. The methods below take *plates*: arrays of independent entries, on leading
    axes. A function of a plate must be a sum of functions of its entries.

    A latent enters a function as its `coordinates`: its value, or the one-hot vector of a label.
    """

    names: ClassVar[tuple[str, ...]] = ()
    """What the arrays are, if z is a tuple of arrays."""

    @property
    @abc.abstractmethod
    def event_shape(self) -> Any:
        """The shape of the coordinates of one z; a tuple of shapes if z is a tuple of arrays."""

    @abc.abstractmethod
    def center(self, natural: PyTree) -> PyTree:
        """Returns the mean of the coordinates under q."""

    @abc.abstractmethod
    def near(self, point: PyTree) -> PyTree:
        """Returns the natural parameters of a wide q whose mean is at the given coordinates."""

    @abc.abstractmethod
    def nodes(self, natural: PyTree) -> PyTree:
        r"""Returns points, on one more leading axis, with $\frac1n \sum_i t(z_i) = E_q[t(z)]$.

        The average of a function over them is its expectation, for every function in the family's span.
        """

    @abc.abstractmethod
    def read_about(self, function: Callable[[Any], Scalar], point: PyTree) -> PyTree:
        """Returns λ with function(z) = ⟨λ, t(z)⟩ + c, by a few derivatives at the given coordinates.

        It does not check that the function is of this form.
        """

    @abc.abstractmethod
    def to_unconstrained(self, point: PyTree) -> Array:
        """Returns one vector (or number) of real numbers for the coordinates of each z."""

    @abc.abstractmethod
    def from_unconstrained(self, free: Array) -> PyTree:
        """Returns the coordinates: the inverse of `to_unconstrained`."""

    def coordinates(self, z: PyTree) -> PyTree:
        """Returns z as it enters a function that is read: as it is, or the one-hot vector of a label."""
        return z

    def of_coordinates(self, point: PyTree) -> PyTree:
        """Returns t(z) of a z that is given by its coordinates, for plates too."""
        statistics = self.statistics
        for _ in range(self.plate_ndim(point)):
            statistics = jax.vmap(statistics)
        return statistics(point)

    def plate_ndim(self, point: PyTree) -> int:
        """Returns the number of leading axes of coordinates."""
        first = jax.tree.leaves(point)[0]
        shape = self.event_shape
        return jnp.ndim(first) - len(shape[0] if shape and isinstance(shape[0], tuple) else shape)

    @abc.abstractmethod
    def origin(self, dtype: Any) -> PyTree:
        """Returns the coordinates about which `read` differentiates."""

    def read(self, function: Callable[[Any], Scalar], dtype: Any = float) -> tuple[PyTree, Scalar]:
        point = self.origin(dtype)
        natural = self.read_about(function, point)
        return natural, function(point) - self.score(natural, point)
