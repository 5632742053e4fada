"""Documents as counts of their distinct words."""

import jax
import jax.numpy as jnp
import numpy as np

from .._arguments import check_count, check_key, kind_of
from .._types import Any, Key, PyTree
from ._batch import as_batch, Batch, effective_weight
from ._check import check_known, check_weights
from ._ragged import Ragged, split_rows


# More distinct lengths than this are rounded up first, as the search for groups takes their square in time.
_LENGTHS = 256


def documents(
    data: Any,
    *,
    num_words: int | None = None,
    weight: Any = None,
    num_groups: int = 4,
    allow_empty: bool = False,
) -> Batch:
    """Returns a batch of documents as counts of their distinct words, in groups of similar numbers of these.

    A group is padded to its longest document, with a word that occurs 0 times. The groups are those with the least
    padding. It runs on the host, once.

    **Arguments:**

    - `data`: a SciPy sparse matrix or an array of counts, shape `(num_documents, num_words)`, as of scikit-learn's
        `CountVectorizer`; or a list of documents, each a list of pairs (word number, count), as of gensim.
    - `num_words`: the size of the vocabulary, for a list; a matrix must have so many columns.
    - `weight`: how often each document counts.
    - `num_groups`: the largest number of groups. A pass over data is compiled for each of them.
    - `allow_empty`: whether a document may have no words, which say nothing about topics.

    **Returns** a `Batch` with an `elbax.data.Ragged` of `{"words": (num_rows, longest), "counts": (num_rows,
    longest)}`, and the documents' numbers as its index.

    **Raises** `ValueError` for a word outside of the vocabulary, counts that are negative or not finite, and an
    empty document.

    ```python
    >>> import elbax
    >>> batch = elbax.documents([[(0, 2), (3, 1)], [(1, 1)], [(0, 1), (1, 1), (2, 5)]], num_words=4, num_groups=2)
    >>> [group["words"].shape for group in batch.x.groups]
    [(1, 1), (2, 3)]

    ```
    """
    check_count("documents", num_groups=num_groups)
    if num_words is not None:
        check_count("documents", num_words=num_words)
    words, counts, ends = _read(data, num_words)
    lengths = np.diff(ends)
    if not len(lengths):
        raise ValueError("documents: expected at least one document.")
    if not allow_empty and not lengths.all():
        raise ValueError(
            f"documents: document {int(np.argmin(lengths > 0))} has no words. Drop it, or pass allow_empty=True."
        )
    if weight is not None:
        weight = np.asarray(weight, float)
        if weight.shape != lengths.shape:
            raise ValueError(
                f"documents: weight has shape {weight.shape}; expected {lengths.shape}, one for each document."
            )
        check_weights(weight, "documents")
    order = np.argsort(lengths, kind="stable")
    groups, start = [], 0
    for stop in _group_ends(lengths[order], num_groups):
        rows = order[start:stop]
        groups.append(_padded(words, counts, ends, rows))
        start = stop
    return Batch(
        Ragged(tuple(groups)), weight=None if weight is None else weight[order], index=order
    )


