"""Independent blocks of one latent: the families of mean field."""

import abc
import functools
import itertools

import equinox as eqx
import jax
import jax.numpy as jnp

from .._algebra import is_label, matmul, vdot
from .._types import Any, Array, Callable, Key, PyTree, Scalar
from ._categorical import Categorical
from ._diagonal_gaussian import DiagonalGaussian
from ._factor_graph import FactorGraph
from ._family import AbstractFamily, gradient
from ._gaussian import Gaussian
from ._grid import Grid
from ._markov_chain import MarkovChain
from ._structured import possible_dot


class AbstractFactored(AbstractFamily):
    r"""$q(z) = \prod_b q_b(z_b)$ inside a `whole` family, whose potentials its bound is for.

    The blocks all together are a family of their own, `parts`, over the same z. The whole's mean parameters
    are linear in those of each block (`join`), hence so is the expected log-joint $E(\mu) = \langle \lambda,
    \mathrm{join}(\mu) \rangle$, and the best block given the others has the natural parameters $\partial E /
    \partial \mu_b$ (Winn and Bishop 2005; Hoffman and Johnson 2018): coordinate ascent is a gradient. Blocks
    of one color share no term and move together.
    """

    whole: eqx.AbstractVar[AbstractFamily]

    @property
    @abc.abstractmethod
    def parts(self) -> AbstractFamily:
        """The blocks, all together."""

    @abc.abstractmethod
    def join(self, means: PyTree) -> PyTree:
        """E_q[t(z)] of the whole, linear in the mean parameters of each block."""

    @abc.abstractmethod
    def nothing(self, potentials: PyTree) -> PyTree:
        """Mean parameters of the parts that are all zero, with the labels of these potentials."""

    @abc.abstractmethod
    def colors(self, natural: PyTree) -> tuple[PyTree, int]:
        """(the color of every natural parameter of the parts, as integers that broadcast, how many there are)."""

    @property
    def discrete(self) -> bool:
        return self.whole.discrete

    def potentials(self, whole: PyTree, means: PyTree) -> PyTree:
        """What each block sees of the whole's potentials while the others are at these means."""
        whole = _finite(whole)
        return gradient(lambda means: possible_dot(self.join(means), whole), means)

    def start(self, whole: PyTree) -> PyTree:
        """Natural parameters of blocks that know nothing of one another."""
        return self.potentials(whole, self.nothing(whole))

    def ascend(self, natural: PyTree, whole: PyTree) -> PyTree:
        """One round of coordinate ascent, color after color."""
        colors, number = self.colors(natural)

        def step(natural, color):
            best = self.potentials(whole, self.parts.mean(natural))
            moved = jax.tree.map(
                lambda own, new, old: jnp.where(own == color, new, old), colors, best, natural
            )
            return moved, None

        return jax.lax.scan(step, natural, jnp.arange(number))[0]

    def log_normalizer(self, natural: PyTree) -> Scalar:
        return self.parts.log_normalizer(natural)

    def mean(self, natural: PyTree) -> PyTree:
        return self.join(self.parts.mean(natural))

    def entropy(self, natural: PyTree) -> Scalar:
        return self.parts.entropy(natural)

    def bound(self, natural: PyTree, potentials: PyTree) -> Scalar:
        means = self.parts.mean(natural)
        return possible_dot(self.join(means), potentials) + self.entropy(natural)

    def statistics(self, z: PyTree) -> PyTree:
        return self.whole.statistics(z)

    def score(self, natural: PyTree, z: PyTree) -> Scalar:
        """⟨λ, t(z)⟩ of the whole's potentials."""
        return self.whole.score(natural, z)

    def log_prob(self, natural: PyTree, z: PyTree) -> Scalar:
        return self.parts.log_prob(natural, z)

    def sample(self, natural: PyTree, key: Key) -> PyTree:
        return self.parts.sample(natural, key)

    def mode(self, natural: PyTree) -> PyTree:
        return self.parts.mode(natural)

    def from_network(self, output: PyTree) -> PyTree:
        return self.parts.from_network(output)

    def read(self, function: Callable[[Any], Scalar], dtype: Any = float) -> tuple[PyTree, Scalar]:
        return self.whole.read(function, dtype)


