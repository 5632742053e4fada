"""The common part of all mixtures."""

import abc
import dataclasses

import equinox as eqx
import jax
import numpy as np
from sklearn.utils.validation import check_is_fitted, check_non_negative

from .._program import compiled
from .._reference import split_coordinates
from .._rows import mean_of
from .._types import Any, Key, PyTree
from ..components import AbstractComponent
from ..data._batch import Batch
from ..models import Mixture
from ..starts import initial_params
from ._estimator import AbstractEstimator, in_precision_of


@dataclasses.dataclass(eq=False, repr=False, kw_only=True)
class AbstractMixture(AbstractEstimator):
    """Base class of mixtures: labels, their probabilities, information criteria, draws.

    **Arguments,** in addition to those of `AbstractEstimator`:

    - `init_params`: where fits start, in scikit-learn's names and elbax's: `"kmeans"`, `"k-means++"`, `"random"`
        (rows shared at random), `"random_from_data"` (rows as means), `"random_parts"`, `"quantiles"`,
        `"hierarchical"`, or a function as for `elbax.Mixture.init`. `"auto"` is k-means for one start, and starts
        of several kinds for more.
    - `weights_init`, and other attributes' names before `_init`: initial values of that attribute.
    """

    init_params: Any = "auto"
    weights_init: Any = None

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.estimator_type = "density_estimator"
        return tags

    def _check_arguments(self) -> None:
        super()._check_arguments()
        # Equal rows are merged, so labels of rows cannot be given.
        if not (isinstance(self.init_params, str) or callable(self.init_params)):
            raise TypeError(
                f"{type(self).__name__}: init_params must be a name such as 'kmeans' or a function (key, table, "
                f"weight, n_components), got {self.init_params!r}."
            )

    @abc.abstractmethod
    def _component(self, X: np.ndarray) -> AbstractComponent:
        """Returns the component of the mixture."""

    def _make_model(self, X: np.ndarray) -> Mixture:
        return Mixture(self._component(X), self.n_components)

    def _given(self, described: dict[str, Any]) -> dict[str, Any]:
        """Returns the initial values that the user gave, by name."""
        found = {name: getattr(self, f"{name}_init", None) for name in described}
        return {name: value for name, value in found.items() if value is not None}

    def _start(self, model: Any, key: Key, batch: Batch) -> PyTree:
        init = "k-means" if self._starts_vary else self.init_params
        return self._with_given(model, model.init(key, batch, init))

    def _starts(self, model: Any, key: Key, batch: Batch) -> PyTree:
        init = None if self._starts_vary else self.init_params
        params = initial_params(model, batch, key=key, num_restarts=self.n_init, init=init)
        if not self._start_given:
            return params
        each = [jax.tree.map(lambda leaf, i=i: leaf[i], params) for i in range(self.n_init)]
        each = [self._with_given(model, params) for params in each]
        return jax.tree.map(lambda *leaves: np.stack(leaves), *each)

    @property
    def _starts_vary(self) -> bool:
        return isinstance(self.init_params, str) and self.init_params == "auto"

    @property
    def _start_given(self) -> bool:
        own = self.get_params(deep=False)
        return any(own[name] is not None for name in own if name.endswith("s_init"))

    def _with_given(self, model: Any, params: PyTree) -> PyTree:
        if not self._start_given:
            return params
        described = model.describe(params)
        given = self._given(described)
        for name, value in given.items():
            expected = described[name].shape
            if np.shape(value) != expected:
                raise ValueError(
                    f"{type(self).__name__}: expected initial {name} of shape {expected}, got "
                    f"{np.shape(value)}."
                )
        # The data's scale, to which a floor is relative, does not depend on the start.
        coordinates, _ = split_coordinates(model.from_description(**(described | given)))
        return eqx.combine(coordinates, split_coordinates(params)[1])

    def _describe(self, weight: float) -> dict[str, Any]:
        described = self.model_.describe(self._put(self.params_))
        return {name: np.asarray(value) for name, value in described.items()}

    _summary = staticmethod(mean_of)

    def predict_proba(self, X):
        """Returns p(component | x) of each row, shape `(n_samples, n_components)`."""
        return self._explain(X)[1]

    def predict(self, X):
        """Returns the most probable component of each row, shape `(n_samples,)`."""
        return self.predict_proba(X).argmax(axis=1)

    def fit_predict(self, X, y=None, sample_weight=None):
        """Returns `fit(X).predict(X)`."""
        return self.fit(X, sample_weight=sample_weight).predict(X)

    def sample(self, n_samples=1):
        """Returns (X, components): draws from the fitted mixture."""
        check_is_fitted(self)
        with in_precision_of(self._dtype):
            x, z = _sample(self.model_, self._put(self.params_), self._key(), n_samples)
            return np.asarray(x), np.asarray(z)

    def bic(self, X):
        """Returns −2 log p(X) + (number of parameters) log(n_samples); lower is better."""
        scores = self.score_samples(X)
        return -2 * scores.sum(dtype=float) + np.log(len(scores)) * self._num_free_params()

    def aic(self, X):
        """Returns −2 log p(X) + 2 (number of parameters); lower is better."""
        return -2 * self.score_samples(X).sum(dtype=float) + 2 * self._num_free_params()

    def _num_free_params(self) -> int:
        return self.model_.num_free_params(self.params_)


@dataclasses.dataclass(eq=False, repr=False, kw_only=True)
class AbstractDiscreteMixture(AbstractMixture):
    """Mixtures with restricted support, which check all rows that they are given."""

    def _check_rows(self, batch: Batch) -> None:
        self.model_.check(batch, type(self).__name__)


@dataclasses.dataclass(eq=False, repr=False, kw_only=True)
class AbstractWholeNumberMixture(AbstractDiscreteMixture):
    """Mixtures of whole numbers 0, 1, 2, …"""

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        # Together these two tags mean: whole numbers that are not negative.
        tags.input_tags.positive_only = True
        tags.input_tags.categorical = True
        return tags

    def _validate(self, X, *, reset=False, ensure_min_samples=1):
        X = super()._validate(X, reset=reset, ensure_min_samples=ensure_min_samples)
        check_non_negative(X[~np.isnan(X)], f"{type(self).__name__}, which takes 0, 1, 2, ...")
        return X


@compiled
def _sample(model: Mixture, params: PyTree, key: Key, num_data: int) -> tuple[PyTree, PyTree]:
    return model.sample(params, key, num_data)
