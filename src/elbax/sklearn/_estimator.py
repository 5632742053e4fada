"""The common part of all estimators: tables in, a fit by an elbax update, NumPy arrays out."""

import abc
import dataclasses
import warnings

import jax
import jax.numpy as jnp
import numpy as np
from sklearn.base import BaseEstimator
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils import check_consistent_length, check_random_state, column_or_1d
from sklearn.utils.validation import check_is_fitted, validate_data

from .._arguments import check_count, check_function, check_not_negative
from .._em import em
from .._model import AbstractModel
from .._program import compiled
from .._rows import each_row, in_order
from .._types import Any, Key, PyTree
from .._update import AbstractUpdate
from ..data._batch import Batch, host_rows
from ..data._check import check_weights
from ..data._incomplete import incomplete
from ..data._incomplete_rows import IncompleteRows
from ..data._padding import padded
from ..data._table import named
from ..fitting import fit, fit_restarts, Result
from ..starts import first_state, initial_params
from ._distinct_rows import distinct_rows


@dataclasses.dataclass(eq=False, repr=False)
class AbstractEstimator(BaseEstimator, abc.ABC):
    """Base class of estimators: a model, the update that fits it, and scikit-learn's interface.

    All constructors share these parameters:

    - `n_components`: the number of components (of factors, for factor models).
    - `tol`: the relative gain of the bound below which a fit ends, as for `elbax.fit`.
    - `max_iter`: the largest number of sweeps.
    - `n_init`: the number of starts, fitted together; the best end that has not collapsed is kept.
    - `random_state`: an integer, a `numpy.random.RandomState` or `None`, as everywhere in scikit-learn.
    - `warm_start`: whether `fit` continues from where the last one ended.
    - `device`: where to compute: a name such as `"cpu"`, `"gpu"` or `"gpu:1"`, or a `jax.Device` (which Python can
        neither copy nor pickle, so that such an estimator cannot be cloned).
    - `chunk_size`: about how many rows to process at a time; memory then does not grow with the number of rows.
    - `update`: a function from the model to the elbax update that fits it, with an exact posterior; by default
        exact E-step and closed-form M-step. The chunk size is then that of the update.

    NaN in X is missing at random. Computations are in the dtype of X, as everywhere in scikit-learn: in float64
    unless X is float32, whatever `jax_enable_x64` says, so that a worker process of `joblib` gets the result of
    its parent. float32 is faster, on a GPU many times. Equal rows are processed once, with the sum of their
    weights. After a fit `model_` and `params_` are elbax's own, the params as NumPy arrays.
    """

    n_components: Any = 1
    _: dataclasses.KW_ONLY
    tol: Any = 1e-7
    max_iter: Any = 1000
    n_init: Any = 1
    random_state: Any = None
    warm_start: Any = False
    device: Any = None
    chunk_size: Any = None
    update: Any = None

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = True
        return tags

    @abc.abstractmethod
    def _make_model(self, X: np.ndarray) -> Any:
        """Returns the elbax model of these parameters, for this table."""

    @abc.abstractmethod
    def _describe(self, weight: float) -> dict[str, Any]:
        """Returns the fitted attributes, by name without the underscore."""

    @staticmethod
    @abc.abstractmethod
    def _summary(model: AbstractModel, params: PyTree, x: PyTree, q: Any) -> PyTree:
        """Returns the reported value of one row's latent."""

    def _make_update(self, model: AbstractModel, batch: Batch) -> AbstractUpdate:
        return em(model, chunk_size=self.chunk_size)

    def _start(self, model: Any, key: Key, batch: Batch) -> PyTree:
        return model.init(key, batch)

    def _starts(self, model: Any, key: Key, batch: Batch) -> PyTree:
        """Returns the params of `n_init` starts, with a leading axis."""
        return initial_params(model, batch, key=key, num_restarts=self.n_init)

    def _condense(self, batch: Batch) -> Batch:
        """Returns the batch that the fit uses."""
        return batch

    def _check_rows(self, batch: Batch) -> None:
        """Raises `ValueError` for rows of probability zero under the fitted model."""

    def fit(self, X, y=None, sample_weight=None):
        """Fits to the table X, shape `(n_samples, n_features)`; returns the estimator.

        A row with `sample_weight` 2 counts twice; weight 0 leaves it out. `y` is ignored.

        **Warns** `ConvergenceWarning` if the fit has not converged, or if components have collapsed.

        **Raises** `ValueError` for data that the model cannot be fitted to, `RuntimeError` if no restart is
        usable.
        """
        self._check_arguments()
        goes_on = self.warm_start and hasattr(self, "params_")
        X = self._validate(X, reset=not goes_on, ensure_min_samples=2)
        if sample_weight is not None:
            sample_weight = column_or_1d(sample_weight, dtype=X.dtype)
            check_consistent_length(X, sample_weight)
            if not sample_weight.any():
                raise ValueError(
                    "sample_weight is zero in every row. At least one row must have a positive weight."
                )
            check_weights(sample_weight, type(self).__name__)
        with in_precision_of(X.dtype):
            return self._fit(X, sample_weight, goes_on)

    def _fit(self, X, sample_weight, goes_on):
        model = self._make_model(X)
        model.check(self._given_rows(X, sample_weight), type(self).__name__)
        least = max(2, self.n_components or 1)
        batch = self._batch(*distinct_rows(X, sample_weight, least))
        weight = float(np.sum(host_rows(batch)[1]))
        batch = self._condense(batch)
        make = self.update
        update = self._make_update(model, batch) if make is None else make(model)

        def begin(params, key):
            return first_state(update, model, params, key)

        key, options = self._key(), {"max_steps": self.max_iter, "tolerance": self.tol}
        key_start, key_run = jax.random.split(key)
        if goes_on:
            result = fit(update, begin(self._put(self.params_), key_run), batch, **options)
        elif self.n_init == 1:
            params = self._start(model, key_start, batch)
            result = fit(update, begin(params, key_run), batch, **options)
        else:
            params = self._starts(model, key_start, batch)
            states = jax.vmap(begin)(params, jax.random.split(key_run, self.n_init))
            ends = fit_restarts(update, states, batch, reject=model.collapsed, **options)
            result = ends.best
        if not result.converged:
            warnings.warn(
                f"{type(self).__name__}: {result.message} To continue, increase max_iter or tol.",
                ConvergenceWarning,
                stacklevel=3,
            )
        self._keep(model, result)
        collapsed = np.flatnonzero(_collapsed(model, result.state.params))
        if collapsed.size:
            warnings.warn(
                f"{type(self).__name__}: components {collapsed.tolist()} have collapsed onto a few points, where "
                "the likelihood is unbounded. Use fewer components or several starts (n_init), or increase "
                "reg_covar.",
                ConvergenceWarning,
                stacklevel=3,
            )
        for name, value in self._describe(weight).items():
            setattr(self, f"{name}_", value)
        return self

    def score_samples(self, X):
        """Returns log p(x) of each row, in nats, of its known columns; shape `(n_samples,)`."""
        return self._explain(X)[0]

    def score(self, X, y=None):
        """Returns the mean of log p(x) over the rows, in nats."""
        return float(np.mean(self.score_samples(X), dtype=float))

    def _keep(self, model: Any, result: Result) -> None:
        self.model_ = model
        # Device arrays of float64 would lose digits in a pickle that is read where JAX's default is float32.
        self.params_ = jax.tree.map(np.asarray, result.state.params)
        self.converged_ = result.converged
        self.n_iter_ = result.num_steps
        self.lower_bound_ = float(result.elbo)
        # The trace holds the bound before each sweep, scikit-learn's list the one after.
        self.lower_bounds_ = [*result.trace[1:].tolist(), self.lower_bound_]

    def _validate(self, X, *, reset: bool = False, ensure_min_samples: int = 1) -> np.ndarray:
        table: Any = validate_data(
            self,
            X,
            dtype=[np.float64, np.float32]
            if not hasattr(self, "params_") or reset
            else self._dtype,
            ensure_all_finite="allow-nan",
            ensure_min_samples=ensure_min_samples,
            reset=reset,
        )
        return table

    @property
    def _dtype(self) -> Any:
        """The dtype of the fit."""
        return jax.tree.leaves(self.params_)[0].dtype

    def _check_arguments(self) -> None:
        who = type(self).__name__
        counts = {"max_iter": self.max_iter, "n_init": self.n_init}
        counts |= {
            name: number
            for name, number in dict(
                n_components=self.n_components, chunk_size=self.chunk_size
            ).items()
            if number is not None
        }
        check_count(who, **counts)
        check_not_negative(who, tol=self.tol)
        if self.update is not None:
            check_function(who, "lambda model: elbax.Chain(...)", update=self.update)

    def _given_rows(self, X: np.ndarray, sample_weight: Any = None) -> Batch:
        """Returns the rows as given, with their columns' names, for error messages."""
        observed = ~np.isnan(X)
        table: Any = named(X, getattr(self, "feature_names_in_", None))
        if not observed.all():
            table = IncompleteRows(jnp.asarray(np.where(observed, X, 0)), jnp.asarray(observed))
        return Batch(table, weight=sample_weight)

    def _batch(self, X: np.ndarray, sample_weight: Any = None) -> Batch:
        batch = Batch(X, weight=sample_weight)
        return self._put(incomplete(batch) if np.isnan(X).any() else padded(batch))

    def _put(self, tree: PyTree) -> PyTree:
        device = self.device
        if isinstance(device, str):
            platform, _, number = device.partition(":")
            found = jax.devices(platform)
            if not (number or "0").isdecimal() or int(number or 0) >= len(found):
                raise ValueError(
                    f"device={device!r} is not available; the available devices are "
                    f"{[f'{d.platform}:{d.id}' for d in found]}."
                )
            device = found[int(number or 0)]
        return jax.device_put(tree, device)

    def _key(self) -> Key:
        seed = check_random_state(self.random_state).randint(np.iinfo(np.int32).max)
        return jax.random.key(int(seed))

    def _explain(self, X) -> tuple[np.ndarray, np.ndarray]:
        """Returns (log p(x), the summary of p(z | x)) of each row."""
        check_is_fitted(self)
        X = self._validate(X)
        with in_precision_of(self._dtype):
            self._check_rows(self._given_rows(X))
            batch = self._batch(X)
            params = self._put(self.params_)
            found = each_row(self._summary, self.model_, params, batch, self.chunk_size)
            scores, summaries = map(np.asarray, found)
        if batch.index is None:
            scores, summaries = scores[: len(X)], summaries[: len(X)]
            return scores, summaries

        index = np.asarray(batch.index)
        return in_order(scores, index, len(X)), in_order(summaries, index, len(X))


def in_precision_of(dtype: Any) -> Any:
    """Returns a context that computes in float64 if the data are float64, and only then."""
    return jax.enable_x64(dtype == np.float64)


@compiled
def _collapsed(model: Any, params: PyTree) -> Any:
    return model.collapsed(params)
