"""Independent blocks of one latent: the families used by mean field."""

import abc
import functools

import equinox as eqx
import jax
import jax.numpy as jnp

from .._arguments import kind_of
from .._math.algebra import is_label
from .._types import Any, Callable, PyTree, Scalar
from ._ascending import AbstractAscending
from ._categorical import Categorical
from ._diagonal_gaussian import DiagonalGaussian
from ._family import AbstractFamily, gradient
from ._structured import possible_dot


class AbstractFactored(AbstractAscending):
    r"""A product of independent blocks, $q(z) = \prod_b q_b(z_b)$, that approximates a `whole` family.

    The `whole` family's natural parameters are the potentials of the bound. The blocks together form a family
    `parts` over the same z. The mean parameters of `whole` are linear in those of each block (`join`), and so is
    the expected log-joint $E(\mu) = \langle \lambda, \mathrm{join}(\mu) \rangle$. The best block given the others
    has the natural parameters $\partial E / \partial \mu_b$ (Winn and Bishop 2005; Hoffman and Johnson 2018), so
    coordinate ascent needs only a gradient. Blocks of one color share no term and are updated together.
    """

    whole: eqx.AbstractVar[AbstractFamily]

    @abc.abstractmethod
    def join(self, means: PyTree) -> PyTree:
        """Returns E_q[t(z)] of the whole, linear in the mean parameters of each block."""

    @abc.abstractmethod
    def nothing(self, potentials: PyTree) -> PyTree:
        """Returns mean parameters of the parts that are all zero, with the integer labels of `potentials`."""

    @abc.abstractmethod
    def colors(self, natural: PyTree) -> tuple[PyTree, int]:
        """Returns (each part's natural parameters' colors, as broadcastable integers; the number of colors)."""

    @property
    def discrete(self) -> bool:
        return self.whole.discrete

    @property
    def event_ndim(self) -> int:
        return self.whole.event_ndim

    @property
    def of_potentials(self) -> AbstractFamily:
        return self.whole

    def potentials(self, whole: PyTree, means: PyTree) -> PyTree:
        """Returns each block's potentials, given the mean parameters of the other blocks."""
        whole = finite(whole)
        return gradient(lambda means: possible_dot(self.join(means), whole), means)

    def start(self, whole: PyTree) -> PyTree:
        """Returns natural parameters of the blocks that ignore all couplings."""
        return self.potentials(whole, self.nothing(whole))

    def ascend(self, natural: PyTree, whole: PyTree) -> PyTree:
        """Runs one round of coordinate ascent, one color after another."""
        colors, number = self.colors(natural)

        def step(natural, color):
            best = self.potentials(whole, self.parts.mean(natural))
            moved = jax.tree.map(
                lambda own, new, old: jnp.where(own == color, new, old), colors, best, natural
            )
            return moved, None

        return jax.lax.scan(step, natural, jnp.arange(number))[0]

    def mean(self, natural: PyTree) -> PyTree:
        return self.join(self.parts.mean(natural))

    def bound(self, natural: PyTree, potentials: PyTree) -> Scalar:
        means = self.parts.mean(natural)
        return possible_dot(self.join(means), potentials) + self.entropy(natural)

    def statistics(self, z: PyTree) -> PyTree:
        return self.whole.statistics(z)

    def score(self, natural: PyTree, z: PyTree) -> Scalar:
        """Returns ⟨λ, t(z)⟩, with λ the natural parameters of the whole."""
        return self.whole.score(natural, z)

    def read(self, function: Callable[[Any], Scalar], dtype: Any = float) -> tuple[PyTree, Scalar]:
        return self.whole.read(function, dtype)


@functools.singledispatch
def factored(family: AbstractFamily, blocks: Any = None) -> AbstractFactored:
    """Returns the family of independent blocks inside `family`, for mean field.

    The blocks are single variables: coordinates of a `Gaussian`, states of a `MarkovChain`, sites of a
    `GridGraph`, variables of a `FactorGraph`.

    **Arguments:**

    - `family`: the family to factor.
    - `blocks`: for a `FactorGraph`, any partition of its variables, as lists of indices. Inference inside a block
        is exact, by the block's own dynamic program.

    **Raises** `TypeError` for a family without such blocks.

    ```python
    >>> import elbax, jax.numpy as jnp
    >>> family = elbax.families.factored(elbax.Gaussian(2))
    >>> whole = jnp.array([1.0, 0.0]), jnp.array([[2.0, 1.0], [1.0, 2.0]])
    >>> natural = family.start(whole)
    >>> for _ in range(20):
    ...     natural = family.ascend(natural, whole)
    >>> print([f"{m:.3f}" for m in family(natural).mode()])  # exact, unlike the variances, which are too small
    ['0.667', '-0.333']

    ```
    """
    raise TypeError(
        f"factored: {type(family).__name__} has no mean field, because it does not split into blocks that depend "
        "on each other only through their means. Use ExactEStep, MonteCarloEStep or an encoder."
    )


def no_blocks(family: AbstractFamily, blocks: Any) -> None:
    if blocks is not None:
        raise TypeError(
            f"factored: blocks can be chosen only for a FactorGraph. The blocks of {kind_of(family)} are "
            "always its single variables."
        )


class FactoredOnce(AbstractFactored):
    """A single block, or blocks that are independent already: q is a member of the whole family."""

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
    no_blocks(family, blocks)
    return FactoredOnce(family)


def finite(potentials: PyTree) -> PyTree:
    """Replaces −∞ by the smallest number, which times a mean of 0 is 0 and still marks the impossible."""

    def one(leaf):
        return leaf if is_label(leaf) else jnp.maximum(leaf, jnp.finfo(leaf.dtype).min)

    return jax.tree.map(one, potentials)
