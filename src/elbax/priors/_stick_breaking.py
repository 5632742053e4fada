"""The prior of a Dirichlet process on weights, truncated."""

from typing import ClassVar, NoReturn

import equinox as eqx

from .._arguments import check_positive
from .._types import Any


class StickBreaking(eqx.Module):
    r"""A truncated Dirichlet process on weights, $\pi_k = v_k \prod_{j < k} (1 - v_j)$.

    The fractions are $v_k \sim \mathrm{Beta}(1, \gamma)$, and the last weight is what is left (Ishwaran and James
    2001). About $\gamma \log N$ components have data, so K only has to be large enough. The density of the weights
    is unbounded where some are 0, so there is no mode, and only `Bayesian` can use it (Blei and Jordan 2006).

    **Arguments:** `concentration`: γ, a positive number.

    ```python
    >>> import elbax
    >>> component = elbax.components.Poisson(prior=elbax.priors.Gamma(1.0, 0.1))
    >>> mixture = elbax.Mixture(component, 10, prior=elbax.priors.StickBreaking(1.0))
    >>> model = elbax.Bayesian(mixture)

    ```
    """

    learnable: ClassVar[tuple[str, ...]] = ("concentration",)

    concentration: float = eqx.field(static=True)

    def __check_init__(self):
        check_positive("StickBreaking", concentration=self.concentration)

    @property
    def pseudo_count(self) -> NoReturn:
        """**Raises** `TypeError`: there is no mode."""
        self._without_mode()

    def log_density(self, *_: Any) -> NoReturn:
        """**Raises** `TypeError`: the density is unbounded, so no fit may ascend it."""
        self._without_mode()

    def _without_mode(self) -> NoReturn:
        raise TypeError(
            "StickBreaking: the density of these weights is unbounded, so they have no mode. Use Bayesian(model), "
            "or a Dirichlet prior."
        )
