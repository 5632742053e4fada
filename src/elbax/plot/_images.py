"""Rows of pictures."""

from collections.abc import Mapping

import numpy as np
from matplotlib.axes import Axes

from .._arguments import whole_numbers
from .._types import Any
from ._axes import axes_of
from ._mosaic import mosaic


def images(rows: Mapping[str, Any], shape: tuple[int, int], *, ax: Axes | None = None) -> Axes:
    """Draws rows of pictures below each other, such as data over their reconstructions and draws.

    **Arguments:**

    - `rows`: pictures by the name of their row, each an array `(number, height · width)` or `(number, height,
        width)`: `{"data": x[:10], "reconstruction": decoded, "draw": drawn}`.
    - `shape`: (height, width) of a picture.
    - `ax`: matplotlib axes; those of a new figure by default.

    **Returns** the axes.

    **Raises** `ValueError` for rows of different numbers of pictures, or pictures of another size.

    ```python
    >>> import elbax.plot, numpy as np
    >>> ax = elbax.plot.images({"data": np.ones((3, 4)), "decoded": np.zeros((3, 4))}, (2, 2))
    >>> ax.images[0].get_array().shape  # with a line between pictures
    (6, 9)

    ```
    """
    height, width = whole_numbers("images: shape", shape)
    tables = {name: np.asarray(row, float) for name, row in rows.items()}
    number = max((len(table) for table in tables.values()), default=0)
    for name, table in tables.items():
        if table.size != number * height * width or len(table) != number:
            raise ValueError(
                f"images: expected {number} pictures of {height} x {width} numbers in each row; {name!r} has "
                f"shape {table.shape}."
            )
    pictures = np.stack([table.reshape(number, height, width) for table in tables.values()])
    ax = axes_of("images", ax, figsize=(1.2 + 0.55 * number, 0.3 + 0.55 * len(tables)))
    ax.imshow(mosaic(pictures), cmap="gray_r")
    ax.set_xticks([])
    ax.set_yticks((height + 1) * np.arange(len(tables)) + (height - 1) / 2, list(tables))
    ax.tick_params(length=0)
    ax.spines[:].set_visible(False)
    return ax
