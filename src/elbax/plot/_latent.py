"""The latents of rows in the plane."""

from collections.abc import Sequence

import equinox as eqx
import jax
import numpy as np
from matplotlib.axes import Axes

from .._arguments import kind_of
from .._program import compiled
from .._types import Any, PyTree
from ..data._table import as_arrays
from ._axes import axes_of, chosen_of
from ._points import draw_points


def latent(
    posterior: PyTree,
    x: PyTree,
    labels: Any = None,
    *,
    columns: Sequence[int] = (0, 1),
    ax: Axes | None = None,
) -> Axes:
    r"""Draws where the posterior puts the latent of each row: $\arg\max_z q(z \mid x_i)$, of a Gaussian the mean.

    **Arguments:**

    - `posterior`: a function from a row to a distribution over vectors, such as `state.posterior`, an encoder, or
        `elbax.Exact(model, params)` of factor analysis.
    - `x`: rows.
    - `labels`: a label of each row, which colours it.
    - `columns`: the two coordinates of the latent to draw.
    - `ax`: matplotlib axes; those of a new figure by default.

    **Returns** the axes.

    **Raises** `TypeError` for a latent that is no vector of at least two numbers.

    ```python
    >>> import elbax.plot, jax
    >>> x = jax.random.normal(jax.random.key(0), (20, 4))
    >>> model = elbax.FactorAnalysis(2)
    >>> ax = elbax.plot.latent(elbax.Exact(model, model.init(jax.random.key(1), x)), x)
    >>> ax.collections[0].get_offsets().shape
    (20, 2)

    ```
    """
    who = "latent"
    if not callable(posterior):
        raise TypeError(
            f"{who}: posterior must be a function of a row, such as state.posterior; got "
            f"{kind_of(posterior)}."
        )
    points = np.asarray(_modes(eqx.nn.inference_mode(posterior), as_arrays(x)))
    if points.ndim != 2 or points.shape[1] < 2 or points.dtype.kind != "f":
        raise TypeError(
            f"{who}: expected latents that are vectors of at least two numbers, got {points.dtype} of shape "
            f"{points.shape[1:]} each."
        )
    chosen = chosen_of(who, columns, points.shape[1])
    ax = axes_of(who, ax)
    draw_points(ax, points[:, chosen], labels)
    ax.set(xlabel=f"z, coordinate {chosen[0]}", ylabel=f"z, coordinate {chosen[1]}")
    if labels is not None:
        ax.legend(loc="center left", bbox_to_anchor=(1, 0.5))
    return ax


@compiled
def _modes(posterior, x):
    return jax.vmap(lambda row: posterior(row).mode())(x)
