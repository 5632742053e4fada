"""What all estimators share: tables in, a fit by an elbax update, NumPy arrays out."""

import abc
import dataclasses
import numbers
import warnings

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from sklearn.base import BaseEstimator
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils import check_consistent_length, check_random_state, check_scalar, column_or_1d
from sklearn.utils.validation import check_is_fitted, validate_data

from .._batch import Batch, effective_weight, over_rows
from .._fit import fit, fit_restarts, Result
from .._model import AbstractModel
from .._padding import padded
from .._pattern import incomplete
from .._types import Any, Callable, Key, PyTree
from .._update import AbstractUpdate, Chain
from ..e_steps import ExactEStep
from ..families import Distribution
from ..m_steps import ClosedFormMStep
from ..posteriors import Exact


@dataclasses.dataclass(eq=False, repr=False)
class AbstractEstimator(BaseEstimator, abc.ABC):
    """A model, the update that fits it, and what scikit-learn wants to hear of the fit.

    The constructor's parameters that all estimators share:

    - `n_components`: how many components (factors, for factor models).
    - `tol`: relative gain of the bound below which a fit ends, as for `elbax.fit`.
    - `max_iter`: the most sweeps to make.
    - `n_init`: how many starts to fit from, all at once; the best end that has not collapsed is kept.
    - `random_state`: an integer, a `numpy.random.RandomState` or `None`, as everywhere in scikit-learn.
    - `warm_start`: `fit` goes on from where the last one ended.
    - `device`: where to compute: a name such as `"cpu"`, `"gpu"` or `"gpu:1"`, or a `jax.Device` (which
        Python can neither copy nor pickle, so that such an estimator cannot be cloned).
    - `chunk_size`: about how many rows to see at a time; memory is then flat in the number of rows.
    - `update`: a function from the model to the elbax update that fits it, of an exact posterior;
        exact E-step and closed-form M-step by default. A chunk size is then the update's own.

    NaN in X is missing at random. Computations are in JAX's default float: float32, unless
    `jax_enable_x64` is set. After a fit `model_` and `params_` are elbax's own, to go on with.
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
        """The elbax model of these parameters, for this table."""

    @abc.abstractmethod
    def _describe(self, weight: float) -> dict[str, Any]:
        """The fitted attributes, by their names without the underscore."""

    @staticmethod
    @abc.abstractmethod
    def _summary(posterior: Distribution) -> PyTree:
        """What to report of one row's latent."""

    def _make_update(self, model: AbstractModel, batch: Batch) -> AbstractUpdate:
        return Chain(ExactEStep(model), ClosedFormMStep(model, chunk_size=self.chunk_size))

    def _start(self, model: Any, key: Key, batch: Batch) -> PyTree:
        return model.init(key, batch)

    def _condense(self, batch: Batch) -> Batch:
        """The batch that the fit sees."""
        return batch

    def _check_rows(self, batch: Batch) -> None:
        """Raises `ValueError` for rows that the fitted model gives no probability."""

    def fit(self, X, y=None, sample_weight=None):
        """Fits to the table X, shape `(n_samples, n_features)`; returns the estimator.

        `sample_weight` 2 is the row twice, weight 0 leaves it out. `y` is ignored.

        **Warns** `ConvergenceWarning` if the fit has not converged.

        **Raises** `ValueError` for data that the model cannot be fitted to, `RuntimeError` if no
        restart can be returned.
        """
        goes_on = self.warm_start and hasattr(self, "params_")
        X = self._validate(X, reset=not goes_on, ensure_min_samples=2)
        if sample_weight is not None:
            sample_weight = column_or_1d(sample_weight, dtype=X.dtype)
            check_consistent_length(X, sample_weight)
            if not sample_weight.any():
                raise ValueError("sample_weight is zero in every row: nothing is left to fit.")
        check_scalar(self.n_init, "n_init", numbers.Integral, min_val=1)

        model = self._make_model(X)
        batch = self._batch(X, sample_weight)
        model.check(batch, type(self).__name__)
        weight = float(jnp.sum(effective_weight(batch)))
        batch = self._condense(batch)
        make = self.update
        update = self._make_update(model, batch) if make is None else make(model)

        def begin(key, params=None):
            key_start, key_run = jax.random.split(key)
            params = self._start(model, key_start, batch) if params is None else params
            return update.init(params, Exact(model, params), key=key_run)

        key, options = self._key(), {"max_steps": self.max_iter, "tolerance": self.tol}
        if goes_on:
            result = fit(update, begin(key, self._put(self.params_)), batch, **options)
        elif self.n_init == 1:
            result = fit(update, begin(key), batch, **options)
        else:
            states = jax.vmap(begin)(jax.random.split(key, self.n_init))
            ends = fit_restarts(update, states, batch, reject=model.collapsed, **options)
            result = ends.best
        if not result.converged:
            warnings.warn(
                f"{type(self).__name__}: {result.message} To go on, raise max_iter or tol.",
                ConvergenceWarning,
                stacklevel=2,
            )
        self._keep(model, result)
        for name, value in self._describe(weight).items():
            setattr(self, f"{name}_", value)
        return self

    def score_samples(self, X):
        """log p(x) of each row, shape `(n_samples,)`: of its known columns, where some are missing."""
        return self._explain(X)[0]

    def score(self, X, y=None):
        """The mean of log p(x) over the rows."""
        return float(np.mean(self.score_samples(X), dtype=float))

    def _keep(self, model: Any, result: Result) -> None:
        self.model_ = model
        self.params_ = result.state.params
        self.converged_ = result.converged
        self.n_iter_ = result.num_steps
        self.lower_bound_ = float(result.elbo)
        # The trace holds the bound before each sweep, scikit-learn's list the one after.
        self.lower_bounds_ = [*result.trace[1:].tolist(), self.lower_bound_]

    def _validate(self, X, *, reset: bool = False, ensure_min_samples: int = 1) -> np.ndarray:
        table: Any = validate_data(
            self,
            X,
            dtype=jnp.result_type(float),
            ensure_all_finite="allow-nan",
            ensure_min_samples=ensure_min_samples,
            reset=reset,
        )
        return table

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
                    f"device={device!r} is not here: there are {[f'{d.platform}:{d.id}' for d in found]}."
                )
            device = found[int(number or 0)]
        return jax.device_put(tree, device)

    def _key(self) -> Key:
        seed = check_random_state(self.random_state).randint(np.iinfo(np.int32).max)
        return jax.random.key(int(seed))

    def _explain(self, X) -> tuple[np.ndarray, np.ndarray]:
        """(log p(x), the summary of p(z | x)) of each row."""
        check_is_fitted(self)
        X = self._validate(X)
        batch = self._batch(X)
        self._check_rows(batch)
        params = self._put(self.params_)
        found = _each_row(self._summary, self.model_, params, batch, self.chunk_size)
        if batch.index is None:
            scores, summaries = (np.asarray(values)[: len(X)] for values in found)
            return scores, summaries

        def in_order(values):
            values = np.asarray(values)
            ordered = np.empty((len(X), *values.shape[2:]), values.dtype)
            ordered[np.asarray(batch.index)] = values
            return ordered

        scores, summaries = map(in_order, found)
        return scores, summaries


@eqx.filter_jit
def _each_row(
    summary: Callable, model: Any, params: PyTree, batch: Batch, chunk_size: int | None
) -> tuple[PyTree, PyTree]:
    natural = model.prepare(model.natural(params))

    def row(x):
        posterior = model.conditional(natural, x)
        return model.elbo(natural, x, posterior, None), summary(posterior)

    function, rows_each = row, 1
    if batch.blocked:
        function = lambda block: over_rows(row, block)
        rows_each = effective_weight(batch).shape[1]
    if chunk_size is None:
        return jax.vmap(function)(batch.x)
    return jax.lax.map(function, batch.x, batch_size=max(1, chunk_size // rows_each))
