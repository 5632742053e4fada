"""Mixtures of t distributions."""

import dataclasses
from typing import Any, ClassVar

from ..components import StudentT
from ._elliptical_mixture import AbstractEllipticalMixture


@dataclasses.dataclass(eq=False, repr=False, kw_only=True)
class StudentTMixture(AbstractEllipticalMixture):
    r"""A mixture of t distributions, robust to outliers: $p(x) = \sum_k \pi_k\, t_{\nu_k}(x; \mu_k, \Sigma_k)$.

    **Arguments,** in addition to those of `AbstractEstimator`, and of `GaussianMixture`, whose covariances are
    here the scale matrices $\Sigma_k$:

    - `dof`: the degrees of freedom ν, if they are known; otherwise they are estimated.
    - `dofs_init`: their initial values.

    **Attributes:** those of `GaussianMixture`, with `scales_` for `covariances_`, and `dofs_`, shape `(K,)`.

    ```python
    >>> import elbax, elbax.sklearn
    >>> x = elbax.datasets.old_faithful()
    >>> mixture = elbax.sklearn.StudentTMixture(2, dof=4, random_state=0).fit(x)
    >>> mixture.scales_.shape, mixture.dofs_.tolist()
    ((2, 2, 2), [4.0, 4.0])

    ```
    """

    dof: Any = None
    dofs_init: Any = None

    _matrices: ClassVar[str] = "scales"

    def _component(self, X):
        return StudentT(self._shape()[0], self.dof, floor=self.reg_covar)
