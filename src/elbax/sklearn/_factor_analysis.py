"""Factor analysis."""

import dataclasses
from typing import ClassVar

import numpy as np
from sklearn.base import ClassNamePrefixFeaturesOutMixin, TransformerMixin
from sklearn.utils.validation import check_is_fitted

from .. import models
from .._model import AbstractModel
from .._rows import mode_of
from .._types import Any
from .._update import AbstractUpdate, Chain
from ..components._factor_analyzer import Noise
from ..data._batch import Batch
from ..data._compress import compress
from ..e_steps import ExactEStep
from ..m_steps import ClosedFormMStep, EvidenceMStep
from ._estimator import AbstractEstimator, in_precision_of


@dataclasses.dataclass(eq=False, repr=False, kw_only=True)
class FactorAnalysis(ClassNamePrefixFeaturesOutMixin, TransformerMixin, AbstractEstimator):
    r"""Factor analysis $x = \mu + W z + \varepsilon$, as scikit-learn's `FactorAnalysis`.

    The factors are $z \sim N(0, I)$ and the noise is $\varepsilon \sim N(0, \Psi)$ with diagonal Ψ. Complete rows
    are compressed to their mean and covariance. The default update is then ECME, whose sweeps move the noise
    variances to the maximum of the evidence. With missing values (NaN) it is EM.

    **Arguments,** in addition to those of `AbstractEstimator`:

    - `n_components`: the number of factors; by default that of columns.
    - `reg_covar`: the weight of the penalty −½ `reg_covar` tr Ψ⁻¹ D, where D are the variances of the columns. It
        keeps noise variances from vanishing. 0 turns it off.

    **Attributes:** `components_`, the loadings Wᵀ of shape `(n_components, dim)`, determined up to a rotation;
    `mean_`, `noise_variance_`; `loglike_`, the log-likelihood (less the penalty) after each sweep; `converged_`,
    `n_iter_`; `lower_bound_` in nats per row, `lower_bounds_`.

    ```python
    >>> import elbax, elbax.sklearn
    >>> x = elbax.datasets.old_faithful()
    >>> analysis = elbax.sklearn.FactorAnalysis(1, random_state=0).fit(x)
    >>> analysis.transform(x).shape
    (272, 1)
    >>> print(f"{analysis.score(x):.3f}")
    -4.742

    ```
    """

    n_components: Any = dataclasses.field(default=None, kw_only=False)
    reg_covar: Any = 1e-6

    _noise: ClassVar[Noise] = "diagonal"

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.transformer_tags.preserves_dtype = ["float64", "float32"]
        return tags

    def _make_model(self, X: np.ndarray) -> models.FactorAnalysis:
        num_factors = X.shape[1] if self.n_components is None else self.n_components
        return models.FactorAnalysis(num_factors, self._noise, floor=self.reg_covar)

    def _condense(self, batch: Batch) -> Batch:
        return batch if batch.blocked else compress(batch, chunk_size=self.chunk_size)

    def _make_update(self, model: AbstractModel, batch: Batch) -> AbstractUpdate:
        if batch.blocked:
            return super()._make_update(model, batch)
        return Chain(ExactEStep(model), ClosedFormMStep(model), EvidenceMStep(model))

    def _describe(self, weight: float) -> dict[str, Any]:
        described = self.model_.describe(self._put(self.params_))
        return {
            "components": np.asarray(described["loadings"]).T,
            "mean": np.asarray(described["mean"]),
            "noise_variance": np.asarray(described["noise"]),
            "loglike": [weight * bound for bound in self.lower_bounds_],
        }

    _summary = staticmethod(mode_of)

    @property
    def _n_features_out(self) -> int:
        return self.model_.num_factors

    def transform(self, X):
        """Returns the factor scores E[z | x], shape `(n_samples, n_components)`."""
        return self._explain(X)[1]

    def get_covariance(self):
        """Returns W Wᵀ + Ψ, shape `(dim, dim)`."""
        check_is_fitted(self)
        with in_precision_of(self._dtype):
            return np.asarray(self.model_.covariance(self._put(self.params_)))

    def get_precision(self):
        """Returns the inverse of the covariance, shape `(dim, dim)`."""
        covariance = self.get_covariance()
        return np.linalg.inv(covariance.astype(float)).astype(covariance.dtype)
