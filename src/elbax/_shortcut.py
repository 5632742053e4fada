"""Faster forms of models."""

from typing import NamedTuple

from ._types import Any, Array, Bool, Callable


class Shortcut(NamedTuple):
    """A faster form of a model or component, equal to it up to rounding where it is allowed.

    **Fields:**

    - `allowed`: whether it may be used at these params.
    - `form`: a model (or component) whose `prepare`, `elbo` and `conditional` (`log_densities`) are faster.
    - `base`: x ↦ log h(x), the part of each log-density that `form` omits because it depends neither on params nor
        on latents; `None` if there is none. A pass adds it outside of the choice between the forms, so that a
        compiled loop over sweeps of the same data computes it once. Outside of the support log h(x) = −∞ and the
        bound is −∞, whatever the value of `form`.
    """

    allowed: Bool[Array, ""]
    form: Any
    base: Callable | None = None

    def around(self, outer: Callable) -> "Shortcut":
        """Returns the same shortcut for a model that contains this one, with `outer(form)` as form."""
        return self._replace(form=outer(self.form))
