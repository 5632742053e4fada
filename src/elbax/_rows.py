"""What a model says of each row: log-densities, labels, probabilities."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from ._arguments import kind_of
from ._door import enter
from ._model import AbstractModel
from ._program import compiled
from ._types import Any, Array, Callable, Float, PyTree
from .data._batch import as_batch, Batch, effective_weight, over_rows
from .data._check import is_concrete
from .data._incomplete import incomplete
from .data._incomplete_rows import is_incomplete
from .data._ragged import Ragged
from .data._table import as_arrays
from .families import AnyLatent


def log_densities(
    model: AbstractModel, params: PyTree, x: PyTree, *, chunk_size: int | None = None
) -> Float[Array, " num_data"]:
    r"""Returns $\log p_\theta(x_i)$ of each row, in nats: what `evidence` averages.

    **Arguments:**

    - `x`: rows, complete or with NaN where a value is missing; a `Batch`; or `elbax.sequences([...])`, whose rows
        are the sequences.
    - `chunk_size`: the number of rows to evaluate at a time; all by default.

    **Returns:** one number per row, in the order of the rows.

    **Raises** `TypeError` for a model that does not know Bayes' rule, `ValueError` for data that the model cannot
    have made.

    ```python
    >>> import elbax, jax
    >>> x, model = elbax.datasets.old_faithful(), elbax.GaussianMixture(2)
    >>> params = model.init(jax.random.key(0), x)
    >>> elbax.log_densities(model, params, x).shape
    (272,)

    ```
    """
    if isinstance(model, AbstractModel):
        model.check_evidence("log_densities")
    return _answers("log_densities", model, params, x, chunk_size)[0]


def probabilities(
    model: AbstractModel, params: PyTree, x: PyTree, *, chunk_size: int | None = None
) -> PyTree:
    r"""Returns $E[t(z) \mid x_i]$ of each row: of a mixture p(z = k | x), shape `(num_data, K)`.

    For other discrete latents these are the marginals in `posterior(x).mean()`, such as `"unary"` of a hidden
    Markov model, shape `(num_data, T, K)`. Arguments and errors as for `log_densities`, and `TypeError` for a
    continuous latent.

    ```python
    >>> import elbax, jax
    >>> x, model = elbax.datasets.old_faithful(), elbax.GaussianMixture(2)
    >>> params = model.init(jax.random.key(0), x)
    >>> elbax.probabilities(model, params, x).shape
    (272, 2)

    ```
    """
    _check_discrete("probabilities", model, "mean")
    return _answers("probabilities", model, params, x, chunk_size, mean_of)[1]


def labels(
    model: AbstractModel, params: PyTree, x: PyTree, *, chunk_size: int | None = None
) -> PyTree:
    r"""Returns $\arg\max_z p_\theta(z \mid x_i)$ of each row: of a mixture the most probable component.

    Of a hidden Markov model it is the Viterbi path, with −1 in the padding of a shorter sequence. Arguments and
    errors as for `log_densities`, and `TypeError` for a continuous latent.

    ```python
    >>> import elbax, jax
    >>> x, model = elbax.datasets.old_faithful(), elbax.GaussianMixture(2)
    >>> result = elbax.fit(elbax.em(model), x, key=jax.random.key(0))
    >>> sizes = jax.numpy.bincount(elbax.labels(model, result.params, x))
    >>> sorted(sizes.tolist())
    [97, 175]

    ```
    """
    _check_discrete("labels", model, "mode")
    return _answers("labels", model, params, x, chunk_size, mode_of)[1]


def imputed(
    model: AbstractModel, params: PyTree, x: PyTree, *, chunk_size: int | None = None
) -> tuple[PyTree, PyTree]:
    r"""Returns rows with missing numbers replaced by $E[x_m \mid x_o]$, and their standard deviations given $x_o$.

    The latents are integrated out, not fixed at their most probable value. Observed numbers are unchanged and
    have deviation 0. A missing code of `Categorical` is the most probable one, and its deviation is the
    probability that it is another. Arguments and errors as for `log_densities`, and `TypeError` for a model that
    does not impute: regressions, and Bayesian networks, whose `labels` are the most probable values.

    **Returns** (values, deviations), each an array of the shape of the rows (or a dictionary of arrays), in their
    order. Of sequences these have shape `(num_data, T, dim)`, with NaN in the padding; where inputs drive a hidden
    Markov model, they are those of its values.

    ```python
    >>> import elbax, jax
    >>> x, model = elbax.datasets.old_faithful(), elbax.GaussianMixture(2)
    >>> result = elbax.fit(elbax.em(model), x, key=jax.random.key(0))
    >>> row = jax.numpy.array([[4.5, jax.numpy.nan]])  # minutes of an eruption, and until the next
    >>> values, deviations = elbax.imputed(model, result.params, row)
    >>> print(values.round(1), deviations.round(1))
    [[ 4.5 81.1]] [[0.  5.6]]

    ```
    """
    return _answers("imputed", model, params, x, chunk_size, _imputed)[1]


def _check_discrete(who: str, model: AbstractModel, answer: str) -> None:
    unnamed = isinstance(model, AbstractModel) and isinstance(model.latent, AnyLatent)
    if isinstance(model, AbstractModel) and not (model.latent.discrete or unnamed):
        # Without Bayes' rule the posterior is one that a fit has learned.
        posterior = "elbax.Exact(model, params)" if model.exact else "state.posterior"
        raise TypeError(
            f"{who}: the latent of {type(model).__name__}, {kind_of(model.latent)}, is continuous. Use "
            f"jax.vmap({posterior})(x).{answer}()."
        )


def _answers(who, model, params, x, chunk_size, summary=None) -> tuple[Array, PyTree]:
    x = x if isinstance(x, Batch) else as_arrays(x)
    given = as_batch(x)
    ragged = isinstance(given.x, Ragged)
    num_rows = None if given.blocked or ragged else len(jax.tree.leaves(given.x)[0])
    if is_concrete(given) and not (given.blocked or ragged) and _has_gaps(given.x):
        # Answers are in the order of the rows, whatever places they have in larger data.
        x = incomplete(Batch(given.x, weight=given.weights, mask=given.mask))
    params = eqx.nn.inference_mode(params)
    batch = as_batch(enter(who, model, params, x, chunk_size=chunk_size))
    if not model.exact:
        # Raise the model's own error before any work is done.
        first = jax.tree.map(lambda leaf: leaf[0], batch.x.groups[0] if ragged else batch.x)
        jax.eval_shape(lambda x: model.conditional(model.prepare(model.natural(params)), x), first)
    found = each_row(summary, model, params, batch, chunk_size)
    if not (batch.blocked or ragged):
        return found
    index = np.asarray(batch.index)
    size = int(index.max()) + 1 if num_rows is None else num_rows
    return jax.tree.map(lambda values: jnp.asarray(in_order(values, index, size)), found)


def _has_gaps(x: PyTree) -> bool:
    def gaps(leaf):
        table = not is_incomplete(leaf) and np.ndim(leaf) == 2
        return table and np.asarray(leaf).dtype.kind == "f" and bool(np.isnan(leaf).any())

    return any(map(gaps, jax.tree.leaves(x, is_leaf=is_incomplete)))


def in_order(values: Any, index: np.ndarray, num_rows: int) -> np.ndarray:
    """Returns the values of blocked or ragged rows in the order of their index; NaN, or −1, for one left out."""
    values = np.asarray(values)
    nothing = np.nan if values.dtype.kind == "f" else -1 if values.dtype.kind == "i" else 0
    ordered = np.full((num_rows, *values.shape[index.ndim :]), nothing, values.dtype)
    ordered[index] = values
    return ordered


def mean_of(model: AbstractModel, params: PyTree, x: PyTree, q: Any) -> PyTree:
    return q.mean()


def mode_of(model: AbstractModel, params: PyTree, x: PyTree, q: Any) -> PyTree:
    return q.mode()


def _imputed(model: AbstractModel, params: PyTree, x: PyTree, q: Any) -> PyTree:
    return model.impute(params, x, q)


@compiled
def each_row(
    summary: Callable | None,
    model: AbstractModel,
    params: PyTree,
    batch: Batch,
    chunk_size: int | None,
) -> tuple[Array, PyTree]:
    """Returns (log p(x), summary(p(z | x))) of each row, with the axes of the batch."""
    natural = model.prepare(model.natural(params))

    def row(x):
        q = model.conditional(natural, x)
        score = model.elbo(natural, x, q, jax.random.key(0))
        return score, () if summary is None else summary(model, params, x, q)

    if isinstance(batch.x, Ragged):
        return over_rows(row, batch.x)
    function, rows_each = row, 1
    if batch.blocked:
        function = lambda block: over_rows(row, block)
        rows_each = effective_weight(batch).shape[1]
    if chunk_size is None:
        return jax.vmap(function)(batch.x)
    return jax.lax.map(function, batch.x, batch_size=max(1, chunk_size // rows_each))
