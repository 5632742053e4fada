"""The progress bar of a fit."""

from .._types import Any


class _Silence:
    n = 0

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def update(self, count):
        pass


def progress_bar(total: int | None) -> Any:
    if total is None:
        return _Silence()
    try:
        from tqdm.auto import tqdm
    except ImportError as error:
        raise ImportError(
            "fit(progress=True): tqdm is not installed. Install elbax[progress]."
        ) from error
    return tqdm(total=total, unit="step")
