"""What optional packages give; without them the command goes on and says what to install."""

import contextlib
import sys
from collections.abc import Iterator
from typing import Any


def bar(total: int, unit: str) -> Any:
    """Returns a progress bar, or a silent one without tqdm."""
    try:
        from tqdm import tqdm
    except ImportError:
        return contextlib.nullcontext(_Silent())
    return tqdm(total=total, unit=unit, file=sys.stderr, leave=False)


class _Silent:
    def update(self, number: int = 1) -> None:
        pass

    def set_description(self, text: str) -> None:
        pass


@contextlib.contextmanager
def drawing() -> Iterator[Any]:
    """Gives pyplot in elbax's style, drawing to files; `None` without matplotlib."""
    try:
        import matplotlib
    except ImportError:
        print('No figure: matplotlib is not installed. Run pip install "elbax[plot]".')
        yield None
        return
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    from ..plot import style

    with style():
        yield plt
