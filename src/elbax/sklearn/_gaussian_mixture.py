"""Mixtures of Gaussians."""

import dataclasses
from typing import ClassVar

from ..components import Normal
from ._elliptical_mixture import AbstractEllipticalMixture


@dataclasses.dataclass(eq=False, repr=False, kw_only=True)
class GaussianMixture(AbstractEllipticalMixture):
    r"""A Gaussian mixture $p(x) = \sum_k \pi_k\, N(x; \mu_k, \Sigma_k)$, as scikit-learn's `GaussianMixture`.

    **Arguments,** in addition to those of `AbstractEstimator` and `AbstractMixture`:

    - `n_components`: K.
    - `covariance_type`: `"full"`, `"tied"`, `"diag"` or `"spherical"`.
    - `reg_covar`: the floor of `elbax.components.Normal`. It is relative to the columns' variances D, while
        scikit-learn's is in squared units: `reg_covar` · D is added to each component's scatter matrix, so that no
        variance falls below `reg_covar` / n_samples of its column's. 0 turns it off.
    - `weights_init`, `means_init`, `precisions_init`: initial values, in the shapes of the attributes.

    **Attributes:** `weights_`, `means_`; `covariances_`, `precisions_` and `precisions_cholesky_`, of shape
    `(K, dim, dim)`, `(dim, dim)`, `(K, dim)` or `(K,)` according to `covariance_type`; `converged_`, `n_iter_`;
    `lower_bound_` in nats per row, and `lower_bounds_`, the same after each sweep.

    ```python
    >>> import elbax, elbax.sklearn
    >>> x = elbax.datasets.old_faithful()
    >>> mixture = elbax.sklearn.GaussianMixture(2, random_state=0).fit(x)
    >>> print(mixture.means_[mixture.means_[:, 0].argsort()].round(1))
    [[ 2.  54.5]
     [ 4.3 80. ]]
    >>> print(f"{mixture.score(x):.3f}")
    -4.155

    ```
    """

    _matrices: ClassVar[str] = "covariances"

    def _component(self, X):
        return Normal(self._shape()[0], floor=self.reg_covar)
