"""All that a model quadratic in x sees of the data: a mean and a covariance."""

import jax
import jax.numpy as jnp
import numpy as np

from ._algebra import matmul
from ._batch import as_batch, Batch, effective_weight, reduce_data
from ._check import check_rows, check_table, is_concrete
from ._incomplete import known_numbers
from ._math.linear_algebra import cholesky, eigh, invert_triangle
from ._program import compiled
from ._sharding import automatic
from ._types import Any, Array, PyTree


def compress(x: PyTree, *, chunk_size: int | None = None) -> Batch:
    """dim + 1 weighted points with the same weight, mean and covariance as the data.

    A log-density that is quadratic in x (factor analysis, probabilistic PCA, one Gaussian) has the
    same evidence, statistics and M-steps on them as on all rows, so a sweep costs the same for a
    thousand rows or a billion. No update knows: it is an ordinary weighted batch.

    **Arguments:**

    - `x`: shape `(num_data, dim)`, or a `Batch` of that.
    - `chunk_size`: about how many rows to see at a time.

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
            "compress: incomplete rows have no common covariance; give the batch to the update as it is."
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
    """(mean, L, A, Σ w) with the covariance L A Lᵀ about the mean, in two passes of their own."""
    table, _ = known_numbers(batch.x)
    # Where all rows count there is nothing to search, for which XLA would take 3 s of 1e5 rows while it compiles.
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
    # A covariance holds no eigenvalue below rounding of its largest. In units of its factor all are about 1,
    # so a second one, taken in these units, has what the first has lost.
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
    """Standard deviations, 1 for a constant column."""
    variance = jnp.diagonal(covariance)
    return jnp.sqrt(jnp.where(variance > 0, variance, 1))


def _decompose(matrix: Array) -> tuple[Array, Array]:
    """Eigenvalues and eigenvectors of one matrix, of any size: LAPACK's on the host where its values are known."""
    values, vectors = (np.linalg.eigh if is_concrete(matrix) else eigh)(matrix)
    return jnp.asarray(values), jnp.asarray(vectors)


def _half(values: Array, vectors: Array) -> Array:
    return vectors * jnp.sqrt(jnp.maximum(values, 0))


def from_moments(mean: Any, covariance: Any, num_data: float | Array) -> Batch:
    """dim + 1 weighted points with this mean and covariance: data for a model of which only these are known.

    The covariance divides by `num_data`, not by one less: scale a sample covariance by (n − 1) / n.

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
            f"from_moments: a mean of shape {mean.shape} wants a covariance of shape {(dim, dim)}, got "
            f"{covariance.shape}."
        )
    # The root of the correlations, so that columns of any scale keep their digits.
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
    """dim + 1 points with this mean and the covariance root rootᵀ."""
    dim = len(mean)
    scale = jnp.sqrt(dim + 1.0).astype(mean.dtype)
    points = mean + scale * matmul(_simplex(dim, mean.dtype), root.T)
    weight = jnp.full(dim + 1, jnp.asarray(num_data, mean.dtype) / (dim + 1))
    return Batch(points, weight=weight)


def _simplex(dim: int, dtype) -> Array:
    """dim + 1 points of mean 0 and orthonormal columns."""
    columns = np.zeros((dim + 1, dim))
    for j in range(dim):
        # Helmert's contrasts: the first j + 1 points against the next.
        columns[: j + 1, j] = 1
        columns[j + 1, j] = -(j + 1)
        columns[:, j] /= np.sqrt((j + 1) * (j + 2))
    return jnp.asarray(columns, dtype)
