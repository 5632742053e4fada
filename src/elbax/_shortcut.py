"""A faster form of a model."""

from typing import NamedTuple

from ._types import Any, Array, Bool, Callable


class Shortcut(NamedTuple):
    """A faster form, equal to the model to rounding where it may be taken.

    **Fields:**

    - `allowed`: whether it may be taken, at these params.
    - `form`: a model (or component) whose `prepare`, `elbo` and `conditional` (`log_densities`) are the faster
        ones.
    - `base`: x ↦ log h(x), what `form` leaves out of each log-density because neither params nor latents enter
        it; `None` if nothing is. A pass adds it once, outside of the choice between the forms, so that a compiled
        loop over sweeps computes it once and for all.
    """

    allowed: Bool[Array, ""]
    form: Any
    base: Callable | None = None

    def around(self, outer: Callable) -> "Shortcut":
        """The same of what stands around: `outer(form)`."""
        return self._replace(form=outer(self.form))
