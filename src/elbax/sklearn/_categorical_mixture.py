"""Mixtures of independent categorical columns: latent class analysis."""

import dataclasses

import numpy as np

from .._types import Any
from ..components import Categorical
from ._mixture import AbstractWholeNumberMixture


@dataclasses.dataclass(eq=False, repr=False, kw_only=True)
class CategoricalMixture(AbstractWholeNumberMixture):
    r"""Latent class analysis: a mixture of categorical columns, $p(x) = \sum_k \pi_k \prod_j p_{k j x_j}$.

    Each column of x takes the values 0, 1, …

    **Arguments,** in addition to those of `AbstractEstimator` and `AbstractMixture`:

    - `n_components`: K, the number of latent classes.
    - `n_categories`: the number of values of each column: one number, or one per column. By default the largest
        observed value plus one.
    - `weights_init`, `probabilities_init`: initial values.

    **Attributes:** `weights_`; `probabilities_` of shape `(K, dim, most values)`, 0 for values that a column does
    not have; `converged_`, `n_iter_`, `lower_bound_`, `lower_bounds_`.

    ```python
    >>> import elbax.sklearn
    >>> answers = [[0, 2, 1], [0, 2, 1], [1, 0, 0], [1, 1, 0], [1, 1, 0]]
    >>> mixture = elbax.sklearn.CategoricalMixture(2, random_state=0).fit(answers)
    >>> mixture.probabilities_.shape
    (2, 3, 3)

    ```
    """

    n_categories: Any = None
    probabilities_init: Any = None

    def _component(self, X):
        given = self.n_categories
        if given is None:
            # fmax ignores NaN.
            given = np.fmax.reduce(X, axis=0, initial=0) + 1
        numbers = np.broadcast_to(given, X.shape[1:])
        return Categorical(tuple(map(int, numbers)))
