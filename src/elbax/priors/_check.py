import math
from typing import Any


def positive(who: str, **numbers: Any) -> None:
    """Raises `ValueError` for a number that is not positive and finite."""
    for name, number in numbers.items():
        if not (math.isfinite(number) and number > 0):
            raise ValueError(f"{who}: {name} must be positive and finite, got {number}.")
