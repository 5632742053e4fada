"""Latent Dirichlet allocation."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from sklearn.base import BaseEstimator, ClassNamePrefixFeaturesOutMixin, TransformerMixin
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted, check_non_negative, validate_data

from .. import models
from .._arguments import check_count, check_not_negative, check_positive
from .._elbo import elbo
from .._pass import expected_statistics
from .._program import compiled
from .._rows import in_order
from .._types import Any, Array, PyTree
from .._update import Chain
from ..beliefs import Bayesian
from ..data._batch import Batch, over_rows
from ..data._documents import documents, minibatches, rounded
from ..e_steps import MeanFieldEStep
from ..fitting import fit
from ..m_steps import ClosedFormMStep
from ..posteriors import CoordinateAscent, Exact, MeanField
from ..priors import Dirichlet
from ._estimator import in_precision_of


# Rounds a document a pass. Documents iterated to convergence at early topics would hold these where they are.
_SWEEPS = 5

# Fewer documents are one group of rounded size: a pass over them takes less time than compiling another program.
_FEW = 512


@dataclasses.dataclass(eq=False, repr=False)
class LatentDirichletAllocation(ClassNamePrefixFeaturesOutMixin, TransformerMixin, BaseEstimator):
    r"""Variational Bayes for latent Dirichlet allocation, as scikit-learn's `LatentDirichletAllocation`.

    X are counts of words, dense or sparse, `(n_documents, n_words)`. `components_` are the concentrations of each
    topic's Dirichlet; `transform`, `perplexity` and `score` are scikit-learn's at the same topics. A batch pass
    makes five rounds for each document, from the last pass's result, so that the bound increases in every pass.
    Documents without words are allowed: their proportions are those of the prior.

    **Arguments:**

    - `n_components`: the number of topics.
    - `doc_topic_prior`, `topic_word_prior`: concentrations of topics in documents and of words in topics; by
        default 1 / n_components each.
    - `learning_method`: `"batch"`, or `"online"` for stochastic variational inference on minibatches.
    - `learning_decay`, `learning_offset`: the rate of step t is (offset + t) ** −decay.
    - `max_iter`: the largest number of passes over the documents.
    - `batch_size`: the number of documents of a minibatch.
    - `tol`: the relative gain of the bound below which a batch fit ends.
    - `total_samples`: the number of documents in all, for `partial_fit`.
    - `mean_change_tol`, `max_doc_update_iter`: rounds for new documents end below this change, or after so many.
    - `random_state`: as everywhere in scikit-learn. The first topics are those of scikit-learn.

    **Attributes:** `components_` `(n_components, n_words)`; `bound_`, the perplexity of the documents of `fit`;
    `n_iter_`, `n_batch_iter_`; `doc_topic_prior_`, `topic_word_prior_`; `model_` and `params_`, elbax's own.

    ```python
    >>> import elbax.sklearn
    >>> x = [[4, 2, 0, 0], [3, 3, 0, 1], [0, 0, 5, 2], [0, 1, 2, 4]]
    >>> topics = elbax.sklearn.LatentDirichletAllocation(2, random_state=0).fit(x)
    >>> topics.transform(x).shape
    (4, 2)

    ```
    """

    n_components: Any = 10
    _: dataclasses.KW_ONLY
    doc_topic_prior: Any = None
    topic_word_prior: Any = None
    learning_method: Any = "batch"
    learning_decay: Any = 0.7
    learning_offset: Any = 10.0
    max_iter: Any = 10
    batch_size: Any = 128
    tol: Any = 0.0
    total_samples: Any = 1e6
    mean_change_tol: Any = 1e-3
    max_doc_update_iter: Any = 100
    random_state: Any = None

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.input_tags.positive_only = True
        tags.input_tags.sparse = True
        tags.transformer_tags.preserves_dtype = ["float64", "float32"]
        return tags

    @property
    def _n_features_out(self) -> int:
        return self.components_.shape[0]

    def fit(self, X, y=None):
        """Fits to counts of words X, shape `(n_documents, n_words)`; returns the estimator. `y` is ignored."""
        self._check_arguments()
        X = self._validate(X, reset=True)
        with in_precision_of(X.dtype):
            model, params = self._begin(X)
            batch = _of_counts(X)
            if self.learning_method == "online":
                params, steps = self._online(model, params, batch, X.shape[0])
                passes = self.max_iter
            else:
                free = {"topics": True, "log_concentration": False}
                update = Chain(MeanFieldEStep(model, _SWEEPS), ClosedFormMStep(model, free=free))
                table = MeanField.init(model, params, batch)
                state = update.init(params, table, key=jax.random.key(0))
                result = fit(update, state, batch, max_steps=self.max_iter, tolerance=self.tol)
                params, passes = result.state.params, result.num_steps
                steps = passes
            self._keep(model, params)
            self.n_iter_, self.n_batch_iter_ = passes, steps + 1
            self.bound_ = self._perplexity(batch, X, False)
        return self

    def partial_fit(self, X, y=None):
        """Makes one step of stochastic variational inference on these documents; returns the estimator.

        **Raises** `ValueError` for another number of words than in the first call; nothing changes then.
        """
        self._check_arguments()
        first = not hasattr(self, "components_")
        X = self._validate(X, reset=first)
        with in_precision_of(X.dtype if first else self.components_.dtype):
            model, params = self._begin(X) if first else (self.model_, self._params())
            step = 1 if first else self.n_batch_iter_
            batch = _of_counts(X)
            scale = self.total_samples / X.shape[0]
            params = _online_step(self._posterior(model, params), batch, self._rate(step), scale)
            self._keep(model, params)
            self.n_batch_iter_, self.n_iter_ = step + 1, getattr(self, "n_iter_", 0)
        return self

    def transform(self, X, *, normalize=True):
        """Returns the mean proportions of topics `(n_documents, n_components)`, or their concentrations."""
        check_is_fitted(self)
        X = self._validate(X)
        with in_precision_of(self.components_.dtype):
            batch = _of_counts(X)
            found = _concentrations(self._posterior(self.model_, self._params()), batch)
            found = in_order(found, np.asarray(batch.index), X.shape[0])
        return found / found.sum(1, keepdims=True) if normalize else found

    def perplexity(self, X, sub_sampling=False):
        """Returns exp(−bound per word) of documents, as scikit-learn's: the bound includes that of the topics.

        With `sub_sampling` documents stand for `total_samples`.
        """
        check_is_fitted(self)
        X = self._validate(X)
        with in_precision_of(self.components_.dtype):
            return self._perplexity(_of_counts(X), X, sub_sampling)

    def score(self, X, y=None):
        """Returns the bound of documents and topics, in nats, summed over documents."""
        check_is_fitted(self)
        X = self._validate(X)
        with in_precision_of(self.components_.dtype):
            return self._bound(_of_counts(X), X.shape[0])

    def _validate(self, X, reset: bool = False) -> Any:
        kept = None if reset or not hasattr(self, "components_") else self.components_.dtype
        X = validate_data(
            self, X, accept_sparse="csr", dtype=kept or [np.float64, np.float32], reset=reset
        )
        check_non_negative(X, type(self).__name__)
        return X

    def _check_arguments(self) -> None:
        who = type(self).__name__
        check_count(
            who,
            n_components=self.n_components,
            max_iter=self.max_iter,
            batch_size=self.batch_size,
            max_doc_update_iter=self.max_doc_update_iter,
        )
        check_not_negative(who, tol=self.tol)
        check_positive(
            who,
            mean_change_tol=self.mean_change_tol,
            learning_offset=self.learning_offset,
            learning_decay=self.learning_decay,
            total_samples=self.total_samples,
        )
        if self.learning_method not in ("batch", "online"):
            raise ValueError(
                f"{who}: learning_method must be 'batch' or 'online', got {self.learning_method!r}."
            )

    def _begin(self, X: Any) -> tuple[Bayesian, PyTree]:
        """Returns the model for these documents, and topics to start from."""
        number = self.n_components
        of_topics, of_words = (
            1 / number if prior is None else prior
            for prior in (self.doc_topic_prior, self.topic_word_prior)
        )
        check_positive(type(self).__name__, doc_topic_prior=of_topics, topic_word_prior=of_words)
        random = check_random_state(self.random_state)
        first = random.gamma(100.0, 0.01, (number, X.shape[1])).astype(X.dtype)
        model = models.LatentDirichletAllocation(
            number, X.shape[1], prior=Dirichlet(float(of_words))
        )
        params = {
            "topics": jnp.log(first),
            "log_concentration": jnp.full(number, np.log(of_topics), X.dtype),
        }
        return Bayesian(model), params

    def _online(
        self, model: Bayesian, params: PyTree, batch: Batch, num_documents: int
    ) -> tuple[PyTree, int]:
        number = max(1, round(num_documents / self.batch_size))
        steps = 0
        for one_pass in range(self.max_iter):
            batches = minibatches(batch, number, key=jax.random.key(one_pass))
            rates = jnp.asarray([self._rate(steps + i + 1) for i in range(number)])
            params = _online_pass(self._posterior(model, params), batches, rates)
            steps += number
        return params, steps

    def _rate(self, step: int) -> float:
        return (self.learning_offset + step) ** -self.learning_decay

    def _posterior(self, model: Bayesian, params: PyTree) -> CoordinateAscent:
        rounds, least = int(self.max_doc_update_iter), float(self.mean_change_tol)
        return CoordinateAscent(Exact(model, params), rounds, least)

    def _bound(self, batch: Batch, number: int) -> float:
        params = self._params()
        posterior = self._posterior(self.model_, params)
        return number * float(elbo(self.model_, params, posterior, batch))

    def _perplexity(self, batch: Batch, X: Any, sub_sampling: bool) -> float:
        scale = self.total_samples / X.shape[0] if sub_sampling else 1.0
        if sub_sampling:
            weight = scale if batch.weights is None else scale * batch.weights
            batch = Batch(batch.x, weight=weight, index=batch.index)
        bound = scale * self._bound(batch, X.shape[0])
        return float(np.exp(-bound / (scale * X.sum(dtype=float))))

    def _params(self) -> PyTree:
        return jax.tree.map(jnp.asarray, self.params_)

    def _keep(self, model: Bayesian, params: PyTree) -> None:
        self.model_ = model
        self.params_ = jax.tree.map(np.asarray, params)
        self.components_ = np.exp(self.params_["topics"])
        self.doc_topic_prior_ = float(np.exp(self.params_["log_concentration"][0]))
        prior: Any = model.model
        self.topic_word_prior_ = prior.prior.concentration


def _of_counts(X: Any) -> Batch:
    if X.shape[0] < _FEW:
        return rounded(documents(X, num_groups=1, allow_empty=True))
    return documents(X, allow_empty=True)


@compiled
def _concentrations(posterior: CoordinateAscent, batch: Batch) -> Array:
    """Returns the concentrations of topics of each document."""
    return over_rows(lambda x: posterior(x).natural, batch.x)


def _blended(posterior: Any, batch: Batch, rate: Any, scale: Any) -> PyTree:
    """Returns params after a step of the given rate, in which documents count `scale` times."""
    exact = posterior.target
    params, prior = exact.params, exact.model.model.prior.concentration
    _, found, _ = expected_statistics(exact.model, params, posterior, batch, key=jax.random.key(0))
    old, dtype = jnp.exp(params["topics"]), params["topics"].dtype
    fresh = prior + jnp.asarray(scale, dtype) * found["topics"]
    return params | {"topics": jnp.log(old + jnp.asarray(rate, dtype) * (fresh - old))}


@compiled
def _online_step(posterior: CoordinateAscent, batch: Batch, rate: Any, scale: Any) -> PyTree:
    return _blended(posterior, batch, rate, scale)


@compiled
def _online_pass(posterior: CoordinateAscent, batches: Batch, rates: Array) -> PyTree:
    def step(params, given):
        batch, rate = given
        return _blended(posterior.bind(posterior.target.model, params), batch, rate, 1.0), None

    return jax.lax.scan(step, posterior.target.params, (batches, rates))[0]
