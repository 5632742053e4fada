"""Points in the colours of their labels."""

import numpy as np

from .._types import Any


def draw_points(
    ax: Any,
    points: np.ndarray,
    labels: Any = None,
    sizes: Any = 14.0,
) -> None:
    """Scatters points (number, 2), those of label k in the colour `"Ck"`, those of label −1 in grey.

    Labels that are no whole numbers are numbered in their order.
    """
    if labels is None:
        ax.scatter(*points.T, s=sizes, color="0.35", alpha=0.6, linewidth=0)
        return
    kinds, places = np.unique(np.asarray(labels), return_inverse=True)
    numbers = kinds if kinds.dtype.kind in "iu" else np.arange(len(kinds))
    sizes = np.broadcast_to(sizes, places.shape)
    for place, (kind, number) in enumerate(zip(kinds, numbers.tolist(), strict=True)):
        own = places == place
        name, color = (str(kind), f"C{number}") if number >= 0 else ("none", "0.7")
        ax.scatter(*points[own].T, s=sizes[own], color=color, alpha=0.65, linewidth=0, label=name)
