"""Compression of data to a mean and a covariance, for models quadratic in x."""

import jax
import jax.numpy as jnp
import numpy as np

from .._math.algebra import matmul
from .._math.linear_algebra import cholesky, eigh, invert_triangle
from .._program import compiled
from .._sharding import automatic
from .._types import Any, Array, PyTree
from ._batch import as_batch, Batch, effective_weight, reduce_data
from ._check import check_rows, check_table, is_concrete
from ._incomplete_rows import known_numbers


def compress(x: PyTree, *, chunk_size: int | None = None) -> Batch:
    """Returns dim + 1 weighted points with the same weight, mean and covariance as the data.

    A log-density that is quadratic in x (factor analysis, probabilistic PCA, one Gaussian) has the same evidence,
    statistics and M-steps on them as on all rows, so a sweep costs the same for a thousand rows or a billion. The
    result is an ordinary weighted batch.

    **Arguments:**

    - `x`: shape `(num_data, dim)`, or a `Batch` of that.
    - `chunk_size`: about how many rows to process at a time.

    **Returns:** a `Batch` with x of shape `(dim + 1, dim)`.

    **Raises** `ValueError` for incomplete rows, whose density is not a function of two moments.

    ```python
    >>> import elbax
    >>> x = elbax.datasets.old_faithful()
    >>> batch = elbax.compress(x)
    >>> batch.x.shape, float(batch.weight.sum())
    ((3, 2), 272.0)

    ```
    """
    batch = as_batch(x)
    if batch.blocked:
        raise ValueError(
            "compress: got incomplete rows, which have no common covariance. Pass the batch to the update "
            "without compressing it."
        )
    table, _ = known_numbers(batch.x)
    weight = effective_weight(batch)
    if is_concrete((table, weight)):
        check_table(table, weight, "compress", varied=False)
    mean, factor, rest, count = _moments(batch, chunk_size)
    return _points(mean, matmul(factor, _half(*_decompose(rest))), count)


@compiled
@automatic
def _moments(batch: Batch, chunk_size: int | None) -> tuple[Array, Array, Array, Array]:
    """Returns (mean, L, A, Σ w) with the covariance L A Lᵀ about the mean, computed in separate passes."""
    table, _ = known_numbers(batch.x)
    # If all rows count, skip the search, which XLA would evaluate at compile time (3 s for 1e5 rows).
    first = jnp.argmax(effective_weight(batch) > 0) if batch.padded else 0
    first = jax.lax.stop_gradient(table[first])
    key = jax.random.key(0)

    def total(x, weight, places):
        return matmul(weight.astype(table.dtype), x.astype(table.dtype) - first)

    shift, count = reduce_data(total, batch, key, chunk_size)
    count = count.astype(table.dtype)
    mean = first + shift / count

    def scatter(x, weight, places):
        residual = x.astype(table.dtype) - mean
        return matmul((weight.astype(table.dtype)[:, None] * residual).T, residual)

    covariance, _ = reduce_data(scatter, batch, key, chunk_size)
    covariance = covariance / count
    # A covariance cannot represent eigenvalues below the rounding of its largest. In units of its factor all are
    # about 1, so a second covariance in these units holds what the first one lost.
    deviation = _deviations(covariance)
    eye = jnp.eye(len(mean), dtype=mean.dtype)
    ridge = 8 * len(mean) * jnp.finfo(mean.dtype).eps
    factor = cholesky(covariance / jnp.outer(deviation, deviation) + ridge * eye)
    inverse = invert_triangle(factor)

    def left(x, weight, places):
        residual = matmul((x.astype(table.dtype) - mean) / deviation, inverse.T)
        return matmul((weight.astype(table.dtype)[:, None] * residual).T, residual)

    rest, _ = reduce_data(left, batch, key, chunk_size)
    return mean, deviation[:, None] * factor, rest / count, count


def _deviations(covariance: Array) -> Array:
    """Returns standard deviations, 1 for a constant column."""
    variance = jnp.diagonal(covariance)
    return jnp.sqrt(jnp.where(variance > 0, variance, 1))


def _decompose(matrix: Array) -> tuple[Array, Array]:
    """Returns eigenvalues and eigenvectors of one matrix, by LAPACK on the host if its values are known."""
    values, vectors = (np.linalg.eigh if is_concrete(matrix) else eigh)(matrix)
    return jnp.asarray(values), jnp.asarray(vectors)


def _half(values: Array, vectors: Array) -> Array:
    return vectors * jnp.sqrt(jnp.maximum(values, 0))


def from_moments(mean: Any, covariance: Any, num_data: float | Array) -> Batch:
    """Returns dim + 1 weighted points with a given mean and covariance, as data for a model.

    **Arguments:**

    - `mean`: shape `(dim,)`.
    - `covariance`: shape `(dim, dim)`, divided by `num_data`, not by one less: scale a sample covariance by
        (n − 1) / n.
    - `num_data`: the total weight.

    **Returns:** a `Batch` with x of shape `(dim + 1, dim)`.

    **Raises** `ValueError` for a covariance that is not symmetric and positive semidefinite.

    ```python
    >>> import elbax, jax.numpy as jnp
    >>> correlation = jnp.array([[1.0, 0.5], [0.5, 1.0]])
    >>> batch = elbax.from_moments(jnp.zeros(2), correlation, num_data=112)

    ```
    """
    (mean, _), (covariance, _) = known_numbers(mean), known_numbers(covariance)
    dim = mean.shape[0]
    if covariance.shape != (dim, dim):
        raise ValueError(
            f"from_moments: covariance must have shape {(dim, dim)} for a mean of shape {mean.shape}, got "
            f"{covariance.shape}."
        )
    # Take the root of the correlations, so that columns of any scale keep their digits.
    deviation = _deviations(covariance)
    values, vectors = _decompose(covariance / jnp.outer(deviation, deviation))
    if is_concrete(covariance):
        check_rows(covariance, jnp.ones(dim), "from_moments, covariance")
        slack = 100 * dim * float(jnp.finfo(covariance.dtype).eps)
        if (
            float(jnp.max(jnp.abs(covariance - covariance.T) / jnp.outer(deviation, deviation)))
            > slack
        ):
            raise ValueError("from_moments: the covariance is not symmetric.")
        if float(jnp.min(values)) < -slack:
            raise ValueError(
                f"from_moments: the covariance is not positive semidefinite (eigenvalue "
                f"{float(jnp.min(values)):.3g} of the correlations)."
            )
    return _points(mean, deviation[:, None] * _half(values, vectors), num_data)


def _points(mean: Array, root: Array, num_data: float | Array) -> Batch:
    """Returns dim + 1 points with this mean and the covariance root rootᵀ."""
    dim = len(mean)
    scale = jnp.sqrt(dim + 1.0).astype(mean.dtype)
    points = mean + scale * matmul(_simplex(dim, mean.dtype), root.T)
    weight = jnp.full(dim + 1, jnp.asarray(num_data, mean.dtype) / (dim + 1))
    return Batch(points, weight=weight)


def _simplex(dim: int, dtype) -> Array:
    """Returns dim + 1 points of mean 0 with orthonormal columns."""
    columns = np.zeros((dim + 1, dim))
    for j in range(dim):
        # Helmert contrasts: the first j + 1 points against the next.
        columns[: j + 1, j] = 1
        columns[j + 1, j] = -(j + 1)
        columns[:, j] /= np.sqrt((j + 1) * (j + 2))
    return jnp.asarray(columns, dtype)
