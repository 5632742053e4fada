"""A parse tree."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes

from .._types import Any
from ._axes import axes_of


def tree(
    z: Any,
    words: Sequence[Any] | None = None,
    symbols: Sequence[Any] | None = None,
    *,
    ax: Axes | None = None,
) -> Axes:
    """Draws a parse tree over its words, a node above the middle of its children.

    **Arguments:**

    - `z`: a tree, booleans `(T, T, S)`: [i, w, s] says whether the words i, …, i + w form a constituent of symbol
        s. It is `elbax.Exact(model, params)(sentence).mode()` of a `ContextFreeGrammar`, the best parse.
    - `words`, `symbols`: their names; numbers by default.
    - `ax`: matplotlib axes; those of a new figure by default.

    **Returns** the axes.

    **Raises** `ValueError` for what is not a single tree.

    ```python
    >>> import elbax.plot, jax.numpy as jnp
    >>> family = elbax.families.ParseTree(1, 1)
    >>> q = family({"root": jnp.zeros(1), "binary": jnp.zeros((1, 2, 2)).at[0, 0, 1].set(1.0),
    ...     "unary": jnp.zeros((3, 1)), "length": jnp.array(3)})
    >>> ax = elbax.plot.tree(q.mode(), ["the", "old", "man"], "SW")
    >>> [text.get_text() for text in ax.texts]
    ['W', 'the', 'W', 'old', 'W', 'man', 'S', 'S']

    ```
    """
    z = np.asarray(z)
    if z.ndim != 3 or z.shape[0] != z.shape[1] or z.dtype != bool:
        raise ValueError(
            f"tree: z must be booleans of shape (T, T, S), one sentence's tree; got {z.dtype} of shape {z.shape}."
        )
    nodes = [(int(width), int(start), int(kind)) for start, width, kind in np.argwhere(z)]
    length = sum(width == 0 for width, _, _ in nodes)
    if len(nodes) != 2 * length - 1:
        raise ValueError(
            f"tree: z has {length} words and {len(nodes)} nodes, but a binary tree has {2 * length - 1}."
        )
    words = range(length) if words is None else words
    symbols = range(z.shape[2]) if symbols is None else symbols
    ax = axes_of("tree", ax, figsize=(1 + 0.6 * length, 3))
    # The nodes by width: those without a parent so far. Children come before their parents.
    open_nodes: list[tuple[int, int, float, int]] = []
    for width, start, kind in sorted(nodes):
        children = [node for node in open_nodes if start <= node[0] and node[1] <= start + width]
        open_nodes = [node for node in open_nodes if node not in children]
        # Over the middle of its words: over the middle of its children, nested trees would lean and cross.
        place = start + width / 2
        height = 1 + max((node[3] for node in children), default=0)
        for _, _, beside, below in children:
            ax.plot([place, beside], [height, below], color="0.6", linewidth=1, zorder=0)
        if not children:
            ax.plot([start, start], [1, 0], color="0.6", linewidth=1, zorder=0)
        white = {"facecolor": "white", "edgecolor": "none", "pad": 1}
        look = {"ha": "center", "va": "center", "bbox": white, "fontsize": 8}
        ax.text(place, height, str(symbols[kind]), color="C0" if children else "C1", **look)
        if not children:
            ax.text(place, 0, str(words[start]), **look)
        open_nodes.append((start, start + width, place, height))
    ax.set(xlim=(-0.6, length - 0.4), ylim=(-0.4, None))
    ax.set_axis_off()
    return ax
