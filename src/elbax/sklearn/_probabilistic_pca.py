"""Probabilistic principal component analysis."""

import dataclasses
from typing import ClassVar

from ..components._factor_analyzer import Noise
from ._factor_analysis import FactorAnalysis


@dataclasses.dataclass(eq=False, repr=False, kw_only=True)
class ProbabilisticPCA(FactorAnalysis):
    r"""Probabilistic PCA, $x \sim N(\mu, W W^\top + \sigma^2 I)$: `FactorAnalysis` with one noise variance.

    On complete rows the first sweep reaches the maximum: W spans the principal components, and σ² is the mean of
    the remaining variances. With missing values it is fitted by EM.

    **Arguments** and **attributes** are those of `FactorAnalysis`; `noise_variance_` is one number, σ².

    ```python
    >>> import elbax, elbax.sklearn
    >>> x = elbax.datasets.old_faithful()
    >>> pca = elbax.sklearn.ProbabilisticPCA(1, random_state=0).fit(x)
    >>> print(f"{pca.score(x):.3f} {pca.noise_variance_:.3f}")
    -4.743 0.243

    ```
    """

    _noise: ClassVar[Noise] = "isotropic"

    def _describe(self, weight):
        described = super()._describe(weight)
        return described | {"noise_variance": float(described["noise_variance"][0])}
