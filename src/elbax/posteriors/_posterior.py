"""The base class of posteriors, and the functions by which steps and passes over data use them."""

import abc
import functools
import operator

import equinox as eqx
import jax

from .._model import AbstractModel
from .._reference import split_coordinates
from .._types import Any, Array, Callable, Key, PyTree


class ModelAt(eqx.Module):
    """A model at params θ, in the form that one pass over data evaluates.

    **Fields:**

    - `model`: the model.
    - `form`: the model or a faster form of it, which the pass calls.
    - `params`: θ.
    - `natural`: `form.prepare(form.natural(params))`, computed once per pass.
    """

    model: AbstractModel
    form: AbstractModel
    params: PyTree
    natural: PyTree

    def natural_at(self, params: PyTree) -> PyTree:
        """Returns the prepared natural parameters at other params."""
        return self.form.prepare(self.form.natural(params))


class AbstractPosterior(eqx.Module):
    r"""A posterior q(z | x): a function from one datum to a distribution over its latent.

    Every callable pytree `posterior(x, *, key=None)` is a posterior, and a gradient step trains its floating-point
    arrays. A subclass can say more. By default each method below acts on the posteriors among the fields, so a
    posterior that wraps another one defines `__call__` only.
    """

    @property
    def draws_anew(self) -> bool:
        """Whether it samples in every pass over data, so that its bound is an estimate."""
        return any(inner.draws_anew for inner in inner_posteriors(self))

    @abc.abstractmethod
    def __call__(self, x: PyTree, *, key: Key | None = None) -> Any:
        """Returns q(z | x) of one datum: a `Distribution`, or any object with `sample(key)` and `log_prob(z)`."""

    def bind(self, model: AbstractModel, params: PyTree) -> "AbstractPosterior":
        """Returns this posterior with every `Exact` of `model` moved to these params."""
        return over_inner(self, lambda inner: inner.bind(model, params))

    def weights(self) -> PyTree:
        """Returns the trained arrays: this posterior with `None` in place of everything else."""
        return split_coordinates(over_inner(self, lambda inner: inner.weights()))[0]

    def at_row(self, row: Array) -> Callable[..., Any]:
        """Returns the posterior for the datum in this row of the data; only tables depend on the row."""
        return over_inner(self, lambda inner: inner.at_row(row))

    def prepare(self, at: ModelAt) -> Callable[..., Any]:
        """Returns the posterior for one pass over data, with everything computed that is the same for all data."""
        return over_inner(self, lambda inner: inner.prepare(at))

    def check(self, model: AbstractModel, who: str) -> None:
        """Raises `ValueError` or `TypeError` for a posterior that is not over the latent of `model`."""
        for inner in inner_posteriors(self):
            inner.check(model, who)

    def looked_at(self, x: PyTree) -> PyTree:
        """Returns the datum as arrays; raises `ValueError` for a datum that is impossible for a model inside."""
        for inner in inner_posteriors(self):
            x = inner.looked_at(x)
        return x


def looks_first(call: Callable) -> Callable:
    """Decorates the `__call__` of a posterior so that it first checks the datum, as every `Exact` in it would."""

    @functools.wraps(call)
    def looking(self, x, *, key=None):
        return call(self, self.looked_at(x), key=key)

    return looking


def over_inner(posterior: PyTree, function: Callable[[AbstractPosterior], Any]) -> Any:
    """Applies `function` to each outermost posterior strictly inside of the pytree."""

    def is_inner(node):
        return isinstance(node, AbstractPosterior) and node is not posterior

    exchange = lambda node: function(node) if is_inner(node) else node
    return jax.tree.map(exchange, posterior, is_leaf=is_inner)


def inner_posteriors(posterior: PyTree) -> list[AbstractPosterior]:
    """Returns the outermost posteriors strictly inside of a pytree."""
    found = []
    over_inner(posterior, found.append)
    return found


def bind(posterior: PyTree, model: AbstractModel, params: PyTree) -> PyTree:
    """Returns the posterior, any callable pytree, with every `Exact` of the model moved to these params."""
    return _method(posterior, lambda known: known.bind(model, params))


def prepare(posterior: PyTree, at: ModelAt) -> PyTree:
    """Returns the posterior, any callable pytree, prepared for one pass over data."""
    return _method(posterior, lambda known: known.prepare(at))


def check_posterior(posterior: PyTree, model: AbstractModel, who: str) -> None:
    """Raises `ValueError` or `TypeError` for a posterior with params of another model or over another latent."""
    for one in _outermost(posterior):
        one.check(model, who)


def at_row(posterior: PyTree, row: Array) -> PyTree:
    """Returns the posterior, any callable pytree, for the datum in this row of the data."""
    return _method(posterior, lambda known: known.at_row(row))


def weights_of(posterior: PyTree) -> PyTree:
    """Returns the arrays in a pytree that a gradient step trains, with `None` in place of everything else."""
    return split_coordinates(_method(posterior, lambda known: known.weights()))[0]


def with_weights(weights: PyTree, posterior: PyTree) -> PyTree:
    """Returns the posterior with these weights in place of its own."""
    return eqx.combine(weights, posterior)


def draws_anew(posterior: PyTree) -> bool:
    """Returns whether a posterior, or one inside of it, samples in every pass over data.

    A user's class that returns a distribution of another library also samples; it has to define `draws_anew`.
    """
    return any(one.draws_anew for one in _outermost(posterior))


def same_arrays(a: PyTree, b: PyTree) -> bool:
    """Returns whether two pytrees hold the same array objects."""
    left, right = jax.tree.leaves(a), jax.tree.leaves(b)
    return len(left) == len(right) and all(map(operator.is_, left, right))


def _outermost(posterior: PyTree) -> list[AbstractPosterior]:
    return [posterior] if isinstance(posterior, AbstractPosterior) else inner_posteriors(posterior)


def _method(posterior: PyTree, call: Callable[[AbstractPosterior], Any]) -> Any:
    """Returns `call(posterior)`; for any other pytree, applies `call` to each posterior inside of it."""
    known = isinstance(posterior, AbstractPosterior)
    return call(posterior) if known else over_inner(posterior, call)
