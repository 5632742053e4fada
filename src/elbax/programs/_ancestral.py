"""Distributions written as ancestral programs."""

import dataclasses

import equinox as eqx
import jax
import jax.numpy as jnp

from .._arguments import takes, takes_key, told
from .._network import Network
from .._program import by_value
from .._types import Any, Callable, Key, PyTree, Scalar
from ..data._sequence import values_of
from ..posteriors import Amortized, Exact
from ._draw import Modes, Sampling, Scoring
from ._steps import log_ratios, Recording


class Ancestral(eqx.Module):
    r"""The distribution of what a program draws: $p(z) = \prod_i p(z_i \mid z_1, \ldots, z_{i-1})$.

    A program is a function `program(*arguments, draw)` that names what it draws, in order: `z = draw("z",
    distribution)` returns a sample when the program is sampled, and the value given when its density is computed.
    A z of the whole is a dictionary by these names.

    **Arguments:**

    - `program`: a function `program(*arguments, draw)`; its return value is not used.
    - `arguments`: what it is called with before `draw`: pytrees such as weights and a datum.
    - `key`: handed to a program that has an argument `key`, for dropout; `None` is for evaluation.

    ```python
    >>> import elbax, jax, jax.numpy as jnp
    >>> def program(scale, draw):
    ...     mean = draw("mean", elbax.programs.Normal(jnp.zeros(2), scale))
    ...     draw("x", elbax.programs.Normal(mean, 1.0))
    >>> p = elbax.programs.Ancestral(program, jnp.array(3.0))
    >>> z = p.sample(jax.random.key(0))
    >>> sorted(z), p.log_prob(z).shape
    (['mean', 'x'], ())

    ```
    """

    program: Callable[..., Any] = eqx.field(static=True)
    arguments: tuple[PyTree, ...]
    key: Key | None

    def __init__(self, program: Callable[..., Any], *arguments: PyTree, key: Key | None = None):
        self.program, self.arguments, self.key = by_value(program), arguments, key

    def _run(self, draw: Any) -> Any:
        more = {"key": self.key} if takes_key(self.program) else {}
        self.program(*self.arguments, draw, **more)
        return draw

    def sample(self, key: Key) -> dict[str, PyTree]:
        """Returns one draw of all names; a continuous one moves with the arguments."""
        return self._run(Sampling(key)).drawn

    def mode(self) -> dict[str, PyTree]:
        """Returns the mode of each draw given those before, for distributions that have a `mode()`."""
        return self._run(Modes(jax.random.key(0))).drawn

    def log_prob(self, z: dict[str, PyTree]) -> Scalar:
        """Returns log p(z), in nats.

        **Raises** `ValueError` if z has other names than the program draws.
        """
        return jnp.asarray(sum(self.log_probs(z).values(), 0.0))

    def log_probs(self, z: dict[str, PyTree]) -> dict[str, Scalar]:
        """Returns log p of each draw given those before, by name, in nats; errors as of `log_prob`."""
        return self._scored(Scoring(z)).scores

    def _scored(self, draw: Scoring) -> Any:
        self._run(draw)
        unknown = sorted(set(draw.given) - set(draw.scores))
        if unknown:
            raise ValueError(
                f"The values of {unknown} are given, but the program draws {sorted(draw.scores)}."
            )
        return draw

    def log_ratio(self, z: dict[str, PyTree], q: "Ancestral") -> Scalar:
        r"""Returns log p(z) − log q(z) at a draw z of q, step by step in closed form; its mean is −KL(q ‖ p).

        For a draw whose distributions in p and in q have a KL in closed form, $-\mathrm{KL}(q(z_t \mid z_{<t})
        \,\|\, p(z_t \mid z_{<t}))$ takes the place of the difference of its log-densities. It has the same mean
        under q if all that this draw of p may depend on is drawn by q before (Kingma and Welling 2014, eq.
        10; Sønderby et al. 2016). Where q has another order, the difference stays. The closed forms are those of
        `Normal`, of members of one family, and of any distribution with `divergence(other)`, which returns
        KL(self ‖ other) or `None`. A term has less noise than its difference; a sum of terms need not, as
        differences cancel where q is p(z | x). `estimators.Reparameterized(stepwise=True)` takes this form.

        A z may have names that q does not draw, such as the datum's; they count by log p.

        **Raises** `ValueError` as `log_prob` does.

        ```python
        >>> import elbax, jax, jax.numpy as jnp
        >>> def program(scale, draw):
        ...     top = draw("top", elbax.programs.Normal(jnp.zeros(2), scale))
        ...     draw("below", elbax.programs.Normal(top, scale))
        >>> p, q = (elbax.programs.Ancestral(program, scale) for scale in (2.0, 1.0))
        >>> each = jax.vmap(q.sample)(jax.random.split(jax.random.key(0), 100))
        >>> bool(jax.vmap(lambda z: p.log_prob(z) - q.log_prob(z))(each).std() > 0.5)
        True
        >>> bool(jax.vmap(lambda z: p.log_ratio(z, q))(each).std() < 1e-6)
        True

        ```
        """
        return jnp.asarray(sum(self.log_ratios(z, q).values(), 0.0))

    def log_ratios(self, z: dict[str, PyTree], q: "Ancestral") -> dict[str, Scalar]:
        """Returns the terms of `log_ratio`, by name, in nats."""
        return log_ratios(self._scored(Recording(z)), q._run(Recording(z)))

    @property
    def parts(self) -> dict[str, "Part"]:
        """Its draws as distributions, each given those before, by name."""
        return {name: Part(self, name) for name in self._shapes}

    @property
    def _shapes(self) -> dict[str, PyTree]:
        return jax.eval_shape(lambda: self.sample(jax.random.key(0)))

    @property
    def moves(self) -> bool:
        """Whether draws are differentiable functions of the arguments: none is a whole number or a truth value."""
        leaves = jax.tree.leaves(self._shapes)
        return all(jnp.issubdtype(leaf.dtype, jnp.inexact) for leaf in leaves)


