"""Scores and loadings in one picture."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes

from .._arguments import check_shapes
from .._types import Any
from ._axes import axes_of, names_of
from ._points import draw_points


def biplot(
    scores: Any,
    loadings: Any,
    *,
    labels: Any = None,
    names: Sequence[str] | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Draws two factors of each row as a point and the loadings of each column as an arrow (Gabriel 1971).

    Arrows are scaled so that the longest reaches as far as the farthest point.

    **Arguments:**

    - `scores`: shape `(num_data, num_factors)`, as of `jax.vmap(elbax.Exact(model, params))(x).mode()`.
    - `loadings`: shape `(dim, num_factors)`, as in `model.describe(params)["loadings"]`.
    - `labels`: a label of each row, which colours it.
    - `names`: the names of the columns; numbers by default.
    - `ax`: matplotlib axes; those of a new figure by default.

    **Returns** the axes.

    **Raises** `ValueError` for arrays that do not fit together, or a single factor.

    ```python
    >>> import elbax.plot
    >>> ax = elbax.plot.biplot([[0.0, 1.0], [2.0, 0.0]], [[1.0, 0.0], [0.0, 0.5]])
    >>> [text.get_text() for text in ax.texts]
    ['column 0', 'column 1']

    ```
    """
    scores, loadings = np.asarray(scores, float), np.asarray(loadings, float)
    shapes = {"scores": (scores, ("num_data", "num_factors"))}
    check_shapes("biplot", **shapes, loadings=(loadings, ("dim", "num_factors")))
    if scores.shape[1] < 2:
        raise ValueError("biplot: expected at least two factors, got one. Use elbax.plot.loadings.")
    names = names_of("biplot", names, len(loadings), "column ")
    ax = axes_of("biplot", ax)
    draw_points(ax, scores[:, :2], labels)
    lengths = np.hypot(*loadings[:, :2].T)
    scale = np.hypot(*scores[:, :2].T).max() / lengths.max(initial=1e-12)
    ends = scale * loadings[:, :2]
    zeros = np.zeros(len(ends))
    ax.quiver(zeros, zeros, *ends.T, angles="xy", scale_units="xy", scale=1, width=0.003)
    for name, end in zip(names, ends, strict=True):
        side = "left" if end[0] > 0 else "right", "bottom" if end[1] > 0 else "top"
        ax.text(end[0], end[1], name, fontsize=8, ha=side[0], va=side[1])
    ax.update_datalim(1.3 * ends)
    ax.autoscale_view()
    ax.set(xlabel="factor 0", ylabel="factor 1")
    if labels is not None:
        ax.legend()
    return ax
