"""A precision matrix with a Wishart distribution."""

import math
from typing import ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import multigammaln

from .._arguments import check_count
from .._math.algebra import diagonal, matmul
from .._math.linear_algebra import cholesky, invert_positive, root_of_inverse
from .._math.special import log_minus_digamma
from .._types import Any, Array, Callable, Float, Key, Scalar
from ._conjugate import AbstractConjugateFamily


class Wishart(AbstractConjugateFamily):
    r"""A latent precision matrix Λ with $q(\Lambda) \propto |\Lambda|^{n/2} e^{-\frac12 \mathrm{tr}(S \Lambda)}$.

    $t(\Lambda) = (\tfrac12 \log|\Lambda|, -\tfrac12 \Lambda)$. The natural parameters are (n, S), of shapes `()`
    and `(dim, dim)`. The degrees of freedom are ν = n + dim + 1, and S is the inverse scale, so that
    E Λ = ν S⁻¹. An encoder returns log(ν − dim + 1) and the lower triangle of the Cholesky factor of S with the
    logarithms of its diagonal.

    ```python
    >>> import elbax, jax.numpy as jnp
    >>> q = elbax.families.Wishart(2).from_description(dof=5.0, inverse_scale=2 * jnp.eye(2))
    >>> print((-2 * q.mean()[1]).round(4))
    [[2.5 0. ]
     [0.  2.5]]

    ```
    """

    dim: int = eqx.field(static=True)

    event_ndim: ClassVar[int] = 2

    def __check_init__(self):
        check_count("Wishart", dim=self.dim)

    @property
    def event_shape(self) -> Any:
        return (self.dim, self.dim)

    def batch_ndim(self, natural: tuple) -> int:
        return jnp.ndim(natural[0])

    def from_description(self, *, dof: Any, inverse_scale: Any) -> Any:
        """Returns the Wishart distribution of ν degrees of freedom with E Λ = ν S⁻¹."""
        scale = jnp.asarray(inverse_scale, float)
        return self((jnp.broadcast_to(_less(dof, self.dim + 1), scale.shape[:-2]), scale))

    def log_normalizer(self, natural: tuple) -> Scalar:
        return log_normalizer(natural[0] + self.dim + 1, natural[1])

    def mean(self, natural: tuple) -> tuple[Scalar, Float[Array, "D D"]]:
        dof, scale = natural[0] + self.dim + 1, natural[1]
        return 0.5 * mean_log_determinant(dof, scale), -0.5 * mean_precision(dof, scale)

    def statistics(self, z: Float[Array, "D D"]) -> tuple[Scalar, Float[Array, "D D"]]:
        return 0.5 * log_determinant(z), -0.5 * z

    def sample(self, natural: tuple, key: Key) -> Float[Array, "D D"]:
        return draw(key, natural[0] + self.dim + 1, natural[1])

    def mode(self, natural: tuple) -> Float[Array, "D D"]:
        """Returns n S⁻¹; it is 0 for n ≤ 0, where the density has no mode inside."""
        return jnp.maximum(natural[0], 0) * invert_positive(natural[1])

    def from_network(self, output: Array) -> tuple[Scalar, Float[Array, "D D"]]:
        root = triangle(output[1:], self.dim)
        return jnp.exp(output[0]) - 2, matmul(root, root.T)

    def center(self, natural):
        return mean_precision(natural[0] + self.dim + 1, natural[1])

    def near(self, point):
        return jnp.zeros(point.shape[:-2], point.dtype), (self.dim + 1) * invert_positive(point)

    def nodes(self, natural):
        return scaled_means(natural[0] + self.dim + 1, natural[1])

    def read_about(self, function: Callable[[Any], Scalar], point: Array) -> tuple[Array, Array]:
        return read_precision(function, point)

    def to_unconstrained(self, point):
        return unconstrained_triangle(cholesky(point))

    def from_unconstrained(self, free):
        root = triangle(free, self.dim)
        return matmul(root, root.mT)

    def origin(self, dtype):
        return jnp.eye(self.dim, dtype=dtype)


def _less(dof: Any, amount: int) -> Array:
    return jnp.asarray(dof, float) - amount


@jax.custom_jvp
def log_determinant(matrix: Array) -> Array:
    """Returns log|A| of a positive definite matrix."""
    return 2 * jnp.sum(jnp.log(diagonal(cholesky(matrix))), -1)


