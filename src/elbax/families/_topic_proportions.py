"""Proportions of topics in a document, with the topic of each word eliminated."""

from typing import ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp

from .._arguments import check_count
from .._math.algebra import in_every_lane, matmul, vdot
from .._types import Any, Array, Callable, Float, Int, PyTree, Scalar
from ._ascending import AbstractAscending, repeated
from ._factored import factored, no_blocks
from ._proportions import Proportions


class TopicProportions(AbstractAscending):
    r"""A Dirichlet q(θ) over a document's proportions of topics, whose bound also holds each word's topic.

    The members are those of `Proportions(num_topics)`, with natural parameters γ. Potentials are concentrations
    `(num_topics,)`, or `{"concentration": α, "topics": (num_words, num_topics), "words": (length,), "counts":
    (length,)}`: log p(word | topic), which documents share, and the numbers and counts of the document's distinct
    words. For these $\langle \lambda, t(\theta) \rangle = \langle \alpha, \log\theta \rangle + \sum_w c_w \log
    \sum_k \theta_k \beta_{kw}$, and the bound is the largest over the topics' distributions $\phi_w \propto
    \beta_{kw} e^{E \log \theta_k}$ (Blei, Ng and Jordan 2003). A word that occurs c times has c independent
    topics, all with this one distribution, so it need not be repeated.

    ```python
    >>> import elbax, jax.numpy as jnp
    >>> family = elbax.families.TopicProportions(2)
    >>> topics = jnp.log(jnp.array([[0.9, 0.1], [0.1, 0.9]]))  # of each word the probability in two topics
    >>> document = {"words": jnp.array([0, 1]), "counts": jnp.array([8.0, 1.0])}
    >>> potentials = document | {"concentration": jnp.ones(2), "topics": topics}
    >>> natural = family.start(potentials)
    >>> for _ in range(50):
    ...     natural = family.ascend(natural, potentials)
    >>> print([f"{share:.1f}" for share in family(natural).mode()])
    ['0.8', '0.2']

    ```
    """

    num_topics: int = eqx.field(static=True)

    event_ndim: ClassVar[int] = 1
    # The bound is not linear in log p(word | topic).
    linear: ClassVar[bool] = False

    def __check_init__(self):
        check_count("TopicProportions", num_topics=self.num_topics)

    @property
    def parts(self) -> Proportions:
        return Proportions(self.num_topics)

    def batch_ndim(self, natural: PyTree) -> int:
        return jnp.ndim(_concentration(natural)) - 1

    def mean(self, natural: Float[Array, " K"]) -> Float[Array, " K"]:
        return self.parts.mean(natural)

    def statistics(self, z: Float[Array, " K"]) -> Float[Array, " K"]:
        return self.parts.statistics(z)

    def score(self, natural: PyTree, z: Float[Array, " K"]) -> Scalar:
        log_shares = jnp.log(z)
        return vdot(_concentration(natural), log_shares) + _of_words(natural, log_shares)

    def bound(self, natural: Float[Array, " K"], potentials: PyTree) -> Scalar:
        of_shares = self.parts.bound(natural, _concentration(potentials))
        return of_shares + _of_words(potentials, self.mean(natural))

    def start(self, potentials: PyTree) -> Float[Array, " K"]:
        """Returns γ at equal shares of all topics in every word."""
        concentration = _concentration(potentials)
        if concentration is potentials:
            return concentration
        return concentration + jnp.sum(potentials["counts"]) / self.num_topics

    def ascend(self, natural: Float[Array, " K"], potentials: PyTree) -> Float[Array, " K"]:
        return self.climb(natural, potentials, 1)

    def climb(self, natural, potentials, num_rounds, tolerance=None):
        concentration = _concentration(potentials)
        if concentration is potentials:
            return concentration
        table, words, counts = (potentials[name] for name in ("topics", "words", "counts"))
        chances, _ = _chances(table, words)

        def by_products(state):
            natural, accurate = state
            odds, _ = _weights(self.mean(natural))
            total = matmul(chances, odds)
            enough = total > _least(total)
            share = odds * matmul(
                jnp.where(enough, counts, 0) / jnp.where(enough, total, 1), chances
            )
            return concentration + share, accurate & jnp.all(enough | (counts == 0))

        def by_logarithms(natural):
            return concentration + matmul(
                counts, _softmax(_rows(table, words) + self.mean(natural))
            )

        found, accurate = repeated(by_products, (natural, True), num_rounds, tolerance)
        return jax.lax.cond(
            in_every_lane(accurate),
            lambda: found,
            lambda: repeated(by_logarithms, natural, num_rounds, tolerance),
        )

    def read(self, function: Callable[[Any], Scalar], dtype: Any = float) -> tuple[Array, Scalar]:
        return self.parts.read(function, dtype)


