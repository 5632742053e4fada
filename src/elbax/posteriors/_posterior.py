"""What a posterior is, and what steps and passes over data ask of one."""

import abc
import functools
import operator

import equinox as eqx
import jax

from .._model import AbstractModel
from .._reference import split_coordinates
from .._types import Any, Array, Callable, Key, PyTree


class ModelAt(eqx.Module):
    """A model at params θ, in the form in which one pass over data evaluates it.

    **Fields:**

    - `model`: the model.
    - `form`: the model or a faster form of it, which the pass calls.
    - `params`: θ.
    - `natural`: `form.prepare(form.natural(params))`, computed once a pass.
    """

    model: AbstractModel
    form: AbstractModel
    params: PyTree
    natural: PyTree

    def prepared_at(self, params: PyTree) -> PyTree:
        """The same at other params."""
        return self.form.prepare(self.form.natural(params))


class AbstractPosterior(eqx.Module):
    r"""q(z | x): a function from one datum to a distribution over its latent.

    Every callable pytree `posterior(x, *, key=None)` is a posterior: its floating-point arrays are what a gradient
    step trains. A class derives from this one to say more. Each method below acts by default on the posteriors
    among the class's fields, so that one which wraps another needs `__call__` alone.
    """

    @property
    def draws_anew(self) -> bool:
        """Whether it samples in every pass over data, so that a bound under it is an estimate."""
        return any(inner.draws_anew for inner in inner_posteriors(self))

    @abc.abstractmethod
    def __call__(self, x: PyTree, *, key: Key | None = None) -> Any:
        """q(z | x) of one datum: an object with `sample(key)` and `log_prob(z)`, such as a `Distribution`."""

    def bind(self, model: AbstractModel, params: PyTree) -> "AbstractPosterior":
        """This posterior brought up to new params of `model`: every `Exact` of that model is then at these."""
        return over_inner(self, lambda inner: inner.bind(model, params))

    def weights(self) -> PyTree:
        """What a gradient step trains: this posterior with `None` for everything else."""
        return split_coordinates(over_inner(self, lambda inner: inner.weights()))[0]

    def at_row(self, row: Array) -> Callable[..., Any]:
        """The posterior for the datum in this row of the data; only tables depend on it."""
        return over_inner(self, lambda inner: inner.at_row(row))

    def prepare(self, at: ModelAt) -> Callable[..., Any]:
        """The posterior for one pass over data, with what does not depend on a datum computed."""
        return over_inner(self, lambda inner: inner.prepare(at))

    def check(self, model: AbstractModel, who: str) -> None:
        """Raises `ValueError` or `TypeError` for a posterior that is not over the latent of `model`."""
        for inner in inner_posteriors(self):
            inner.check(model, who)

    def looked_at(self, x: PyTree) -> PyTree:
        """The datum as arrays; raises `ValueError` where a model inside cannot have made it."""
        for inner in inner_posteriors(self):
            x = inner.looked_at(x)
        return x


def looks_first(call: Callable) -> Callable:
    """A posterior's `__call__` that first looks at the datum as every `Exact` inside of it would."""

    @functools.wraps(call)
    def looking(self, x, *, key=None):
        return call(self, self.looked_at(x), key=key)

    return looking


def over_inner(posterior: PyTree, function: Callable[[AbstractPosterior], Any]) -> Any:
    """The pytree with `function` of each outermost posterior strictly inside of it."""

    def is_inner(node):
        return isinstance(node, AbstractPosterior) and node is not posterior

    exchange = lambda node: function(node) if is_inner(node) else node
    return jax.tree.map(exchange, posterior, is_leaf=is_inner)


def inner_posteriors(posterior: PyTree) -> list[AbstractPosterior]:
    """The outermost posteriors strictly inside of a pytree."""
    found = []
    over_inner(posterior, found.append)
    return found


def bind(posterior: PyTree, model: AbstractModel, params: PyTree) -> PyTree:
    """The posterior, any callable pytree, brought up to new params of the model."""
    return _method(posterior, lambda known: known.bind(model, params))


def prepare(posterior: PyTree, at: ModelAt) -> PyTree:
    """The posterior, any callable pytree, for one pass over data."""
    return _method(posterior, lambda known: known.prepare(at))


def check_posterior(posterior: PyTree, model: AbstractModel, who: str) -> None:
    """Raises `ValueError` or `TypeError` for one that holds params of another model, or is over another latent."""
    for one in _outermost(posterior):
        one.check(model, who)


def at_row(posterior: PyTree, row: Array) -> PyTree:
    """The posterior, any callable pytree, for the datum in this row of the data."""
    return _method(posterior, lambda known: known.at_row(row))


def weights_of(posterior: PyTree) -> PyTree:
    """What a gradient step trains in a pytree, `None` in place of all else."""
    return split_coordinates(_method(posterior, lambda known: known.weights()))[0]


def with_weights(weights: PyTree, posterior: PyTree) -> PyTree:
    """The posterior with these weights in place of its own."""
    return eqx.combine(weights, posterior)


def draws_anew(posterior: PyTree) -> bool:
    """Whether a posterior or one inside of it samples in every pass over data.

    A class of one's own that returns a distribution of another library samples too; it has to say so.
    """
    return any(one.draws_anew for one in _outermost(posterior))


def same_arrays(a: PyTree, b: PyTree) -> bool:
    """Whether two pytrees hold the very same arrays."""
    left, right = jax.tree.leaves(a), jax.tree.leaves(b)
    return len(left) == len(right) and all(map(operator.is_, left, right))


def _outermost(posterior: PyTree) -> list[AbstractPosterior]:
    return [posterior] if isinstance(posterior, AbstractPosterior) else inner_posteriors(posterior)


def _method(posterior: PyTree, call: Callable[[AbstractPosterior], Any]) -> Any:
    """`call(posterior)`; of a pytree that is no `AbstractPosterior`, of each inside of it."""
    known = isinstance(posterior, AbstractPosterior)
    return call(posterior) if known else over_inner(posterior, call)
