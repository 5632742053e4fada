"""The states of a hidden Markov model along a sequence."""

import itertools
from collections.abc import Sequence

import numpy as np

from .._arguments import kind_of
from .._model import AbstractModel
from .._rows import labels, probabilities
from .._types import Any, PyTree
from ..families import MarkovChain
from ._axes import grid_of, names_of
from ._series import series_of


def hidden_markov(
    model: AbstractModel,
    params: PyTree,
    sequence: Any,
    *,
    column: int = 0,
    times: Any = None,
    names: Sequence[str] | None = None,
    ax: Any = None,
) -> np.ndarray:
    r"""Draws a sequence over the states of its most probable path, and below it $p(z_t = k \mid x)$.

    The path (Viterbi) is a band of colour behind the series; the probabilities of the states in each step are
    stacked. The two may differ: the path is the best as a whole.

    **Arguments:**

    - `model`, `params`: a hidden Markov model, `result.model` and `result.params`.
    - `sequence`: one sequence, `(T, dim)`, with NaN where a number is missing, or an `elbax.Sequence`.
    - `column`: the column to draw.
    - `times`: the time of each step, shape `(T,)`; `0, 1, …` by default.
    - `names`: the names of the states; numbers by default.
    - `ax`: two matplotlib axes, above and below; those of a new figure by default.

    **Returns** the two axes.

    **Raises** `TypeError` for a model of other latents, `ValueError` for anything but one sequence of arrays.

    ```python
    >>> import elbax.plot
    >>> model = elbax.HiddenMarkovModel(elbax.components.Poisson(), 2)
    >>> params = model.from_description(
    ...     initial=[0.5, 0.5], transition=[[0.9, 0.1], [0.1, 0.9]], rates=[[1.0], [9.0]])
    >>> top, bottom = elbax.plot.hidden_markov(model, params, [[0], [1], [9], [8], [1]])
    >>> len(top.patches)  # spans of the path
    3

    ```
    """
    who = "hidden_markov"
    if not isinstance(getattr(model, "latent", None), MarkovChain):
        raise TypeError(
            f"{who}: expected a model with discrete states, such as elbax.HiddenMarkovModel; got "
            f"{kind_of(model)}. For a LinearGaussianStateSpace use elbax.plot.state_space."
        )
    batch, series, times = series_of(who, sequence, column, times)
    path = np.asarray(labels(model, params, batch))[0, : len(times)]
    shares = np.asarray(probabilities(model, params, batch)["unary"])[0, : len(times)]
    names = names_of(who, names, shares.shape[1], "")
    top, bottom = ax = grid_of(who, ax, 2, sharex=True, height_ratios=[2, 1])
    # A span reaches half of a step beyond its first and last steps.
    between = times[:-1] + np.diff(times) / 2
    borders = np.concatenate([times[:1], between, times[-1:]])
    cuts = np.flatnonzero(np.diff(path, prepend=-2, append=-2))
    for start, end in itertools.pairwise(cuts):
        span = top.axvspan(borders[start], borders[end], color=f"C{path[start]}")
        span.set(alpha=0.25, linewidth=0)
    size = 2.5 if len(times) < 300 else 0.8
    top.plot(times, series, "o-", color="0.25", markersize=size, linewidth=0.8)
    colors = [f"C{k}" for k in range(len(names))]
    bottom.stackplot(times, shares.T, colors=colors, alpha=0.7, linewidth=0, labels=names)
    bottom.set(ylabel="p(state | x)", ylim=(0, 1), xlim=(times[0], times[-1]), xlabel="step")
    bottom.legend(title="state", loc="center left", bbox_to_anchor=(1, 0.5))
    return ax
