"""The look of all pictures."""

from contextlib import AbstractContextManager
from typing import Any

import matplotlib
from cycler import cycler


# The colours of Okabe and Ito (2008), which readers of all kinds of colour vision tell apart, the palest last;
# then three more that differ from them in lightness.
_COLORS = "#0072B2 #D55E00 #009E73 #CC79A7 #E69F00 #56B4E9 #F0E442 #999999 #882255 #000000".split()

STYLE: dict[Any, Any] = {
    "figure.figsize": (6.0, 3.6),
    "figure.dpi": 110,
    "savefig.dpi": "figure",
    "figure.constrained_layout.use": True,
    "axes.prop_cycle": cycler(color=_COLORS),
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 10,
    "axes.labelsize": 9,
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
    "legend.fontsize": 8,
    "legend.title_fontsize": 8,
    "legend.frameon": False,
}
"""The settings of `style`. `matplotlib.rcParams.update(elbax.plot.STYLE)` makes them those of a whole session."""


def style() -> AbstractContextManager[None]:
    """Gives figures that are made inside of the `with` block the size, fonts and colours of this library.

    Colours are those of Okabe and Ito (2008), which colour-blind readers tell apart too. Functions of `elbax.plot`
    draw in the current colours, `"C0"`, `"C1"`, …, also without it.

    **Returns** a context manager. Settings are as before after the block.

    ```python
    >>> import elbax.plot, matplotlib.pyplot as plt
    >>> with elbax.plot.style():
    ...     figure, axes = plt.subplots()
    >>> axes.spines["top"].get_visible()
    False

    ```
    """
    return matplotlib.rc_context(STYLE)
