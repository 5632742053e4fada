"""Data beside draws from a model."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes

from .._types import Any
from ._axes import axes_of, chosen_of, table_of


def predictive(
    x: Any,
    draws: Any,
    *,
    columns: Sequence[int] | None = None,
    names: Sequence[str] | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Draws data beside draws from a model, which look alike if the model is right.

    One column makes two histograms with the same bins, two columns a scatter plot.

    **Arguments:**

    - `x`: rows.
    - `draws`: rows of the same columns, as of `model.sample(params, key, 1000)[0]`.
    - `columns`: one or two columns; by default all, if there are no more.
    - `names`: the names of all columns; by default those of a data frame, or numbers.
    - `ax`: matplotlib axes; those of a new figure by default.

    **Returns** the axes.

    **Raises** `ValueError` for tables of different columns, or more than two columns.

    ```python
    >>> import elbax.plot, numpy as np
    >>> ax = elbax.plot.predictive(np.zeros((4, 2)), np.ones((9, 2)))
    >>> [len(points.get_offsets()) for points in ax.collections]
    [9, 4]

    ```
    """
    who = "predictive"
    table, names = table_of(who, x, names)
    drawn, _ = table_of(who, draws)
    if drawn.shape[1] != len(names):
        raise ValueError(f"{who}: x has {len(names)} columns, but the draws have {drawn.shape[1]}.")
    chosen = chosen_of(who, columns, len(names))
    if len(chosen) not in (1, 2):
        raise ValueError(
            f"{who}: expected one or two columns, got {len(chosen)}. Pass columns=(0, 1)."
        )
    ax = axes_of(who, ax)
    ax.set_xlabel(names[chosen[0]])
    if len(chosen) == 2:
        ax.scatter(*drawn[:, chosen].T, s=8, color="C1", alpha=0.5, linewidth=0, label="draws")
        ax.scatter(*table[:, chosen].T, s=10, color="0.2", linewidth=0, label="data")
        ax.set_ylabel(names[chosen[1]])
    else:
        both = [each[:, chosen[0]] for each in (table, drawn)]
        both = [each[~np.isnan(each)] for each in both]
        everything = np.concatenate(both)
        edges: Any = np.histogram_bin_edges(everything, 30)
        if table.dtype.kind in "iu":
            edges = np.arange(everything.min(), everything.max() + 2) - 0.5
        ax.hist(both[0], edges, density=True, color="0.8", label="data")
        ax.hist(both[1], edges, density=True, histtype="step", color="C1", label="draws")
        ax.set_ylabel("density")
    ax.legend()
    return ax
