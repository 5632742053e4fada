"""Estimates with their intervals."""

from collections.abc import Sequence

import jax
import numpy as np
from matplotlib.axes import Axes

from .._arguments import check_positive
from .._types import PyTree
from ._axes import axes_of, names_of


def estimates(
    values: PyTree,
    errors: PyTree,
    *,
    names: Sequence[str] | None = None,
    deviations: float = 1.96,
    ax: Axes | None = None,
) -> Axes:
    r"""Draws each number as a point with its interval, $v \pm r \cdot \mathrm{se}$, one below the other.

    **Arguments:**

    - `values`, `errors`: numbers and their standard errors, two pytrees of one structure, such as an entry of
        `model.describe(params)` and of `elbax.diagnostics.standard_errors(model, params, x)`. Where an error is
        NaN there is no interval.
    - `names`: the names of the numbers; by default their places in the pytree.
    - `deviations`: r; 1.96 makes intervals of 95 %.
    - `ax`: matplotlib axes; those of a new figure by default.

    **Returns** the axes.

    **Raises** `ValueError` for pytrees of different structures or shapes.

    ```python
    >>> import elbax.plot, numpy as np
    >>> ax = elbax.plot.estimates({"rates": np.array([1.0, 3.0])}, {"rates": np.array([0.1, 0.2])})
    >>> [text.get_text() for text in ax.get_yticklabels()]
    ['rates[0]', 'rates[1]']

    ```
    """
    who = "estimates"
    check_positive(who, deviations=deviations)
    shapes = [jax.tree.map(np.shape, each) for each in (values, errors)]
    if shapes[0] != shapes[1]:
        raise ValueError(
            f"{who}: values and errors must have one structure, got shapes {shapes[0]} and {shapes[1]}."
        )
    places, points, reaches = [], [], []
    for (path, value), error in zip(
        jax.tree_util.tree_leaves_with_path(values), jax.tree.leaves(errors), strict=True
    ):
        for place in np.ndindex(np.shape(value)):
            name = jax.tree_util.keystr(path, simple=True, separator=".")
            places.append(name + (str(list(place)) if place else ""))
            points.append(float(np.asarray(value)[place]))
            reaches.append(deviations * float(np.asarray(error)[place]))
    names = names_of(who, places if names is None else names, len(points), "")
    ax = axes_of(who, ax, figsize=(6.0, 0.9 + 0.25 * len(points)))
    ax.errorbar(points, np.arange(len(points)), xerr=reaches, fmt="o", color="C0", markersize=4)
    ax.set_yticks(range(len(points)), names)
    ax.set_ylim(len(points) - 0.5, -0.5)
    ax.set_xlabel(f"estimate ± {deviations:g} standard errors")
    return ax
