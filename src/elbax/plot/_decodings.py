"""What a decoder makes of a grid of latents."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.axes import Axes

from .._arguments import check_count, check_function, check_positive, whole_numbers
from .._program import compiled
from .._types import Array, Callable
from ._axes import axes_of
from ._mosaic import mosaic


def decodings(
    decoder: Callable,
    shape: tuple[int, int],
    *,
    number: int = 12,
    reach: float = 2.0,
    ax: Axes | None = None,
) -> Axes:
    r"""Draws what a decoder makes of each point of a grid in the plane of latents, each at its place.

    **Arguments:**

    - `decoder`: a function from a latent of two numbers to a picture, such as `lambda z: sigmoid(params(z))`.
    - `shape`: (height, width) of a picture.
    - `number`: the number of latents in each direction.
    - `reach`: the grid is over $[-\text{reach}, \text{reach}]^2$, in standard deviations of the usual prior.
    - `ax`: matplotlib axes; those of a new figure by default.

    **Returns** the axes.

    **Raises** `ValueError` for a decoder of pictures of another size.

    ```python
    >>> import elbax.plot, jax.numpy as jnp
    >>> ax = elbax.plot.decodings(lambda z: jnp.outer(z, z), (2, 2), number=5)
    >>> ax.images[0].get_array().shape  # with a line between pictures
    (15, 15)

    ```
    """
    who = "decodings"
    check_function(who, "lambda z: params(z)", decoder=decoder)
    check_count(who, number=number)
    check_positive(who, reach=reach)
    height, width = whole_numbers(f"{who}: shape", shape)
    line = np.linspace(-reach, reach, number)
    # From the top to the bottom, as pictures are stored.
    across, upward = np.meshgrid(line, line[::-1])
    grid = jnp.asarray(np.stack([across, upward], -1).reshape(-1, 2), float)
    pictures = decode(who, decoder, grid, (height, width))
    whole = mosaic(pictures.reshape(number, number, height, width))
    ax = axes_of(who, ax, figsize=(4.5, 4.5))
    edge = reach * number / max(number - 1, 1)
    ax.imshow(whole, cmap="gray_r", extent=(-edge, edge, -edge, edge))
    ax.set(xlabel="z, coordinate 0", ylabel="z, coordinate 1")
    return ax


def decode(who: str, decoder: Callable, z: Array, shape: Sequence[int]) -> np.ndarray:
    """Returns the pictures of some latents; raises `ValueError` for a decoder of pictures of another size."""
    pictures = np.asarray(_decode(decoder, z))
    if pictures[0].size != np.prod(shape):
        raise ValueError(
            f"{who}: shape is {tuple(shape)}, but the decoder makes pictures of {pictures[0].size} numbers."
        )
    return pictures


@compiled
def _decode(decoder, grid):
    return jax.vmap(decoder)(grid)