def minibatches(batch: PyTree, num_batches: int, *, key: Key) -> Batch:
    """Returns documents dealt at random into minibatches of one shape, for a scan over them.

    Each minibatch has its share of every group of lengths. Its weights are `num_batches` times the documents' own,
    so that it stands for all data. Where a group is not a multiple of `num_batches`, rows of weight 0 are added.

    **Arguments:**

    - `batch`: what `elbax.documents` returns.
    - `num_batches`: the number of minibatches.
    - `key`: a random key.

    **Returns** a `Batch` whose arrays have one more leading axis, of length `num_batches`.

    ```python
    >>> import elbax, jax
    >>> batch = elbax.documents([[(0, 2), (3, 1)], [(1, 1)], [(2, 1)], [(0, 1), (1, 1)]], num_words=4)
    >>> batches = elbax.data.minibatches(batch, 2, key=jax.random.key(0))
    >>> batches.weight.shape
    (2, 2)

    ```
    """
    check_count("minibatches", num_batches=num_batches)
    check_key(key, "minibatches")
    batch = as_batch(batch)
    check_known("minibatches", batch)
    if not isinstance(batch.x, Ragged):
        raise TypeError(
            f"minibatches: expected what elbax.documents returns, got {kind_of(batch.x)}. Reshape rows of one "
            "length by x.reshape(num_batches, -1, ...)."
        )
    weight = effective_weight(jax.tree.map(np.asarray, batch), np)
    number = np.arange(len(weight)) if batch.index is None else np.asarray(batch.index)
    draws = np.random.default_rng(np.asarray(jax.random.bits(key, (4,))))
    groups, weights, numbers = [], [], []
    for x, own, index in split_rows(batch.x, weight, number):
        size = -(-len(own) // num_batches)
        place = np.resize(draws.permutation(len(own)), size * num_batches)
        # Dealt like cards: padding comes last, at most one row in each minibatch.
        place, real = (
            values.reshape(size, num_batches).T
            for values in (place, np.arange(len(place)) < len(own))
        )
        groups.append({name: jnp.asarray(np.asarray(x[name])[place]) for name in x})
        weights.append(np.where(real, own[place], 0) * num_batches)
        numbers.append(index[place])
    return Batch(
        Ragged(tuple(groups)),
        weight=np.concatenate(weights, 1),
        index=np.concatenate(numbers, 1),
    )


def rounded(batch: Batch) -> Batch:
    """Returns documents padded to powers of two of rows and words in each group, so that programs are reused.

    Rows that are added are copies of weight 0 with the index of the row that they copy.
    """
    weight = effective_weight(jax.tree.map(np.asarray, batch), np)
    groups, weights, numbers = [], [], []
    for x, own, index in split_rows(batch.x, weight, np.asarray(batch.index)):
        rows, length = (1 << (size - 1).bit_length() for size in x["words"].shape)
        place = np.minimum(np.arange(rows), len(own) - 1)
        more = ((0, 0), (0, length - x["words"].shape[1]))
        groups.append({name: jnp.asarray(np.pad(np.asarray(x[name])[place], more)) for name in x})
        weights.append(np.where(np.arange(rows) < len(own), own[place], 0))
        numbers.append(index[place])
    return Batch(
        Ragged(tuple(groups)), weight=np.concatenate(weights), index=np.concatenate(numbers)
    )


def _read(data: Any, num_words: int | None) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns (words, counts, ends): document i has the entries from ends[i] to ends[i + 1]."""
    if hasattr(data, "tocsr"):
        table = data.tocsr(copy=True)
        table.sum_duplicates()
        table.eliminate_zeros()
        width, found = table.shape[1], (table.indices, table.data, table.indptr)
    elif isinstance(data, np.ndarray | jax.Array):
        if np.ndim(data) != 2:
            raise ValueError(
                f"documents: expected counts of shape (num_documents, num_words), got {np.shape(data)}."
            )
        table = np.asarray(data)
        rows, words = np.nonzero(table)
        ends = np.searchsorted(rows, np.arange(len(table) + 1))
        width, found = table.shape[1], (words, table[rows, words], ends)
    else:
        width, found = num_words, _of_lists(data)
    words, counts, ends = found
    if num_words not in (None, width):
        raise ValueError(
            f"documents: the table has {width} columns, but num_words is {num_words}. Make it with the same "
            "vocabulary."
        )
    row_of = lambda place: int(np.searchsorted(ends, place, side="right")) - 1
    counts = np.asarray(
        counts, np.result_type(float) if np.asarray(counts).dtype.kind in "biu" else None
    )
    bad = np.flatnonzero(~np.isfinite(counts) | (counts < 0))
    if bad.size:
        raise ValueError(
            f"documents: counts must be finite and not negative; document {row_of(bad[0])}, word {words[bad[0]]} "
            f"has {counts[bad[0]]:g}."
        )
    outside = np.flatnonzero((words < 0) | (words >= (np.inf if width is None else width)))
    if outside.size:
        raise ValueError(
            f"documents: document {row_of(outside[0])} has word {words[outside[0]]}, but the vocabulary has the "
            f"words 0, ..., {'' if width is None else width - 1}."
        )
    return words, counts, ends


def _of_lists(data: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    words, counts, ends = [], [], [0]
    for i, document in enumerate(data):
        total: dict[int, float] = {}
        for pair in document:
            try:
                word, count = pair
            except (TypeError, ValueError):
                raise TypeError(
                    f"documents: document {i} holds {pair!r}, but pairs (word number, count) are expected. Count "
                    "words with scikit-learn's CountVectorizer, and pass its matrix."
                ) from None
            if not isinstance(word, int | np.integer) or isinstance(word, bool):
                raise TypeError(
                    f"documents: document {i} has the word {word!r}; expected the number of a word. Count words "
                    "with scikit-learn's CountVectorizer, and pass its matrix."
                )
            total[int(word)] = total.get(int(word), 0) + count
        present = sorted(word for word, count in total.items() if count != 0)
        words.extend(present)
        counts.extend(total[word] for word in present)
        ends.append(len(words))
    return np.array(words, int), np.array(counts, float), np.array(ends)


def _padded(words: Any, counts: Any, ends: Any, rows: np.ndarray) -> dict[str, jax.Array]:
    lengths = ends[rows + 1] - ends[rows]
    place = np.arange(max(1, lengths.max()))
    inside = place < lengths[:, None]
    place = np.where(inside, ends[rows][:, None] + place, 0)
    padded = lambda values: np.where(inside, values[place] if len(values) else 0, 0)
    return {
        "words": jnp.asarray(padded(words), jnp.int32),
        "counts": jnp.asarray(padded(counts)),
    }


def _group_ends(lengths: np.ndarray, num_groups: int) -> np.ndarray:
    """Returns where each group of sorted lengths ends, so that as little as possible is padded."""
    step = -(-int(lengths[-1]) // _LENGTHS)
    longest, first = np.unique(-(-lengths // step), return_index=True)
    ends = np.append(first[1:], len(lengths))
    starts = np.append(0, ends)
    # least[j]: the fewest cells of the documents up to the j-th distinct length, in some number of groups.
    cells = longest[None, :] * (ends[None, :] - starts[:-1, None])
    cells = np.where(np.arange(len(ends))[:, None] <= np.arange(len(ends)), cells, np.inf)
    least, choices = cells[0], []
    for _ in range(min(num_groups, len(ends)) - 1):
        options = np.minimum(np.append(np.inf, least[:-1])[:, None] + cells, np.inf)
        choices.append(np.argmin(options, 0))
        least = np.min(options, 0)
    place, found = len(ends) - 1, []
    for choice in reversed(choices):
        found.append(ends[place])
        place = choice[place] - 1
    return np.array([*found, ends[place]])[::-1]