class Part(eqx.Module):
    """One draw of a program given those before: samples of all, and the density of this one."""

    whole: Ancestral
    name: str = eqx.field(static=True)

    @property
    def moves(self) -> bool:
        """Whether draws of the whole move with its arguments."""
        return self.whole.moves

    def sample(self, key: Key) -> dict[str, PyTree]:
        """Returns one draw of all names."""
        return self.whole.sample(key)

    def log_prob(self, z: dict[str, PyTree]) -> Scalar:
        """Returns log p of the draw of this name given those before."""
        return self.whole.log_probs(z)[self.name]

    def log_ratio(self, z: dict[str, PyTree], q: "Part") -> Scalar:
        """Returns the term of this name of `Ancestral.log_ratio`."""
        return self.whole.log_ratios(z, q.whole)[self.name]


def encoder(
    program: Callable[..., Any],
    weights: PyTree,
    *,
    target: Exact | None = None,
    standardize: PyTree | None = None,
) -> Amortized:
    """Returns the posterior q(z | x) whose draws are those of `program(weights, x, draw)`.

    **Arguments:**

    - `program`: the program. With a target it is `program(weights, params, x, draw)`, and reads the params of the
        model.
    - `weights`: its first argument, trained as an encoder's are; `()` if it has none of its own.
    - `target`: `Exact(model, params)`, as in `Amortized`: `JointGradientStep(..., through=True)` then moves the
        params along the gradient through q, too.
    - `standardize`: as in `Amortized`.

    ```python
    >>> import elbax, jax, jax.numpy as jnp
    >>> def program(weights, x, draw):
    ...     z2 = draw("z2", elbax.programs.Normal(weights["up"] @ x, 1.0))
    ...     draw("z1", elbax.programs.Normal(weights["down"] @ z2, 0.5))
    >>> weights = {"up": jnp.ones((1, 3)), "down": jnp.ones((2, 1))}
    >>> posterior = elbax.programs.encoder(program, weights)
    >>> sorted(posterior(jnp.zeros(3)).mode())
    ['z1', 'z2']

    ```
    """
    network = Network(_Encoder(by_value(program)), weights)
    return Amortized(network, _as_it_is, target=target, standardize=standardize)


