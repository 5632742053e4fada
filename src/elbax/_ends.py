"""Where several fits of one model ended: which ends are the same."""

import numpy as np

from ._types import Any


def distinct_ends(elbo: Any, usable: Any = True) -> list[tuple[float, int]]:
    """(ELBO, how many reached it), from the highest, of the usable ends that are finite.

    Two are the same if they differ by less than a hundredth of a thousandth of 1 + |ELBO|, which is a
    hundred times `fit`'s tolerance.
    """
    values = np.asarray(elbo, float)
    values = np.sort(values[np.isfinite(values) & np.asarray(usable)])[::-1]
    found: list[tuple[float, int]] = []
    last = np.inf
    for value in values.tolist():
        if found and last - value <= 1e-5 * (1 + abs(value)):
            found[-1] = (found[-1][0], found[-1][1] + 1)
        else:
            found.append((value, 1))
        last = value
    return found
