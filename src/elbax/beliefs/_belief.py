r"""Beliefs: distributions q(θ) over a model's params, of the kind of their prior."""

import abc
import copy
import functools
from typing import ClassVar

import jax
import jax.numpy as jnp

from .._arguments import kind_of
from .._types import Any, Array, Key, PyTree, Scalar


class AbstractBelief(abc.ABC):
    r"""A belief q(θ) over some params, in the family of their conjugate prior p(θ).

    q is a tree of arrays with the blocks of the params. A block usually holds the params themselves at a mean of
    q, and how many data they are worth. A model whose log-joint is linear in η(θ) needs nothing else: its bound
    under q(θ) is that at $E_q[\eta(\theta)]$, and the best q has the prior's numbers plus the expected
    statistics.

    A belief belongs to a model or component through `belief`, and is made from it when needed.
    """

    @abc.abstractmethod
    def start(self, params: PyTree, count: Any) -> PyTree:
        """Returns q about these params, of the prior and `count` data (a number, or one for each component)."""

    @abc.abstractmethod
    def shapes(self, shapes: PyTree) -> PyTree:
        """Returns the shapes of q from those of the params, both as `AbstractModel.shapes` gives them."""

    @abc.abstractmethod
    def point(self, q: PyTree) -> PyTree:
        """Returns params of the model at a mean of q."""

    @abc.abstractmethod
    def natural(self, q: PyTree) -> PyTree:
        """Returns E_q[η(θ)], in the coordinates of the model at `point(q)`."""

    def rebase(self, model: Any, natural: PyTree, q: PyTree) -> PyTree:
        """Returns the coordinates about q of the same expected log-joint, as `AbstractModel.rebase`."""
        return model.rebase(natural, self.point(q))

    @abc.abstractmethod
    def posterior(self, statistics: PyTree, q: PyTree, free: PyTree) -> PyTree:
        """Returns the best q given expected statistics at q; blocks that are not free are unchanged."""

    knows_statistics: ClassVar[bool] = False
    """Whether `statistics_at` is known."""

    def statistics_at(self, q: PyTree) -> PyTree:
        """Returns the statistics at which `posterior` returns q."""
        raise TypeError(f"{type(self).__name__} does not know the statistics of q.")

    @abc.abstractmethod
    def divergence(self, q: PyTree) -> dict[str, Scalar]:
        """Returns KL(q ‖ p) of each block, in nats; they add up to that of all."""

    @property
    def learnable(self) -> dict[str, tuple[tuple[str, ...], "AbstractOnePrior"]]:
        """The beliefs whose prior can be learned and the path to their part of q, by block as in `divergence`."""
        return {}

    def with_priors(self, priors: dict[str, Any]) -> "AbstractBelief":
        """Returns the belief with other priors, by block; those that are not named stay."""
        return self

    @abc.abstractmethod
    def sample(self, q: PyTree, key: Key) -> PyTree:
        """Returns params drawn from q."""

    def global_term(self, q: PyTree, key: Key) -> Scalar:
        """Returns −KL(q ‖ p), in nats, or an estimate of it by draws with the key."""
        return -functools.reduce(jnp.add, self.divergence(q).values())

    def predictive(self, q: PyTree) -> tuple[Any, PyTree]:
        """Returns a model (or component) of new data with θ integrated out, and its params.

        **Raises** `TypeError` where the library has no such density.
        """
        raise TypeError(no_predictive("these params"))

    def emptied(self, q: PyTree) -> Array | None:
        """Returns which components hold less than one datum; `None` if q has no components."""
        return None


def no_predictive(what: str) -> str:
    return (
        f"predictive: the density of new data under the belief over {what} is not one of this library's. Use "
        "predictive(q, key=key), which averages over draws of θ."
    )


@functools.singledispatch
def belief(model: Any) -> AbstractBelief:
    """Returns the kind of belief over the params of a model or component.

    To add one, register a function for the class: `@elbax.beliefs.belief.register(MyComponent)`.

    **Raises** `TypeError` for a model without a conjugate prior, in theory or as it was made.
    """
    raise TypeError(
        f"Bayesian: {kind_of(model)} has no conjugate prior in this library, so its belief has no closed form. "
        "Mixtures, hidden Markov models, factor models, state spaces, logistic and probit regression, grammars "
        "and Bayesian networks have one. For a Gaussian q(θ) by draws pass beliefs.GaussianBelief(prior=1.0) "
        "beside the model; for a component of your own use components.Conjugate."
    )


def needed(prior: Any, model: Any, name: str, example: str) -> Any:
    """Returns the prior. **Raises** `TypeError` if there is none."""
    if prior is None:
        raise TypeError(
            f"Bayesian: {kind_of(model)} has no {name}, and a belief over its params needs one. Pass "
            f"{name}={example} to {kind_of(model)}."
        )
    return prior


def joined(name: str, below: str) -> str:
    """Returns the name of a block below another one, as errors and tables print it."""
    return f"{name}/{below}" if below else name


class AbstractOnePrior(AbstractBelief):
    """A belief over one block, whose prior has numbers that can be learned (its `learnable`)."""

    prior: Any
    block: ClassVar[str] = ""

    @property
    def learnable(self):
        return {self.block: ((), self)}

    def about(self, natural: PyTree, q: PyTree) -> PyTree:
        """Returns E[η] of another q in the coordinates at `point(q)`."""
        return natural

    def with_priors(self, priors):
        found = copy.copy(self)
        found.prior = priors.get(self.block, self.prior)
        return found


class Blocks(AbstractBelief):
    """Independent beliefs over the named blocks of a dictionary of params."""

    def __init__(self, **blocks: AbstractBelief):
        self.blocks = blocks

    @property
    def learnable(self):
        return {
            joined(name, below): ((name, *path), one)
            for name, block in self.blocks.items()
            for below, (path, one) in block.learnable.items()
        }

    def with_priors(self, priors):
        def inside(name, block):
            names = {below: joined(name, below) for below in block.learnable}
            return block.with_priors({b: priors[n] for b, n in names.items() if n in priors})

        found = copy.copy(self)
        found.blocks = {name: inside(name, block) for name, block in self.blocks.items()}
        return found

    def start(self, params, count):
        return {name: block.start(params[name], count) for name, block in self.blocks.items()}

    def shapes(self, shapes):
        return {name: block.shapes(shapes[name]) for name, block in self.blocks.items()}

    def point(self, q):
        return {name: block.point(q[name]) for name, block in self.blocks.items()}

    def natural(self, q):
        return {name: block.natural(q[name]) for name, block in self.blocks.items()}

    def posterior(self, statistics, q, free):
        return {
            name: block.posterior(statistics[name], q[name], free[name])
            for name, block in self.blocks.items()
        }

    def divergence(self, q):
        return {
            joined(name, below): value
            for name, block in self.blocks.items()
            for below, value in block.divergence(q[name]).items()
        }

    def sample(self, q, key):
        keys = jax.random.split(key, len(self.blocks))
        return {
            name: block.sample(q[name], key)
            for (name, block), key in zip(self.blocks.items(), keys, strict=True)
        }
