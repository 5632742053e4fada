"""How good topics are: perplexity, their first words, and how often these occur together."""

import jax
import numpy as np

from .._arguments import check_count
from .._elbo import elbo
from .._model import AbstractModel
from .._types import Any, Float, PyTree
from ..data._batch import as_batch, effective_weight
from ..data._ragged import Ragged, split_rows


def perplexity(
    model: AbstractModel,
    params: PyTree,
    posterior: Any,
    batch: PyTree,
    *,
    chunk_size: int | None = None,
) -> float:
    r"""Returns exp(−bound per word) of documents: the lower, the better.

    The bound is `elbo`, for an `elbax.Bayesian` model with its global term, the KL of all topics. So at the same
    topics and proportions it is scikit-learn's `perplexity`, and exp(−gensim's `log_perplexity`), which is in nats
    though gensim logs 2 to its power (its issue 2623). Few held-out documents carry the whole KL: for their words
    alone pass `model.model` and `model.inside(params)`, topics at the mean. A point's log-prior is left out.
    gensim counts documents `total_docs` / `len(chunk)` times: pass them as `Batch(x, weight=...)`, and so does
    scikit-learn with `sub_sampling=True`.

    **Arguments:** those of `elbax.elbo`. `model` has `num_observations(batch)`, the number of words.

    ```python
    >>> import elbax, jax
    >>> model = elbax.LatentDirichletAllocation(1, 4)
    >>> params = model.from_description(topics=[[0.25, 0.25, 0.25, 0.25]], concentration=[1.0])
    >>> posterior = elbax.posteriors.CoordinateAscent(elbax.Exact(model, params))
    >>> batch = elbax.documents([[(0, 2), (3, 1)], [(1, 1)]], num_words=4)
    >>> print(f"{elbax.diagnostics.perplexity(model, params, posterior, batch):.3f}")
    4.000

    ```
    """
    weight = effective_weight(jax.tree.map(np.asarray, as_batch(batch)), np).sum()
    total = weight * float(elbo(model, params, posterior, batch, chunk_size=chunk_size))
    if model.has_evidence:
        total -= float(model.log_prior(params))
    return float(np.exp(-total / model.num_observations(batch)))


def top_words(topics: Any, number: int = 10, names: Any = None) -> np.ndarray:
    """Returns the most probable words of each topic, first the most probable.

    **Arguments:**

    - `topics`: probabilities or concentrations of shape `(num_topics, num_words)`, such as
        `model.describe(params)["topics"]`.
    - `number`: how many words.
    - `names`: the words, in the order of their numbers, such as `vectorizer.get_feature_names_out()`; by default
        their numbers.

    ```python
    >>> import elbax
    >>> elbax.diagnostics.top_words([[0.1, 0.7, 0.2]], 2, ["the", "cat", "sat"]).tolist()
    [['cat', 'sat']]

    ```
    """
    topics = np.asarray(topics)
    check_count("top_words", number=number)
    if topics.ndim != 2 or number > topics.shape[1]:
        raise ValueError(
            f"top_words: expected topics of shape (num_topics, num_words) with at least {number} words, got shape "
            f"{topics.shape}."
        )
    order = np.argsort(-topics, 1, kind="stable")[:, :number]
    if names is None:
        return order
    names = np.asarray(names)
    if names.shape != topics.shape[1:]:
        raise ValueError(
            f"top_words: names must have one entry for each of the {topics.shape[1]} words, got shape "
            f"{names.shape}."
        )
    return names[order]


def coherence(
    words: Any,
    batch: PyTree,
    measure: str = "umass",
) -> Float[np.ndarray, " num_topics"]:
    r"""Returns how often the first words of each topic occur in the same documents: the higher, the better.

    With D(v) the share of documents that have the word v, and D(u, v) of those that have both:

    - `"umass"`: the mean of $\log \frac{N D(v_i, v_j) + 1}{N D(v_j)}$ over pairs, where $v_j$ is before $v_i$ in
        the topic (Mimno et al. 2011, who take the sum). A word that is in no document counts as in one.
    - `"npmi"`: the mean of $\log \frac{D(u, v)}{D(u) D(v)} / -\log D(u, v)$ over pairs, from −1 for words that are
        never together to 1 for words that are always (Bouma 2009).

    **Arguments:**

    - `words`: the numbers of the words, as `top_words(topics)` gives them, at least two for each topic.
    - `batch`: documents, as `elbax.documents` makes them; often others than those of the fit.

    ```python
    >>> import elbax, numpy as np
    >>> batch = elbax.documents([[(0, 1), (1, 1)], [(0, 2), (1, 1)], [(2, 1)]], num_words=3)
    >>> print(elbax.diagnostics.coherence(np.array([[0, 1], [0, 2]]), batch, "npmi"))
    [ 1. -1.]

    ```
    """
    words = np.asarray(words)
    if words.ndim != 2 or words.shape[1] < 2 or words.dtype.kind not in "iu":
        raise ValueError(
            "coherence: words must be whole numbers of shape (num_topics, at least 2), as top_words(topics) gives "
            f"them; got {words.dtype} of shape {words.shape}."
        )
    if measure not in ("umass", "npmi"):
        raise ValueError(f"coherence: measure must be 'umass' or 'npmi', got {measure!r}.")
    kinds, place = np.unique(words, return_inverse=True)
    together, number = _together(kinds, batch)
    place = place.reshape(words.shape)
    first, second = np.triu_indices(words.shape[1], 1)
    before, after = place[:, first], place[:, second]
    both, one, other = together[before, after], together[before, before], together[after, after]
    if measure == "umass":
        return np.mean(np.log((both + 1) / np.maximum(one, 1)), 1)
    share = np.maximum(both, 1) / number
    gain = np.log(share * number**2 / np.maximum(one * other, 1))
    # Words that are in every document are always together.
    each = np.where(share < 1, gain / -np.log(np.where(share < 1, share, 0.5)), 1.0)
    return np.mean(np.where(both > 0, each, -1.0), 1)


def _together(kinds: np.ndarray, batch: PyTree) -> tuple[np.ndarray, float]:
    """Returns (in how much weight of documents each two words occur, the weight of all documents)."""
    batch = as_batch(batch)
    weight = effective_weight(jax.tree.map(np.asarray, batch), np)
    groups: Any = (
        split_rows(batch.x, weight) if isinstance(batch.x, Ragged) else [(batch.x, weight)]
    )
    total = np.zeros((len(kinds), len(kinds)))
    for x, own in groups:
        found = np.asarray(x["words"])[..., None] == kinds
        present = (found & (np.asarray(x["counts"])[..., None] > 0)).any(1).astype(float)
        total += (present * own[:, None]).T @ present
    return total, float(weight.sum())
