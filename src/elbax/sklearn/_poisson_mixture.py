"""Mixtures of independent count columns."""

import dataclasses

from .._types import Any
from ..components import Poisson
from ._mixture import AbstractWholeNumberMixture


@dataclasses.dataclass(eq=False, repr=False, kw_only=True)
class PoissonMixture(AbstractWholeNumberMixture):
    r"""A mixture of Poisson columns: $p(x) = \sum_k \pi_k \prod_j \lambda_{kj}^{x_j} e^{-\lambda_{kj}} / x_j!$.

    **Arguments,** in addition to those of `AbstractEstimator` and `AbstractMixture`:

    - `n_components`: K.
    - `weights_init`, `rates_init`: initial values.

    **Attributes:** `weights_`; `rates_` of shape `(K, dim)`; `converged_`, `n_iter_`, `lower_bound_`,
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
