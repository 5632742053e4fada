"""What a decoder makes of one latent, a unit of it moved at a time."""

from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np
from matplotlib.axes import Axes

from .._arguments import check_count, check_function, check_positive, whole_numbers
from .._types import Any, Callable
from ._axes import axes_of, chosen_of
from ._decodings import decode
from ._mosaic import mosaic


def traversals(
    decoder: Callable,
    z: Any,
    shape: tuple[int, int],
    *,
    units: Sequence[int] | None = None,
    number: int = 9,
    reach: float = 2.0,
    ax: Axes | None = None,
) -> Axes:
    r"""Draws what a decoder makes of a latent z of which one unit moves: a row for each, a column for each value.

    The row of a unit that the decoder does not read is of one picture.

    **Arguments:**

    - `decoder`: a function from a latent of d numbers to a picture, such as `lambda z: sigmoid(params(z))`.
    - `z`: (d,), where the other units stay: that of a datum, `posterior(x).mode()`, or zeros.
    - `shape`: (height, width) of a picture.
    - `units`: which units move, from top to bottom; all by default.
    - `number`: the number of values of a unit, at equal distances over $[-\text{reach}, \text{reach}]$.
    - `reach`: the largest value, in standard deviations of the usual prior.
    - `ax`: matplotlib axes; those of a new figure by default.

    **Returns** the axes; a unit has its number at its row, and a column its value.

    **Raises** `TypeError` for a z that is no vector, `ValueError` for units that it does not have, or a decoder of
    pictures of another size.

    ```python
    >>> import elbax.plot, jax.numpy as jnp
    >>> ax = elbax.plot.traversals(lambda z: jnp.outer(z, z), jnp.zeros(3), (3, 3), number=5)
    >>> ax.images[0].get_array().shape  # three rows of five, with a line between pictures
    (12, 20)

    ```
    """
    who = "traversals"
    check_function(who, "lambda z: params(z)", decoder=decoder)
    check_count(who, number=number)
    check_positive(who, reach=reach)
    height, width = whole_numbers(f"{who}: shape", shape)
    z = np.asarray(z, float)
    if z.ndim != 1:
        raise TypeError(
            f"{who}: z must be a vector, the latent of one picture; got shape {z.shape}. For a latent of several "
            "parts, pass the part that moves, and a decoder of it."
        )
    chosen = chosen_of(who, units, len(z), "units")
    values = np.linspace(-reach, reach, number)
    moved = np.broadcast_to(z, (len(chosen), number, len(z))).copy()
    for row, unit in zip(moved, chosen):
        row[:, unit] = values
    pictures = decode(who, decoder, jnp.asarray(moved.reshape(-1, len(z)), float), (height, width))
    ax = axes_of(who, ax, figsize=(0.6 + 0.55 * number, 0.5 + 0.55 * len(chosen)))
    ax.imshow(mosaic(pictures.reshape(len(chosen), number, height, width)), cmap="gray_r")
    ax.set_xticks((width + 1) * np.arange(number) + (width - 1) / 2, [f"{v:.1f}" for v in values])
    ax.set_yticks((height + 1) * np.arange(len(chosen)) + (height - 1) / 2, list(map(str, chosen)))
    ax.set(xlabel="value of the unit", ylabel="unit of z")
    ax.tick_params(length=0)
    ax.spines[:].set_visible(False)
    return ax