def log_joint(
    program: Callable[..., Any], observed: str | tuple[str, ...] = "x"
) -> Callable[..., Scalar]:
    """Returns log p(x, z; θ) of `program(params, draw)`, for `elbax.Model`.

    **Arguments:**

    - `program`: `program(params, draw)`, or `program(params, x, draw)` if something in the datum is given, such as
        inputs or the length of a sequence.
    - `observed`: the name under which it draws the datum; or several, which are entries of a datum that is a
        dictionary. A `Sequence` is observed as its values.
    """
    return _Joint(by_value(program), observed)


def dream(program: Callable[..., Any], observed: str | tuple[str, ...] = "x") -> Callable[..., Any]:
    """Returns `sample(params, key) -> (x, z)` of `program(params, draw)`, for `elbax.SleepEStep`.

    **Arguments:** as for `log_joint`, but the program must not need a datum.
    """
    return _Dream(by_value(program), observed)


def prior(program: Callable[..., Any]) -> Callable[..., Ancestral]:
    """Returns p(z; θ) of `program(params, draw)`, or p(z | x; θ) of `program(params, x, draw)`, for
    `elbax.Model(likelihood=, prior=)`."""
    return _Prior(by_value(program))


# These are equal if their programs are, so that two models of one program share what is compiled.
@dataclasses.dataclass(frozen=True)
class _Encoder:
    program: Any

    def __call__(self, weights: PyTree, *seen: PyTree, key: Key | None = None) -> Ancestral:
        return Ancestral(self.program, weights, *seen, key=key)


@dataclasses.dataclass(frozen=True)
class _Prior:
    program: Any

    def __call__(self, params: PyTree, x: PyTree, key: Key | None = None) -> Ancestral:
        more = (x,) if takes(self.program, 3) else ()
        return Ancestral(self.program, params, *more, key=key)


@dataclasses.dataclass(frozen=True)
class _Joint:
    program: Any
    observed: str | tuple[str, ...]

    def __call__(self, params: PyTree, x: PyTree, z: PyTree, key: Key | None = None) -> Scalar:
        return _Prior(self.program)(params, x, key).log_prob(self._whole(x, z))

    def log_ratio(
        self, params: PyTree, x: PyTree, z: PyTree, q: Ancestral, key: Key | None = None
    ) -> Scalar:
        """Returns log p(x, z) − log q(z) as `Ancestral.log_ratio` does."""
        return _Prior(self.program)(params, x, key).log_ratio(self._whole(x, z), q)

    def _whole(self, x: PyTree, z: PyTree) -> dict[str, PyTree]:
        """Returns z and the datum, by name."""
        if not isinstance(z, dict):
            raise TypeError(
                "programs.log_joint: expected z as a dictionary of what the program draws, by name; got "
                f"{told(z)}. Use an encoder that is a program too, programs.encoder(infer, weights)."
            )
        seen, names = values_of(x), self.observed
        if isinstance(names, str):
            seen = {names: seen}
        elif names and not (isinstance(seen, dict) and set(names) <= set(seen)):
            given = f"a dictionary of {sorted(seen)}" if isinstance(seen, dict) else told(seen)
            raise ValueError(
                f"programs.log_joint: observed={names!r} are entries of a datum that is a dictionary; got {given}."
            )
        else:
            seen = {name: seen[name] for name in names}
        both = sorted(set(z) & set(seen))
        if both:
            raise ValueError(
                f"programs.log_joint: the latent has values of {both}, which are observed. Leave them out of the "
                "encoder's program, or of `observed`."
            )
        return z | seen


@dataclasses.dataclass(frozen=True)
class _Dream:
    program: Any
    observed: str | tuple[str, ...]

    def __call__(self, params: PyTree, key: Key) -> tuple[PyTree, PyTree]:
        z = Ancestral(self.program, params).sample(key)
        if isinstance(self.observed, str):
            return z.pop(self.observed), z
        return {name: z.pop(name) for name in self.observed}, z


def _as_it_is(distribution: Ancestral) -> Ancestral:
    return distribution
