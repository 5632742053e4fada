"""What of a posterior is Bayes' rule at some params, and what is trained."""

import operator

import equinox as eqx
import jax

from .._algebra import nodes_of
from .._model import AbstractModel
from .._reference import split_coordinates
from .._types import PyTree
from ._exact import Exact


def is_snapshot(node: PyTree) -> bool:
    return isinstance(node, Exact)


def has_snapshot(posterior: PyTree, model: AbstractModel | None = None) -> bool:
    """Whether there is an `Exact` in it, of this model if one is given."""
    return any(model is None or node.model == model for node in nodes_of(Exact, posterior))


def check_snapshots(posterior: PyTree, model: AbstractModel, who: str) -> None:
    """Raises `ValueError` or `TypeError` for an `Exact` whose params are not its model's, or of another latent."""
    for node in nodes_of(Exact, posterior):
        node.model.check_params(node.params, f"{who}, posterior")
        if node.model.latent != model.latent:
            raise TypeError(
                f"{who}: the posterior is over {node.model.latent}, and the latent of the model is {model.latent}."
            )


def refresh(posterior: PyTree, model: AbstractModel, params: PyTree) -> PyTree:
    """The posterior with every `Exact` of this model at these params."""

    def exchange(node):
        return Exact(model, params) if is_snapshot(node) and node.model == model else node

    return jax.tree.map(exchange, posterior, is_leaf=is_snapshot)


def partition(posterior: PyTree) -> tuple[PyTree, PyTree]:
    """(weights, the rest), to be joined by `equinox.combine`: coordinates outside of any `Exact`.

    Among the weights there is `None` for a whole `Exact`: an optimizer's memory is shaped as they are, and the
    model of the moment is no matter of it.
    """
    snapshots, trained = eqx.partition(posterior, is_snapshot, is_leaf=is_snapshot)
    weights, rest = split_coordinates(trained)
    return weights, eqx.combine(snapshots, rest, is_leaf=is_snapshot)


class _Here(eqx.Module):
    """The params of the moment, where a posterior crosses into a jitted function beside them."""


def without_params(posterior: PyTree, model: AbstractModel, params: PyTree) -> PyTree:
    """The posterior with `_Here` in every `Exact` of this model that is at these very arrays.

    That it is so a pass sees by their identity, which two arguments of a jitted function do not keep.
    """

    def exchange(node):
        ours = is_snapshot(node) and node.model == model and same_arrays(node.params, params)
        return Exact(node.model, _Here()) if ours else node

    return jax.tree.map(exchange, posterior, is_leaf=is_snapshot)


def with_params(posterior: PyTree, params: PyTree) -> PyTree:
    """What `without_params` took out, back in."""

    def exchange(node):
        here = is_snapshot(node) and isinstance(node.params, _Here)
        return Exact(node.model, params) if here else node

    return jax.tree.map(exchange, posterior, is_leaf=is_snapshot)


def same_arrays(a: PyTree, b: PyTree) -> bool:
    left, right = jax.tree.leaves(a), jax.tree.leaves(b)
    return len(left) == len(right) and all(map(operator.is_, left, right))
