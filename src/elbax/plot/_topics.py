"""The first words of topics."""

from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np

from .._arguments import check_count, check_shapes
from .._types import Any
from ..diagnostics import top_words
from ._axes import names_of


def topics(
    topics: Any,
    *,
    names: Sequence[str] | None = None,
    number: int = 8,
    shares: Any = None,
    columns: int = 4,
) -> np.ndarray:
    """Draws the most probable words of each topic as bars, one panel for each topic.

    **Arguments:**

    - `topics`: probabilities of words, shape `(num_topics, num_words)`, as in `model.describe(params)["topics"]`.
    - `names`: the words; their numbers by default.
    - `number`: how many words of each topic.
    - `shares`: how much of the documents each topic has, shape `(num_topics,)`; the panels are then in its order,
        and say it.
    - `columns`: the number of panels in a row.

    **Returns** an array of axes, shape `(num_topics,)`, in the order of the topics.

    **Raises** `ValueError` for another shape.

    ```python
    >>> import elbax.plot
    >>> axes = elbax.plot.topics([[0.7, 0.2, 0.1], [0.1, 0.1, 0.8]], names=["cat", "dog", "sun"], number=2)
    >>> [label.get_text() for label in axes[1].get_yticklabels()]
    ['sun', 'cat']

    ```
    """
    topics = np.asarray(topics, float)
    check_shapes("topics", topics=(topics, ("num_topics", "num_words")))
    count, num_words = topics.shape
    check_count("topics", number=number, columns=columns)
    words = names_of("topics", names, num_words, "word ")
    first = top_words(topics, min(number, num_words))
    order = np.arange(count)
    if shares is not None:
        shares = np.asarray(shares, float)
        check_shapes("topics", shares=(shares, (count,)))
        order = np.argsort(-shares, kind="stable")
    columns = min(columns, count)
    rows = -(-count // columns)
    figure, grid = plt.subplots(
        rows,
        columns,
        figsize=(1.9 * columns, 0.5 + (0.5 + 0.17 * first.shape[1]) * rows),
        squeeze=False,
        layout="constrained",
        sharex=True,
    )
    for ax in grid.ravel()[count:]:
        ax.set_visible(False)
    axes = np.empty(count, object)
    for ax, k in zip(grid.ravel(), order):
        chosen = first[k]
        ax.barh(range(len(chosen)), topics[k, chosen], color="C0")
        ax.set_yticks(range(len(chosen)), [words[word] for word in chosen])
        ax.invert_yaxis()
        ax.set_title(f"topic {k}" if shares is None else f"topic {k}: {shares[k]:.0%}")
        axes[k] = ax
    figure.supxlabel("probability of the word", fontsize=plt.rcParams["xtick.labelsize"])
    return axes