def _concentration(potentials: PyTree) -> Array:
    return potentials["concentration"] if isinstance(potentials, dict) else potentials


def _weights(logarithms: Array) -> tuple[Array, Array]:
    """Returns (weights of which the largest is 1, its logarithm), along the last axis."""
    top = jax.lax.stop_gradient(jnp.max(logarithms, -1, keepdims=True))
    top = jnp.where(jnp.isfinite(top), top, 0)
    return jnp.exp(logarithms - top), top[..., 0]


def _least(total: Array) -> Any:
    """Returns the least sum of products of weights in which those that underflow do not matter."""
    number = jnp.finfo(total.dtype)
    return number.tiny / number.eps


def _softmax(logarithms: Array) -> Array:
    """Returns shares along the last axis; all are 0 where all logarithms are −∞."""
    weights, _ = _weights(logarithms)
    total = jnp.sum(weights, -1, keepdims=True)
    return weights / jnp.where(total > 0, total, 1)


def _rows(table: Float[Array, "V K"], words: Int[Array, " W"]) -> Float[Array, "W K"]:
    """Returns the rows of these words; a word outside of the vocabulary has none, and probability 0."""
    inside = (words >= 0) & (words < len(table))
    return jnp.where(inside[:, None], table[jnp.where(inside, words, 0)], -jnp.inf)


def _chances(table: Float[Array, "V K"], words: Int[Array, " W"]) -> tuple[Array, Array]:
    """Returns (weights of which the largest of each word is 1, its logarithm)."""
    # Exponentials of the vocabulary, which all documents share, are fewer than those of their words.
    weights, top = _weights(table)
    inside = (words >= 0) & (words < len(table))
    place = jnp.where(inside, words, 0)
    return weights[place], jnp.where(inside, top[place], -jnp.inf)


def _of_words(potentials: PyTree, log_shares: Float[Array, " K"]) -> Scalar:
    """Returns Σ_w c_w log Σ_k exp(log θ_k + log β_kw); 0 without words."""
    if not isinstance(potentials, dict):
        return jnp.zeros((), log_shares.dtype)
    counts = potentials["counts"]
    each = _log_chances(potentials["topics"], potentials["words"], log_shares)
    there = counts > 0
    return vdot(counts, jnp.where(there, each, 0))


@jax.custom_jvp
def _log_chances(
    table: Float[Array, "V K"], words: Int[Array, " W"], log_shares: Float[Array, " K"]
) -> Float[Array, " W"]:
    """Returns log Σ_k exp(log θ_k + log β_kw) of each word, by products of weights where that is accurate."""
    odds, highest = _weights(log_shares)
    chances, top = _chances(table, words)
    total = matmul(chances, odds)
    enough = total > _least(total)
    return jax.lax.cond(
        in_every_lane(jnp.all(enough)),
        lambda: jnp.log(jnp.where(enough, total, 1)) + top + highest,
        lambda: jax.nn.logsumexp(_rows(table, words) + log_shares, -1),
    )


@_log_chances.defjvp
def _(primals, tangents):
    table, words, log_shares = primals
    odds, _ = _weights(log_shares)
    chances, _ = _chances(table, words)
    total = matmul(chances, odds)
    enough = total > _least(total)
    # The gradient is the topics' distribution in each word.
    shares = jax.lax.cond(
        in_every_lane(jnp.all(enough)),
        lambda: chances * (odds / jnp.where(enough, total, 1)[:, None]),
        lambda: _softmax(_rows(table, words) + log_shares),
    )
    place = jnp.clip(words, 0, len(table) - 1)
    change = jnp.sum(shares * tangents[0][place], -1) + matmul(shares, tangents[2])
    return _log_chances(*primals), change


@factored.register(TopicProportions)
def _(family, blocks=None):
    no_blocks(family, blocks)
    return family