@log_determinant.defjvp
def _(primals, tangents):
    # d log|A| = tr A⁻¹ dA. Derivatives of any order then need products only, which compile sooner.
    return log_determinant(*primals), jnp.sum(_inverse(*primals) * tangents[0].mT, (-2, -1))


@jax.custom_jvp
def _inverse(matrix: Array) -> Array:
    return invert_positive(matrix)


@_inverse.defjvp
def _(primals, tangents):
    inverse = _inverse(*primals)
    return inverse, -matmul(inverse, matmul(tangents[0], inverse))


def log_normalizer(dof: Array, scale: Array) -> Array:
    """Returns log ∫ |Λ|^{(ν − D − 1)/2} exp(−½ tr SΛ) dΛ = ½νD log 2 − ½ν log|S| + log Γ_D(ν/2)."""
    dim = scale.shape[-1]
    proper = jnp.where(dof > dim - 1, dof, jnp.nan)
    half = 0.5 * proper
    return half * dim * math.log(2) - half * log_determinant(scale) + multigammaln(half, dim)


def mean_precision(dof: Array, scale: Array) -> Array:
    return jnp.asarray(dof)[..., None, None] * invert_positive(scale)


def _log_gap(dof: Array, dim: int) -> Array:
    """Returns E log|Λ| − log|E Λ| = Σᵢ ψ((ν − i)/2) − D log(ν/2) < 0, as a sum of terms of one sign."""
    i = jnp.arange(dim, dtype=dof.dtype)
    half = 0.5 * (dof[..., None] - i)
    return jnp.sum(jnp.log1p(-i / dof[..., None]) - log_minus_digamma(half), -1)


def mean_log_determinant(dof: Array, scale: Array) -> Array:
    """Returns E log|Λ|."""
    dim = scale.shape[-1]
    return _log_gap(dof, dim) + dim * jnp.log(dof) - log_determinant(scale)


def scaled_means(dof: Array, scale: Array) -> Array:
    """Returns E Λ (1 ± s): log|Λ| averages to log|E Λ| + ½ D log(1 − s²), which is to be E log|Λ|."""
    mean, dim = mean_precision(dof, scale), scale.shape[-1]
    spread = jnp.sqrt(-jnp.expm1(2 / dim * _log_gap(dof, dim)))[..., None, None]
    return jnp.stack([mean * (1 + spread), mean * (1 - spread)])


def draw(key: Key, dof: Array, scale: Array) -> Array:
    """Returns Λ = R B Bᵀ Rᵀ with R Rᵀ = S⁻¹ and Bartlett's triangle B: χ on its diagonal, N(0, 1) below."""
    dim = scale.shape[-1]
    keys = jax.random.split(key)
    half = 0.5 * (dof - jnp.arange(dim, dtype=scale.dtype))
    chi = jnp.sqrt(2.0) * jnp.exp(0.5 * jax.random.loggamma(keys[0], half))
    below = jnp.tril(jax.random.normal(keys[1], (dim, dim), scale.dtype), -1)
    root = matmul(root_of_inverse(scale), below + jnp.diag(chi.astype(scale.dtype)))
    return matmul(root, root.T)


def read_precision(function: Callable[[Array], Scalar], point: Array) -> tuple[Array, Array]:
    """Reads (n, S) of ½ n log|Λ| − ½ tr SΛ: along Λ itself the gradient ½nΛ⁻¹ − ½S changes by −½nΛ⁻¹."""
    slope, change = jax.jvp(jax.grad(function), (point,), (point,))
    half = -0.5 * (change + change.mT)
    exponent = 2 * jnp.sum(half * point.mT, (-2, -1)) / point.shape[-1]
    return exponent, 2 * half - (slope + slope.mT)


def triangle(raw: Array, dim: int) -> Array:
    """Returns the lower triangle, with a positive diagonal, of real numbers on a last axis."""
    rows, columns = np.tril_indices(dim)
    full = jnp.zeros((*raw.shape[:-1], dim, dim), raw.dtype).at[..., rows, columns].set(raw)
    on = jnp.eye(dim, dtype=bool)
    return jnp.where(on, jnp.exp(jnp.where(on, full, 0)), full)


def unconstrained_triangle(root: Array) -> Array:
    """Returns the numbers of which `triangle` makes this factor."""
    dim = root.shape[-1]
    rows, columns = np.tril_indices(dim)
    on = jnp.eye(dim, dtype=bool)
    raw = jnp.where(on, jnp.log(jnp.where(on, root, 1)), root)
    return raw[..., rows, columns]
