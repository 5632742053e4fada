"""Mixtures of independent counts."""

import dataclasses

from .._types import Any
from ..components import Poisson
from ._mixture import AbstractWholeNumberMixture


@dataclasses.dataclass(eq=False, repr=False, kw_only=True)
class PoissonMixture(AbstractWholeNumberMixture):
    r"""$p(x) = \sum_k \pi_k \prod_j \lambda_{kj}^{x_j} e^{-\lambda_{kj}} / x_j!$, x counts.

    **Arguments** beside those of every `AbstractEstimator`:

    - `n_components`: K.
    - `weights_init`, `rates_init`: where to start.

    **Attributes:** `weights_`, `rates_` of shape `(K, dim)`; `converged_`, `n_iter_`, `lower_bound_`,
    `lower_bounds_`.

    ```python
    >>> import elbax.sklearn
    >>> x = [[0], [1], [0], [9], [12], [8]]
    >>> mixture = elbax.sklearn.PoissonMixture(2, random_state=0).fit(x)
    >>> print(mixture.rates_.min(axis=0).round(1), mixture.rates_.max(axis=0).round(1))
    [0.3] [9.7]

    ```
    """

    rates_init: Any = None

    def _component(self, X):
        return Poisson()
