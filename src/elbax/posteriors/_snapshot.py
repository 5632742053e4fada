"""What of a posterior is Bayes' rule at some params, and what is trained."""

import equinox as eqx
import jax

from .._model import AbstractModel
from .._types import PyTree
from ._exact import Exact


def is_snapshot(node: PyTree) -> bool:
    return isinstance(node, Exact)


def has_snapshot(posterior: PyTree, model: AbstractModel | None = None) -> bool:
    """Whether there is an `Exact` in it, of this model if one is given."""
    nodes = filter(is_snapshot, jax.tree.leaves(posterior, is_leaf=is_snapshot))
    return any(model is None or node.model == model for node in nodes)


def refresh(posterior: PyTree, model: AbstractModel, params: PyTree) -> PyTree:
    """The posterior with every `Exact` of this model at these params."""

    def exchange(node):
        return Exact(model, params) if is_snapshot(node) and node.model == model else node

    return jax.tree.map(exchange, posterior, is_leaf=is_snapshot)


def partition(posterior: PyTree) -> tuple[PyTree, PyTree]:
    """(weights, the rest), to be joined by `equinox.combine`: inexact arrays outside of any `Exact`."""

    def which(node):
        if is_snapshot(node):
            return jax.tree.map(lambda _: False, node)
        return eqx.is_inexact_array(node)

    return eqx.partition(posterior, jax.tree.map(which, posterior, is_leaf=is_snapshot))