@functools.singledispatch
def factored(family: AbstractFamily, blocks: Any = None) -> AbstractFactored:
    """The family of independent blocks inside `family`: what mean field looks for q in.

    Single variables are the blocks: coordinates of a `Gaussian`, states of a `MarkovChain`, sites of a
    `Grid`, variables of a `FactorGraph`. For a `FactorGraph` any partition of the variables can be given
    instead, lists of indices: inside a block inference stays exact, by the block's own dynamic program.

    **Raises** `TypeError` for a family that has no such blocks.

    ```python
    >>> import elbax, jax.numpy as jnp
    >>> family = elbax.factored(elbax.Gaussian(2))
    >>> whole = jnp.array([1.0, 0.0]), jnp.array([[2.0, 1.0], [1.0, 2.0]])
    >>> natural = family.start(whole)
    >>> for _ in range(20):
    ...     natural = family.ascend(natural, whole)
    >>> print([f"{m:.3f}" for m in family(natural).mode()])  # exact, unlike the variances, which are too small
    ['0.667', '-0.333']

    ```
    """
    raise TypeError(
        f"{type(family).__name__} has no mean field: it does not fall into blocks that know one another by "
        "their means. "
        "Use ExactEStep, MonteCarloEStep or an encoder."
    )


def _no_blocks(family: AbstractFamily, blocks: Any) -> None:
    if blocks is not None:
        raise TypeError(
            f"factored: blocks of one's own are for a FactorGraph; those of a {type(family).__name__} are its "
            "single "
            "variables."
        )


class FactoredOnce(AbstractFactored):
    """One block, or blocks that are independent already: q is the whole family's."""

    whole: AbstractFamily

    @property
    def parts(self) -> AbstractFamily:
        return self.whole

    def join(self, means):
        return means

    def nothing(self, potentials):
        return jax.tree.map(jnp.zeros_like, potentials)

    def colors(self, natural):
        return jax.tree.map(lambda _: 0, natural), 1

    def start(self, whole):
        return whole

    def ascend(self, natural, whole):
        return whole

    def bound(self, natural, potentials):
        return self.whole.bound(natural, potentials)


@factored.register(Categorical)
@factored.register(DiagonalGaussian)
def _(family, blocks=None):
    _no_blocks(family, blocks)
    return FactoredOnce(family)


class FactoredGaussian(AbstractFactored):
    """Independent coordinates of a Gaussian vector."""

    whole: Gaussian

    @property
    def parts(self) -> DiagonalGaussian:
        return DiagonalGaussian(self.whole.dim)

    def join(self, means):
        mean, square = means
        apart = 1 - jnp.eye(len(mean), dtype=mean.dtype)
        return mean, jnp.diag(square) - 0.5 * apart * jnp.outer(mean, mean)

    def nothing(self, potentials):
        return jnp.zeros_like(potentials[0]), jnp.zeros_like(potentials[0])

    def colors(self, natural):
        place = jnp.arange(self.whole.dim)
        return (place, place), self.whole.dim

    def ascend(self, natural, whole):
        # Precisions are the same in every round, and means move as Gauss and Seidel move them: one row of the
        # matrix a coordinate, where the gradient would take it whole.
        linear, precision = whole
        own = jnp.diagonal(precision)

        def step(mean, row):
            i, linear, across, own = row
            return mean.at[i].add((linear - vdot(across, mean)) / own), None

        rows = jnp.arange(self.whole.dim), linear, precision, own
        mean, _ = jax.lax.scan(step, natural[0] / natural[1], rows)
        return own * mean, own


@factored.register(Gaussian)
def _(family, blocks=None):
    _no_blocks(family, blocks)
    return FactoredGaussian(family)


