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
        it; `None` if nothing is left out. A pass adds it outside of the choice between the forms, where a compiled
        loop over sweeps of the same data computes it once. A datum outside of the support has log h(x) = −∞:
        then the bound is −∞, whatever `form` makes of that datum.
    """

    allowed: Bool[Array, ""]
    form: Any
    base: Callable | None = None

    def around(self, outer: Callable) -> "Shortcut":
        """The same shortcut for a model that contains this one: `outer(form)`."""
        return self._replace(form=outer(self.form))
