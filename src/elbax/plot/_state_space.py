"""The smoothed signal of a linear-Gaussian state space."""

import jax
import numpy as np
from matplotlib.axes import Axes

from .._arguments import check_positive, kind_of
from .._program import compiled
from .._types import Any, PyTree
from ..models import LinearGaussianStateSpace
from ._axes import axes_of
from ._series import series_of


def state_space(
    model: LinearGaussianStateSpace,
    params: PyTree,
    sequence: Any,
    *,
    column: int = 0,
    times: Any = None,
    deviations: float = 2.0,
    ax: Axes | None = None,
) -> Axes:
    r"""Draws the observations of a sequence and the smoothed signal, $E[C z_t + d \mid x]$ with its deviation.

    The band is that of the signal; an observation has the noise R besides. Over a gap it widens.

    **Arguments:**

    - `model`, `params`: a state space, `result.model` and `result.params`.
    - `sequence`: one sequence, `(T, outputs)`, with NaN where a number is missing, or an `elbax.Sequence`.
    - `column`: the output to draw.
    - `times`: the time of each step, shape `(T,)`; `0, 1, …` by default.
    - `deviations`: half of the band's width in standard deviations.
    - `ax`: matplotlib axes; those of a new figure by default.

    **Returns** the axes.

    **Raises** `TypeError` for another model, `ValueError` for anything but one sequence.

    ```python
    >>> import elbax.plot
    >>> model = elbax.LinearGaussianStateSpace(1)
    >>> params = model.from_description(
    ...     initial_mean=[0.0], initial_covariance=[[10.0]], transition=[[1.0]],
    ...     transition_covariance=[[0.1]], emission=[[1.0]], emission_covariance=[[0.1]])
    >>> ax = elbax.plot.state_space(model, params, [[1.0], [1.2], [float("nan")], [2.1]])
    >>> [line.get_label() for line in ax.lines]
    ['smoothed mean', 'observed']

    ```
    """
    who = "state_space"
    if not isinstance(model, LinearGaussianStateSpace):
        raise TypeError(
            f"{who}: expected an elbax.LinearGaussianStateSpace, got {kind_of(model)}. For a "
            "HiddenMarkovModel use elbax.plot.hidden_markov."
        )
    check_positive(who, deviations=deviations)
    batch, series, times = series_of(who, sequence, column, times)
    datum = jax.tree.map(lambda leaf: leaf[0], batch)
    mean, covariance = map(np.asarray, _smooth(model, params, datum))
    described = model.describe(params)
    row = np.asarray(described["emission"])[column]
    signal = (mean @ row)[: len(times)]
    if "emission_offset" in described:
        signal = signal + float(described["emission_offset"][column])
    reach = deviations * np.sqrt(row @ covariance @ row)[: len(times)]
    ax = axes_of(who, ax)
    band = ax.fill_between(
        times, signal - reach, signal + reach, color="C0", alpha=0.25, linewidth=0
    )
    band.set_label(f"± {deviations:g} sd")
    ax.plot(times, signal, color="C0", label="smoothed mean")
    ax.plot(times, series, "o", color="0.25", markersize=3, label="observed")
    ax.set_xlabel("step")
    ax.legend()
    return ax


@compiled
def _smooth(model, params, x):
    return model.smooth(params, x)
