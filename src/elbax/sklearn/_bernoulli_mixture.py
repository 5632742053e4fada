"""Mixtures of independent binary columns."""

import dataclasses

import numpy as np

from .._types import Any
from ..components import Bernoulli
from ._mixture import AbstractDiscreteMixture


@dataclasses.dataclass(eq=False, repr=False, kw_only=True)
class BernoulliMixture(AbstractDiscreteMixture):
    r"""A mixture of Bernoulli columns: $p(x) = \sum_k \pi_k \prod_j p_{kj}^{x_j} (1 - p_{kj})^{1 - x_j}$.

    **Arguments,** in addition to those of `AbstractEstimator` and `AbstractMixture`:

    - `n_components`: K.
    - `binarize`: numbers above it count as one, all others as zero, as in scikit-learn's `BernoulliNB`; with
        `None` X must be zeros and ones.
    - `weights_init`, `probabilities_init`: initial values.

    **Attributes:** `weights_`; `probabilities_` of a one, shape `(K, dim)`; `converged_`, `n_iter_`,
    `lower_bound_`, `lower_bounds_`.

    ```python
    >>> import elbax.sklearn
    >>> x = [[1, 1, 0], [1, 1, 0], [0, 0, 1], [0, 0, 1], [0, 1, 1]]
    >>> mixture = elbax.sklearn.BernoulliMixture(2, random_state=0).fit(x)
    >>> labels = mixture.predict(x)
    >>> print(labels == labels[0])
    [ True  True False False False]

    ```
    """

    binarize: Any = 0.0
    probabilities_init: Any = None

    def _component(self, X):
        return Bernoulli()

    def _validate(self, X, *, reset=False, ensure_min_samples=1):
        X = super()._validate(X, reset=reset, ensure_min_samples=ensure_min_samples)
        if self.binarize is None:
            return X
        return np.where(np.isnan(X), X, X > self.binarize).astype(X.dtype)