class Sites(AbstractFamily):
    """Independent categorical variables on an array of sites; along a sequence those from `length` on are
    padding, −1."""

    num_values: int = eqx.field(static=True)

    def _inside(self, natural: PyTree) -> Array:
        unary = natural["unary"]
        length = natural.get("length", len(unary))
        inside = jnp.arange(len(unary)) < length
        return jnp.broadcast_to(
            inside.reshape(inside.shape + (1,) * (unary.ndim - 2)), unary.shape[:-1]
        )

    def log_normalizer(self, natural: PyTree) -> Scalar:
        totals = jax.nn.logsumexp(natural["unary"], -1)
        return jnp.sum(jnp.where(self._inside(natural), totals, 0))

    def mean(self, natural: PyTree) -> PyTree:
        shares = jax.nn.softmax(natural["unary"], -1)
        return natural | {"unary": jnp.where(self._inside(natural)[..., None], shares, 0)}

    def entropy(self, natural: PyTree) -> Scalar:
        share = self.mean(natural)["unary"]
        there = share > 0
        return -jnp.sum(jnp.where(there, share * jnp.log(jnp.where(there, share, 1)), 0))

    def bound(self, natural: PyTree, potentials: PyTree) -> Scalar:
        return possible_dot(self.mean(natural), potentials) + self.entropy(natural)

    def statistics(self, z: Array) -> PyTree:
        return {"unary": jax.nn.one_hot(z, self.num_values)}

    def log_prob(self, natural: PyTree, z: Array) -> Scalar:
        scores = jax.nn.log_softmax(natural["unary"], -1)
        chosen = jnp.take_along_axis(scores, jnp.maximum(z, 0)[..., None], -1)[..., 0]
        return jnp.sum(jnp.where(self._inside(natural), chosen, 0))

    def sample(self, natural: PyTree, key: Key) -> Array:
        drawn = jax.random.categorical(key, natural["unary"])
        return jnp.where(self._inside(natural), drawn, -1)

    def mode(self, natural: PyTree) -> Array:
        return jnp.where(self._inside(natural), jnp.argmax(natural["unary"], -1), -1)

    def from_network(self, output: PyTree) -> PyTree:
        return output if isinstance(output, dict) else {"unary": output}

    def read(self, function, dtype=float):
        raise TypeError(
            "Sites cannot be read off a plain log_joint: their couplings are not known."
        )


class FactoredChain(AbstractFactored):
    """Independent states of a Markov chain; even steps move together, then odd ones."""

    whole: MarkovChain

    @property
    def parts(self) -> Sites:
        return Sites(self.whole.num_states)

    def join(self, means):
        states = means["unary"]
        pairs = states[:-1, :, None] * states[1:, None, :]
        return {"initial": states[0], "transition": pairs} | means

    def potentials(self, whole, means):
        if whole["transition"].ndim == 2:
            steps = (len(whole["unary"]) - 1, *whole["transition"].shape)
            whole = whole | {"transition": jnp.broadcast_to(whole["transition"], steps)}
        return super().potentials(whole, means)

    def mean(self, natural):
        found = super().mean(natural)
        return found | {"transition": jnp.sum(found["transition"], 0)}

    def bound(self, natural, potentials):
        states = self.parts.mean(natural)["unary"]
        pairs = potentials["transition"]
        if pairs.ndim == 2:
            pairs = vdot(matmul(states[:-1].T, states[1:]), pairs)
        else:
            pairs = jnp.einsum("ti,tij,tj->", states[:-1], pairs, states[1:], precision="highest")
        own = {"initial": states[0], "unary": states}
        rest = possible_dot(own, {name: potentials[name] for name in own})
        return pairs + rest + self.entropy(natural)

    def nothing(self, potentials):
        return {"unary": jnp.zeros_like(potentials["unary"]), "length": potentials["length"]}

    def colors(self, natural):
        return {"unary": jnp.arange(len(natural["unary"]))[:, None] % 2, "length": 0}, 2


@factored.register(MarkovChain)
def _(family, blocks=None):
    _no_blocks(family, blocks)
    if family.allowed or family.starts:
        raise TypeError(
            "MarkovChain: where transitions are impossible there is no mean field, as independent states give "
            "every path "
            "some probability, so that its bound is −∞. Use ExactEStep."
        )
    return FactoredChain(family)


class FactoredGrid(AbstractFactored):
    """Independent sites of a grid; those of a checkerboard's white fields move together, then the black ones."""

    whole: Grid

    @property
    def parts(self) -> Sites:
        return Sites(self.whole.num_values)

    def join(self, means):
        sites = means["unary"]
        return {
            "unary": sites,
            "below": sites[:-1, :, :, None] * sites[1:, :, None, :],
            "beside": sites[:, :-1, :, None] * sites[:, 1:, None, :],
        }

    def nothing(self, potentials):
        return {"unary": jnp.zeros_like(potentials["unary"])}

    def colors(self, natural):
        row, column = jnp.indices((self.whole.height, self.whole.width))
        return {"unary": ((row + column) % 2)[:, :, None]}, 2


