"""Faster forms of models."""

import os
from typing import NamedTuple

import jax

from ._types import Any, Array, Bool, Callable


# Features of so many bytes a thread stay in a CPU's cache between the two matrix products that use them. Measured
# at 16 to 128 columns: 2 to 4 times as fast as all rows at once, and flat within a factor of two.
_CACHE = 5e6

# What a pass holds at a time on an accelerator, in each of a few arrays; under `vmap`, for each lane. A million
# rows of 32 columns for 64 components took 33 GB at once, and 10 million did not compile for 141 GB. In chunks of
# 100 000 rows a million took 8 % longer than at once (H200).
_MEMORY = 1e9


class Shortcut(NamedTuple):
    """A faster form of a model or component, equal to it up to rounding where it is allowed.

    **Fields:**

    - `allowed`: whether it may be used at these params.
    - `form`: a model (or component) whose `prepare`, `elbo` and `conditional` (`log_densities`) are faster.
    - `base`: x ↦ log h(x), the part of each log-density that `form` omits because it depends neither on params nor
        on latents; `None` if there is none. A pass adds it outside of the choice between the forms, so that a
        compiled loop over sweeps of the same data computes it once. Outside of the support log h(x) = −∞ and the
        bound is −∞, whatever the value of `form`.
    - `chunk_size`: how many rows at a time are fastest, for a pass whose user does not say; `None` for all. It is
        left out by a model of sequences, of which a datum has many rows.
    """

    allowed: Bool[Array, ""]
    form: Any
    base: Callable | None = None
    chunk_size: int | None = None

    def around(self, outer: Callable) -> "Shortcut":
        """Returns the same shortcut for a model that contains this one, with `outer(form)` as form."""
        return self._replace(form=outer(self.form))


def rows_at_once(faster: int, otherwise: int) -> int | None:
    """Returns how many rows a pass takes at a time, given the bytes per row of the faster form and of the other.

    On a CPU the features of the faster form stay in the cache (`faster` of 0: all rows). An accelerator has no
    such cache, but a program reserves memory for both forms, whichever of them runs.
    """
    if jax.default_backend() != "cpu":
        return max(1, int(_MEMORY / max(faster, otherwise)))
    return max(1, int(_CACHE * _num_threads() / faster)) if faster else None


def _num_threads() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
