"""The ways to run an ancestral program: its draws are sampled, or scored."""

import abc

import jax
import jax.numpy as jnp

from .._arguments import kind_of, told
from .._types import Any, Array, Callable, Key, PyTree, Scalar
from ..families import AbstractFamily
from ._normal import Normal


class AbstractDraw(abc.ABC):
    """The `draw` that a program calls: `z = draw("z", distribution)`."""

    @abc.abstractmethod
    def __call__(self, name: str, distribution: Any, *, where: Any = True) -> PyTree:
        """Returns the value of the latent or datum of this name.

        **Arguments:**

        - `name`: its name, which a run draws once.
        - `distribution`: an object with `sample(key)` and `log_prob(z)`, of any library. If `log_prob` returns
            several numbers, they are of independent entries, and add up.
        - `where`: which of these numbers count, booleans that broadcast to them; the others are missing. Those of
            `Normal` are its entries, and missing ones may be NaN.

        **Raises** `TypeError` for another object, `ValueError` for a name that was drawn before, and for a
        `where` that does not fit what `log_prob` returns.
        """

    @abc.abstractmethod
    def scan(
        self,
        step: Callable[[Any, Any, Any], tuple[Any, Any]],
        carry: PyTree,
        xs: PyTree = None,
        *,
        length: int | None = None,
        where: Any = True,
    ) -> tuple[PyTree, PyTree]:
        """Runs `carry, y = step(carry, x, draw)` over the leading axis of `xs`, as `jax.lax.scan` does.

        What a step draws has the axis of the steps first, under the name that it has there.

        **Arguments:** `step`, `carry`, `xs`, `length` as there; `where`: which steps count, a boolean for each,
        for sequences with padding.

        **Returns** the last carry and the stacked y.
        """


class Sampling(AbstractDraw):
    """Samples every draw."""

    def __init__(self, key: Key):
        self.key, self.drawn = key, {}

    def _next_key(self) -> Key:
        return jax.random.fold_in(self.key, len(self.drawn))

    def _value(self, distribution: Any) -> PyTree:
        return distribution.sample(self._next_key())

    def __call__(self, name, distribution, *, where=True):
        check_distribution(name, distribution)
        check_new(name, self.drawn)
        self.drawn[name] = self._value(distribution)
        return self.drawn[name]

    def scan(self, step, carry, xs=None, *, length=None, where=True):
        keys = jax.random.split(self._next_key(), num_steps(xs, length))

        def body(carry, at):
            x, key = at
            draw = type(self)(key)
            carry, y = step(carry, x, draw)
            return carry, (y, draw.drawn)

        carry, (ys, drawn) = jax.lax.scan(body, carry, (xs, keys))
        for name, values in drawn.items():
            check_new(name, self.drawn)
            self.drawn[name] = values
        return carry, ys


class Modes(Sampling):
    """Takes the most probable value of every draw, given those before."""

    def _value(self, distribution):
        return distribution.mode()


class Scoring(AbstractDraw):
    """Adds up the log-densities of given values."""

    def __init__(self, given: dict[str, Any]):
        if not isinstance(given, dict):
            raise TypeError(
                f"The values of a program's draws are a dictionary by name; got {told(given)}. Where a prior or a "
                "model is a program, so is the encoder: programs.encoder(infer, weights)."
            )
        self.given = jax.tree.map(jnp.asarray, given)
        self.scores: dict[str, Scalar] = {}

    def _take(self, names: list[str]) -> dict[str, Any]:
        for name in names:
            check_new(name, self.scores)
            if name not in self.given:
                raise ValueError(
                    f"A program draws {name!r}, but the values given are those of {sorted(self.given)}. Its "
                    "log-density needs a value for each draw."
                )
        return {name: self.given[name] for name in names}

    def __call__(self, name, distribution, *, where=True):
        check_distribution(name, distribution)
        value = self._take([name])[name]
        score = lambda value: jnp.asarray(distribution.log_prob(value))
        self.scores[name] = jnp.sum(
            score(value) if where is True else _scores_where(name, distribution, value, where)
        )
        return value

    def scan(self, step, carry, xs=None, *, length=None, where=True):
        length = num_steps(xs, length)

        # A step is traced once more for the names that it draws.
        def first(carry, xs):
            draw = Sampling(jax.random.key(0))
            step(carry, jax.tree.map(lambda leaf: leaf[0], xs), draw)
            return draw.drawn

        given = self._take(list(jax.eval_shape(first, carry, xs)))

        def body(carry, at):
            x, given = at
            draw = type(self)(given)
            carry, y = step(carry, x, draw)
            return carry, (y, draw.found)

        carry, (ys, found) = jax.lax.scan(body, carry, (xs, given), length)
        self.add(found, where)
        return carry, ys

    @property
    def found(self) -> Any:
        """What a step of a scan hands out of it."""
        return self.scores

    def add(self, found: Any, where: Any) -> None:
        """Takes what all steps of a scan have found, of those that count."""
        count = lambda scores: jnp.sum(scores if where is True else jnp.where(where, scores, 0))
        self.scores |= jax.tree.map(count, found)


def _scores_where(name: str, distribution: Any, value: Any, where: Any) -> Array:
    """Returns the log-densities of the entries that count, and 0 for the others, which may be NaN."""
    where = jnp.asarray(where)
    score = distribution.log_prob
    # A subclass may have another density.
    if type(distribution) is Normal and where.ndim:
        score = lambda value: distribution.log_probs(jnp.where(where, value, 0))
        shape = jnp.broadcast_shapes(distribution.mean.shape, value.shape)
    else:
        shape = jax.eval_shape(score, value).shape
    if where.ndim > len(shape) or any(
        own not in (1, size) for own, size in zip(where.shape[::-1], shape[::-1], strict=False)
    ):
        numbers = f"numbers of shape {shape}" if shape else "a single number"
        raise ValueError(
            f"A program draws {name!r} with `where` of shape {where.shape}, but the log-density of this "
            f"{kind_of(distribution)} is {numbers}. Use a distribution of independent entries, such as "
            "programs.Normal, with a `where` that broadcasts to them."
        )
    return jnp.where(where, score(value), 0)


def num_steps(xs: PyTree, length: int | None) -> int:
    leaves = jax.tree.leaves(xs)
    if not leaves and length is None:
        raise ValueError("draw.scan: pass xs with the steps as leading axis, or length.")
    return len(leaves[0]) if length is None else length


def check_new(name: str, drawn: Any) -> None:
    if name in drawn:
        raise ValueError(
            f"A program draws {name!r} twice. Give each draw a name of its own; for the steps of a loop use "
            "draw.scan."
        )


def check_distribution(name: str, distribution: Any) -> None:
    of_class = isinstance(distribution, type | AbstractFamily)
    if of_class or not (hasattr(distribution, "sample") and hasattr(distribution, "log_prob")):
        family = ", the family without its natural parameters" * isinstance(
            distribution, AbstractFamily
        )
        raise TypeError(
            f"draw({name!r}, ...): expected a distribution with sample(key) and log_prob(z), got "
            f"{kind_of(distribution)}{family}. Use one of elbax.programs, of a family as in "
            "elbax.Categorical(3)(logits), or of numpyro or distreqx."
        )