@factored.register(Grid)
def _(family, blocks=None):
    _no_blocks(family, blocks)
    return FactoredGrid(family)


class FactoredGraph(AbstractFactored):
    """Independent blocks of variables, exact inside."""

    whole: FactorGraph
    blocks: tuple[tuple[int, ...], ...] = eqx.field(static=True)

    def _scopes(self) -> list[tuple[tuple[int, ...], ...]]:
        """For every scope of the whole, what each block has of it."""
        return [
            tuple(shared for block in self.blocks if (shared := tuple(sorted({*scope} & {*block}))))
            for scope in self.whole.scopes
        ]

    @property
    def parts(self) -> FactorGraph:
        singles = ((i,) for i in range(len(self.whole.sizes)))
        scopes = dict.fromkeys(itertools.chain(*self._scopes(), singles))
        return FactorGraph(self.whole.sizes, tuple(scopes), limit=self.whole.limit)

    def join(self, means):
        of_scope = dict(zip(self.parts.scopes, means, strict=True))

        found = []
        for scope, shared in zip(self.whole.scopes, self._scopes()):
            order = tuple(itertools.chain(*shared))
            table = functools.reduce(_outer, (of_scope[own] for own in shared), jnp.ones(()))
            found.append(table.transpose([order.index(i) for i in scope]))
        return tuple(found)

    def nothing(self, potentials):
        dtype = jnp.result_type(*potentials)
        sizes = self.whole.sizes
        return tuple(jnp.zeros([sizes[i] for i in s], dtype) for s in self.parts.scopes)

    def colors(self, natural):
        block_of = {i: b for b, block in enumerate(self.blocks) for i in block}
        near = {b: set() for b in range(len(self.blocks))}
        for scope in self.whole.scopes:
            touched = {block_of[i] for i in scope}
            for b in touched:
                near[b] |= touched - {b}
        color: dict[int, int] = {}
        for b in near:
            taken = {color[other] for other in near[b] if other in color}
            color[b] = next(c for c in itertools.count() if c not in taken)
        return tuple(color[block_of[s[0]]] for s in self.parts.scopes), max(color.values()) + 1

    def ascend(self, natural, whole):
        # Colors are known before anything runs: what the others see of the whole is not worked out.
        colors, number = self.colors(natural)
        whole, means = _finite(whole), self.parts.mean(natural)
        for color in range(number):
            pick = lambda of_scope, color=color: tuple(
                part if own == color else None for part, own in zip(of_scope, colors)
            )
            score = lambda mine, means=means: possible_dot(
                self.join(eqx.combine(mine, means)), whole
            )
            best = gradient(score, pick(means))
            scopes = filter(None, pick(self.parts.scopes))
            block = FactorGraph(self.whole.sizes, scopes, limit=self.whole.limit)
            found = iter(block.mean(tuple(jax.tree.leaves(best))))
            moved = tuple(None if table is None else next(found) for table in best)
            natural, means = eqx.combine(best, natural), eqx.combine(moved, means)
        return natural


def _finite(potentials: PyTree) -> PyTree:
    """The smallest number in place of −∞: where a mean is 0 it counts nothing and is still known to be there."""

    def one(leaf):
        return leaf if is_label(leaf) else jnp.maximum(leaf, jnp.finfo(leaf.dtype).min)

    return jax.tree.map(one, potentials)


def _outer(a: Array, b: Array) -> Array:
    return a.reshape(a.shape + (1,) * b.ndim) * b


@factored.register(FactorGraph)
def _(family, blocks=None):
    everything = range(len(family.sizes))
    blocks = [[i] for i in everything] if blocks is None else blocks
    blocks = tuple(tuple(int(i) for i in block) for block in blocks)
    if sorted(itertools.chain(*blocks)) != list(everything):
        raise ValueError(
            f"factored: blocks are lists of variables that hold each of 0, ..., {len(family.sizes) - 1} once; got "
            f"{blocks}."
        )
    return FactoredGraph(family, blocks)
