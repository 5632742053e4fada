"""A model whose params are drawn from a Gaussian belief."""

from typing import TYPE_CHECKING

import equinox as eqx
import jax
import jax.numpy as jnp

from .._around import AbstractAround
from .._model import AbstractModel
from .._reference import is_reference, Reference
from .._shortcut import Shortcut
from .._types import Any, Callable, Key, PyTree, Scalar
from ..families import Distribution
from ._local import drawn_per_datum
from ._whitened import Whitened


if TYPE_CHECKING:
    from ._gaussian import GaussianBelief


class Draws(eqx.Module):
    """The prepared coordinates of the model at some draws of θ, with a leading axis.

    The points that these are about are draws too, so they have gradients: no `Reference` hides them.
    """

    each: PyTree

    def __init__(self, each: PyTree):
        shown = lambda node: Point(node.value) if is_reference(node) else node
        self.each = jax.tree.map(shown, each, is_leaf=is_reference)


class Point(eqx.Module):
    """The value of a `Reference` of the model, at draws."""

    value: PyTree


def as_the_model_has_them(each: PyTree) -> PyTree:
    """Returns the coordinates of one of the `Draws`, with a `Reference` where the model has one."""
    is_point = lambda node: isinstance(node, Point)
    hidden = lambda node: Reference(node.value) if is_point(node) else node
    return jax.tree.map(hidden, each, is_leaf=is_point)


class AtDraws(AbstractAround):
    r"""A model that takes a Gaussian q(θ) in place of params, by draws; at params it is the model itself.

    One bound is an average over the draws: of all data with the same draws (`"pass"`), or of each datum with draws
    of its own. The second has less noise, as the draws of many data average out. Under Bayes' rule every draw of
    a pass has its own p(z | x, θ), so that the bound is E[log p(x | θ)] − KL.
    """

    model: AbstractModel
    chosen: "GaussianBelief"

    def __init__(self, model: AbstractModel, chosen: "GaussianBelief"):
        self.model, self.chosen = model, chosen

    def init(self, key: Key, x: PyTree, **options: Any) -> PyTree:
        """Returns the params with which the model starts."""
        start: Any = self.model
        if not hasattr(start, "init"):
            raise TypeError(
                f"Bayesian: {type(start).__name__} has no init. Make q from params of it, with "
                "bayesian.start(params, batch)."
            )
        return start.init(key, x, **options)

    def natural(self, params: PyTree) -> PyTree:
        return self.model.natural(params)

    def draw(self, natural: PyTree, key: Key) -> PyTree:
        """Returns the draws of one pass over data."""
        if not (isinstance(natural, Whitened) and self.chosen.draws == "pass"):
            return natural
        return self.at(natural, self.chosen.key_of_pass(key))

    def at(self, natural: Whitened, key: Key) -> Draws:
        """Returns the model's prepared coordinates at draws with this key."""
        if self.chosen.draws == "local":
            thetas = drawn_per_datum(self.chosen, natural, key)
        else:
            thetas = self.chosen.thetas(natural, key)
        return Draws(jax.vmap(self._prepared)(thetas))

    def _prepared(self, theta: PyTree) -> PyTree:
        return self.model.prepare(self.model.natural(theta))

    def prepare(self, natural: PyTree) -> PyTree:
        if isinstance(natural, Draws | Whitened):
            return natural
        return self.model.prepare(natural)

    def _average(self, natural: PyTree, function: Callable[[PyTree], Any]) -> Any:
        """Returns a function of the model's coordinates: its average over draws, else at q's mean."""
        if isinstance(natural, Draws):
            average = lambda leaf: jnp.mean(leaf, 0) if eqx.is_inexact_array(leaf) else leaf[0]
            of_each = jax.vmap(lambda each: function(as_the_model_has_them(each)))
            return jax.tree.map(average, of_each(natural.each))
        if isinstance(natural, Whitened):
            natural = self._prepared(self.chosen.center(natural))
        return function(natural)

    def elbo(self, natural: PyTree, x: PyTree, q: Any, key: Key) -> Scalar:
        if isinstance(natural, Whitened):
            key, key_draw = jax.random.split(key)
            natural = self.at(natural, key_draw)
        return self._average(natural, lambda one: self.model.elbo(one, x, q, key))

    def conditional(self, natural: PyTree, x: PyTree) -> Distribution:
        """Returns p(z | x) at the draws of a pass, as their geometric mean, else at q's mean."""
        return self._average(natural, lambda one: self.model.conditional(one, x))

    def potentials_at(self, natural: PyTree, x: PyTree) -> PyTree:
        return self._average(natural, lambda one: self.model.potentials_at(one, x))

    def log_joint_at(self, natural: PyTree, x: PyTree, z: PyTree) -> Scalar:
        return self._average(natural, lambda one: self.model.log_joint_at(one, x, z))

    def params_at(self, natural: PyTree) -> PyTree:
        """Returns θ at the draw of a pass, the mean of several, else at q's mean."""
        return self._average(natural, self.model.params_at)

    @property
    def tight(self) -> bool:
        # A datum's own draws are not those of its conditional.
        return self.model.tight and self.chosen.draws == "pass"

    @property
    def divergence_weight(self) -> None:
        return None

    def shortcut(self, params: PyTree, x: PyTree) -> Shortcut | None:
        return None
