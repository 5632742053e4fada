"""What all mixtures share."""

import abc
import dataclasses

import equinox as eqx
import numpy as np
from sklearn.utils.validation import check_is_fitted, check_non_negative

from .._batch import Batch
from .._types import Any, Key, PyTree
from ..components import AbstractComponent
from ..families import Distribution
from ..models import Mixture
from ._estimator import AbstractEstimator, in_precision_of


@dataclasses.dataclass(eq=False, repr=False, kw_only=True)
class AbstractMixture(AbstractEstimator):
    """Mixtures: labels, their probabilities, information criteria, draws.

    A parameter `weights_init` (or another attribute's name before `_init`) is where fits start in that
    attribute; what is not given starts from k-means++.
    """

    weights_init: Any = None

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.estimator_type = "density_estimator"
        return tags

    @abc.abstractmethod
    def _component(self, X: np.ndarray) -> AbstractComponent:
        """What the densities are."""

    def _make_model(self, X: np.ndarray) -> Mixture:
        return Mixture(self._component(X), self.n_components)

    def _given(self, described: dict[str, Any]) -> dict[str, Any]:
        """What of the description the user gives to start from."""
        found = {name: getattr(self, f"{name}_init", None) for name in described}
        return {name: value for name, value in found.items() if value is not None}

    def _start(self, model: Any, key: Key, batch: Batch) -> PyTree:
        params = super()._start(model, key, batch)
        own = self.get_params(deep=False)
        if all(own[name] is None for name in own if name.endswith("_init")):
            return params
        described = model.describe(params)
        given = self._given(described)
        for name, value in given.items():
            expected = described[name].shape
            if np.shape(value) != expected:
                raise ValueError(
                    f"{type(self).__name__}: expected {name} to start from of shape {expected}, got "
                    f"{np.shape(value)}."
                )
        return model.from_description(**(described | given))

    def _describe(self, weight: float) -> dict[str, Any]:
        described = self.model_.describe(self._put(self.params_))
        return {name: np.asarray(value) for name, value in described.items()}

    @staticmethod
    def _summary(posterior: Distribution) -> PyTree:
        return posterior.mean()

    def predict_proba(self, X):
        """p(component | x) of each row, shape `(n_samples, n_components)`."""
        return self._explain(X)[1]

    def predict(self, X):
        """The most probable component of each row."""
        return self.predict_proba(X).argmax(axis=1)

    def fit_predict(self, X, y=None, sample_weight=None):
        """`fit(X).predict(X)`."""
        return self.fit(X, sample_weight=sample_weight).predict(X)

    def sample(self, n_samples=1):
        """(X, components): draws from the fitted mixture."""
        check_is_fitted(self)
        with in_precision_of(self._dtype):
            x, z = _sample(self.model_, self._put(self.params_), self._key(), n_samples)
            return np.asarray(x), np.asarray(z)

    def bic(self, X):
        """−2 log p(X) + (number of parameters) log(n_samples): the lower the better."""
        scores = self.score_samples(X)
        return -2 * scores.sum(dtype=float) + np.log(len(scores)) * self._num_free_params()

    def aic(self, X):
        """−2 log p(X) + 2 (number of parameters): the lower the better."""
        return -2 * self.score_samples(X).sum(dtype=float) + 2 * self._num_free_params()

    def _num_free_params(self) -> int:
        return self.model_.num_free_params(self.params_)


@dataclasses.dataclass(eq=False, repr=False, kw_only=True)
class AbstractDiscreteMixture(AbstractMixture):
    """Mixtures that can make some rows only, which they check wherever they meet them."""

    def _check_rows(self, batch: Batch) -> None:
        self.model_.check(batch, type(self).__name__)


@dataclasses.dataclass(eq=False, repr=False, kw_only=True)
class AbstractWholeNumberMixture(AbstractDiscreteMixture):
    """Mixtures of 0, 1, 2, …"""

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        # Together these two say: numbers that are whole and not negative.
        tags.input_tags.positive_only = True
        tags.input_tags.categorical = True
        return tags

    def _validate(self, X, *, reset=False, ensure_min_samples=1):
        X = super()._validate(X, reset=reset, ensure_min_samples=ensure_min_samples)
        check_non_negative(X[~np.isnan(X)], f"{type(self).__name__}, which takes 0, 1, 2, ...")
        return X


@eqx.filter_jit
def _sample(model: Mixture, params: PyTree, key: Key, num_data: int) -> tuple[PyTree, PyTree]:
    return model.sample(params, key, num_data)
