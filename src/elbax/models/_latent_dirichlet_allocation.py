"""Topics of documents; the latent is a document's proportions of topics."""

from typing import NoReturn

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from .._arguments import check_count, check_key, check_kind
from .._door import enter_sample
from .._free import log_shares
from .._invariance import beside_by_name, Invariances, nothing, shifts
from .._math.algebra import log
from .._model import AbstractExponentialFamilyModel
from .._types import Any, Array, Float, Key, PyTree, Scalar
from ..data._batch import as_batch, effective_weight
from ..data._check import check_described, check_weights
from ..data._ragged import Ragged, split_rows
from ..families import Distribution, Proportions, TopicProportions
from ..priors import Dirichlet
from ..priors._concentration import maximize_concentration
from ..priors._shares import vanished


class LatentDirichletAllocation(AbstractExponentialFamilyModel):
    r"""Latent Dirichlet allocation: $\theta \sim \mathrm{Dirichlet}(\alpha)$ and $p(w \mid \theta) = \sum_k
    \theta_k \beta_{kw}$ for each word of a document (Blei, Ng and Jordan 2003).

    A datum is a document, as counts of distinct words: `{"words": (length,), "counts": (length,)}`, where words
    that occur 0 times are padding; `elbax.documents` makes a batch of them. The latent is θ; the topic of each
    word is eliminated. The probability is that of the words in their order, so there is no multinomial
    coefficient. p(θ | document) is not known, so q is a Dirichlet, by coordinate ascent: `MeanFieldEStep` with a
    table, or `CoordinateAscentEStep` without one. Params: `{"topics": (num_topics, num_words),
    "log_concentration": (num_topics,)}`, logits of β and log α.

    The params are estimated: `ClosedFormMStep` is variational EM, with α by Minka's equation. With
    `free={"topics": True, "log_concentration": False}` α keeps its value. `elbax.Bayesian(model)` has a
    distribution over topics instead, as scikit-learn and gensim do, and with `OnlineMStep` is stochastic
    variational inference (Hoffman, Blei and Bach 2010).

    **Arguments:**

    - `num_topics`: K.
    - `num_words`: the size of the vocabulary.
    - `prior`: a `Dirichlet` prior on each topic's words.

    ```python
    >>> import elbax, jax, numpy as np
    >>> counts = np.array([[4, 2, 0, 0], [3, 3, 0, 1], [0, 0, 5, 2], [0, 1, 2, 4]])
    >>> batch = elbax.documents(counts)
    >>> model = elbax.LatentDirichletAllocation(2, 4, prior=elbax.priors.Dirichlet(1.1))
    >>> em = elbax.Chain(elbax.CoordinateAscentEStep(model), elbax.ClosedFormMStep(model))
    >>> result = elbax.fit(em, batch, key=jax.random.key(0))
    >>> print(np.sort(model.describe(result.params)["topics"][:, 0]).round(1))
    [0.  0.5]

    ```
    """

    num_topics: int = eqx.field(static=True)
    num_words: int = eqx.field(static=True)
    prior: Dirichlet | None

    def __init__(self, num_topics: int, num_words: int, *, prior: Dirichlet | None = None):
        check_count("LatentDirichletAllocation", num_topics=num_topics, num_words=num_words)
        check_kind("LatentDirichletAllocation", Dirichlet, prior=prior)
        self.num_topics, self.num_words, self.prior = num_topics, num_words, prior

    @property
    def latent(self) -> TopicProportions:
        """The family of a document's proportions of topics."""
        return TopicProportions(self.num_topics)

    @property
    def exact(self) -> bool:
        return False

    def conditional(self, natural: PyTree, x: PyTree) -> NoReturn:
        raise TypeError(
            "LatentDirichletAllocation: p(proportions | document) and the evidence are not known. Use "
            "MeanFieldEStep or CoordinateAscentEStep, and elbax.elbo with their posterior."
        )

    def potentials_at(self, natural: PyTree, x: PyTree) -> PyTree:
        return self.potentials(natural, x)[0]

    def check(self, batch: PyTree, who: str = "fit") -> None:
        batch = as_batch(batch)
        weight = effective_weight(jax.tree.map(np.asanyarray, batch), np)
        check_weights(weight, who)
        row = 0
        for x, own in split_rows(batch.x, weight) if _is_ragged(batch) else [(batch.x, weight)]:
            self._check_group(x, own, row, who)
            row += len(own)

    def _check_group(self, x: PyTree, weight: Any, start: int, who: str) -> None:
        if not isinstance(x, dict) or set(x) != {"words", "counts"}:
            raise ValueError(
                f"{who}: expected documents as elbax.documents(counts) makes them, from a matrix of counts or "
                f"lists of pairs (word, count); got {jax.tree.map(np.shape, x)!r}."
            )
        words, counts = np.asarray(x["words"]), np.asarray(x["counts"])
        if words.ndim != 2 or words.shape != counts.shape or words.dtype.kind not in "iu":
            raise ValueError(
                f"{who}: words must be whole numbers and counts numbers, both of shape (num_documents, length); "
                f"got {words.dtype} of shape {words.shape} and {counts.dtype} of shape {counts.shape}."
            )
        there = (weight > 0)[:, None]
        bad = there & ~(np.isfinite(counts) & (counts >= 0))
        if bad.any():
            row, place = map(int, np.argwhere(bad)[0])
            raise ValueError(
                f"{who}: counts must be finite and not negative; row {start + row}, word {words[row, place]} has "
                f"{counts[row, place]:g}."
            )
        bad = there & ((words < 0) | (words >= self.num_words))
        if bad.any():
            row, place = map(int, np.argwhere(bad)[0])
            raise ValueError(
                f"{who}: row {start + row} has word {words[row, place]}, but the vocabulary has the words 0, ..., "
                f"{self.num_words - 1}. Map words to numbers as for the data of the first fit, or drop them."
            )

    def init(self, key: Key, x: PyTree = None) -> PyTree:
        """Returns topics near the words' frequencies, perturbed at random, and concentrations 1 / K.

        Without data the topics are near uniform.
        """
        check_key(key, "LatentDirichletAllocation.init")
        frequency = jnp.ones(self.num_words) if x is None else self.word_counts(x) + 1
        noise = jax.random.gamma(key, 100.0, (self.num_topics, self.num_words)) / 100
        return {
            "topics": jax.nn.log_softmax(log(frequency * noise)),
            "log_concentration": jnp.full(self.num_topics, -jnp.log(float(self.num_topics))),
        }

    def word_counts(self, batch: PyTree) -> Float[Array, " num_words"]:
        """Returns how often each word occurs in the documents, times their weights."""
        batch = as_batch(batch)
        weight = effective_weight(batch)
        total = jnp.zeros(self.num_words)
        for x, own in split_rows(batch.x, weight) if _is_ragged(batch) else [(batch.x, weight)]:
            there = own[:, None] > 0
            counts = jnp.where(there, own[:, None] * x["counts"], 0)
            total = total.at[jnp.where(there, x["words"], 0)].add(counts.astype(total.dtype))
        return total

    @property
    def shapes(self) -> PyTree:
        return {
            "topics": (self.num_topics, self.num_words),
            "log_concentration": (self.num_topics,),
        }

    def natural(self, params: PyTree) -> PyTree:
        r"""Returns log β, α and −A(α), of which the last is the statistic of every document."""
        return {
            "topics": jax.nn.log_softmax(params["topics"]),
            **natural_of_concentration(params["log_concentration"]),
        }

    def prepare(self, natural: PyTree) -> PyTree:
        # One word's topics are neighbors in memory.
        return natural | {"topics": natural["topics"].T}

    def potentials(self, natural: PyTree, x: PyTree) -> tuple[PyTree, Scalar]:
        if not isinstance(x, dict) or jnp.ndim(x["words"]) != 1:
            raise ValueError(
                "LatentDirichletAllocation: one document must be {'words': (length,), 'counts': (length,)}; got "
                f"{jax.tree.map(jnp.shape, x)!r}. A posterior takes one document. For all documents of a group "
                "use jax.vmap(posterior)(x)."
            )
        potentials = {
            "concentration": natural["concentration"],
            "topics": natural["topics"],
            "words": x["words"],
            "counts": x["counts"].astype(natural["topics"].dtype),
        }
        return potentials, natural["count"]

    def maximize(self, statistics: PyTree, params: PyTree, free: PyTree) -> PyTree:
        """Returns topics in proportion to the expected counts of their words, and Minka's concentrations."""
        count = statistics["topics"]
        if self.prior is not None:
            count = count + self.prior.pseudo_count
        return {
            "topics": log_shares(count, params["topics"], free["topics"]),
            "log_concentration": maximize_log_concentration(
                statistics, params["log_concentration"], free["log_concentration"]
            ),
        }

    def log_prior(self, params: PyTree) -> Scalar | float:
        if self.prior is None:
            return 0.0
        return self.prior.log_density(jax.nn.log_softmax(params["topics"]))

    @property
    def knows_prior(self) -> bool:
        return True

    def latent_prior(self, params: PyTree, x: PyTree) -> Distribution:
        return self.latent(jnp.exp(params["log_concentration"]))

    def prior_at(self, natural: PyTree, x: PyTree) -> Distribution:
        return self.latent(natural["concentration"])

    def describe(self, params: PyTree) -> dict[str, Array]:
        """Returns the words' probabilities in each topic (K, num_words), and the concentrations α (K,)."""
        return {
            "topics": jax.nn.softmax(params["topics"]),
            "concentration": jnp.exp(params["log_concentration"]),
        }

    def from_description(self, *, topics: Any, concentration: Any) -> PyTree:
        """Returns params from a description; each topic's words need not sum to 1.

        **Raises** `ValueError` for a wrong shape or an invalid number; the message names it.
        """
        check_described(
            "LatentDirichletAllocation",
            topics=(topics, (self.num_topics, self.num_words), "shares"),
            concentration=(concentration, (self.num_topics,), "positive"),
        )
        return {
            "topics": log(jnp.asarray(topics, float)),
            "log_concentration": jnp.log(jnp.asarray(concentration, float)),
        }

    def sample(
        self, params: PyTree, key: Key, num_data: int, *, length: int = 100
    ) -> tuple[PyTree, Float[Array, "num_data K"]]:
        """Returns `num_data` documents of `length` words, each with count 1, and their proportions of topics."""
        params = enter_sample(self, params, key, num_data=num_data, length=length)
        topics = jax.nn.log_softmax(params["topics"])
        concentration = jnp.exp(params["log_concentration"])

        def one(key):
            key_shares, key_topics, key_words = jax.random.split(key, 3)
            shares = Proportions(self.num_topics).sample(concentration, key_shares)
            which = jax.random.categorical(key_topics, jnp.log(shares), shape=(length,))
            words = jax.vmap(lambda key, topic: jax.random.categorical(key, topics[topic]))(
                jax.random.split(key_words, length), which
            )
            return {"words": words, "counts": jnp.ones(length, topics.dtype)}, shares

        return jax.vmap(one)(jax.random.split(key, num_data))

    def invariances(self, params: PyTree) -> Invariances:
        """Returns the shifts of all logits of a topic."""
        return beside_by_name(
            {
                "topics": shifts(params["topics"].shape),
                "log_concentration": nothing(params["log_concentration"]),
            }
        )

    def at_boundary(self, params: PyTree, least: float) -> PyTree:
        return {
            "topics": vanished(params["topics"], least),
            "log_concentration": np.zeros(np.shape(params["log_concentration"]), bool),
        }

    def num_observations(self, batch: PyTree) -> float:
        """Returns the number of words in all documents, times their weights."""
        return float(jnp.sum(self.word_counts(batch)))

    def summary(self) -> dict[str, Any]:
        return {"K": self.num_topics}


def natural_of_concentration(log_concentration: Float[Array, " K"]) -> dict[str, Array]:
    """Returns α and −A(α), the coordinates of a document's prior."""
    concentration = jnp.exp(log_concentration)
    family = Proportions(concentration.shape[-1])
    return {"concentration": concentration, "count": -family.log_normalizer(concentration)}


def maximize_log_concentration(
    statistics: PyTree, log_concentration: Float[Array, " K"], free: Any
) -> Float[Array, " K"]:
    """Returns log α at Minka's maximum, given the sum of E[log θ] and the number of documents."""
    number = statistics["count"]
    some = number > 0
    mean_log = statistics["concentration"] / jnp.where(some, number, 1)
    found = maximize_concentration(mean_log, jnp.exp(log_concentration), free)
    return jnp.where(some, jnp.log(found), log_concentration)


def _is_ragged(batch: Any) -> bool:
    return isinstance(batch.x, Ragged)
