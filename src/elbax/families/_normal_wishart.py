"""A mean and a precision matrix with a normal-Wishart distribution."""

import math
from typing import ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp

from .._arguments import check_count
from .._math.algebra import matmul, matvec
from .._math.linear_algebra import cholesky, invert_positive, root_of_inverse
from .._types import Any, Array, Callable, Key, PyTree, Scalar
from . import _wishart as wishart
from ._conjugate import AbstractConjugateFamily


class NormalWishart(AbstractConjugateFamily):
    r"""A latent mean and precision matrix: $\mu \mid \Lambda \sim N(m, (\kappa\Lambda)^{-1})$, Λ Wishart.

    Λ has ν degrees of freedom and the inverse scale Ψ. A value is the tuple (μ, Λ), and
    $t = (-\tfrac12 \mu^\top \Lambda \mu, \Lambda \mu, \tfrac12 \log|\Lambda|, -\tfrac12 \Lambda)$. The natural
    parameters are $(\kappa, \kappa m, \nu - D, \Psi + \kappa m m^\top)$. An encoder returns m, log κ,
    log(ν − D + 1) and the lower triangle of the Cholesky factor of Ψ with the logarithms of its diagonal.

    ```python
    >>> import elbax, jax.numpy as jnp
    >>> q = elbax.families.NormalWishart(1).from_description(
    ...     mean=jnp.array([2.0]), shrinkage=1.0, dof=3.0, inverse_scale=jnp.array([[6.0]])
    ... )
    >>> mean, precision = q.mode()
    >>> print(mean, precision.round(4))
    [2.] [[0.3333]]

    ```
    """

    dim: int = eqx.field(static=True)

    event_ndim: ClassVar[int] = 1
    names: ClassVar[tuple[str, ...]] = ("mean", "precision")

    def __check_init__(self):
        check_count("NormalWishart", dim=self.dim)

    @property
    def event_shape(self) -> Any:
        return (self.dim,), (self.dim, self.dim)

    def batch_ndim(self, natural: tuple) -> int:
        return jnp.ndim(natural[0])

    def from_description(self, *, mean: Any, shrinkage: Any, dof: Any, inverse_scale: Any) -> Any:
        """Returns the member of mean m, κ, ν and Ψ, so that E Λ = ν Ψ⁻¹; one for each entry of leading axes."""
        mean, scale = jnp.asarray(mean, float), jnp.asarray(inverse_scale, float)
        batch = jnp.broadcast_shapes(
            mean.shape[:-1], scale.shape[:-2], jnp.shape(shrinkage), jnp.shape(dof)
        )
        spread = lambda value: jnp.broadcast_to(jnp.asarray(value, float), batch)
        mean = jnp.broadcast_to(mean, (*batch, self.dim))
        scale = jnp.broadcast_to(scale, (*batch, self.dim, self.dim))
        return self(_natural(spread(shrinkage), mean, spread(dof), scale))

    def describe(self, natural: tuple) -> dict[str, Array]:
        """Returns mean m, shrinkage κ, dof ν and inverse_scale Ψ."""
        shrinkage, mean, dof, scale = self._described(natural)
        return {"mean": mean, "shrinkage": shrinkage, "dof": dof, "inverse_scale": scale}

    def _described(self, natural: tuple) -> tuple[Array, Array, Array, Array]:
        shrinkage, pull, exponent, scale = natural
        mean = pull / shrinkage[..., None]
        return shrinkage, mean, exponent + self.dim, scale - _outer(pull, mean)

    def log_normalizer(self, natural: tuple) -> Scalar:
        shrinkage, _, dof, scale = self._described(natural)
        gaussian = 0.5 * self.dim * (math.log(2 * math.pi) - jnp.log(shrinkage))
        return wishart.log_normalizer(dof, scale) + gaussian

    def mean(self, natural: tuple) -> tuple:
        shrinkage, mean, dof, scale = self._described(natural)
        precision = wishart.mean_precision(dof, scale)
        pull = matvec(precision, mean)
        square = jnp.sum(mean * pull) + self.dim / shrinkage
        half = 0.5 * wishart.mean_log_determinant(dof, scale)
        return -0.5 * square, pull, half, -0.5 * precision

    def entropy(self, natural: tuple) -> Scalar:
        """Returns the entropy, which does not depend on m."""
        shrinkage, mean, dof, scale = self._described(natural)
        return self.bound(_natural(shrinkage, 0 * mean, dof, scale), _nothing(natural))

    def statistics(self, z: tuple) -> tuple:
        mean, precision = z
        pull = matvec(precision, mean)
        half = 0.5 * wishart.log_determinant(precision)
        return -0.5 * jnp.sum(mean * pull), pull, half, -0.5 * precision

    def sample(self, natural: tuple, key: Key) -> tuple:
        shrinkage, mean, dof, scale = self._described(natural)
        keys = jax.random.split(key)
        precision = wishart.draw(keys[0], dof, scale)
        noise = jax.random.normal(keys[1], mean.shape, mean.dtype) / jnp.sqrt(shrinkage)
        return mean + matvec(root_of_inverse(precision), noise), precision

    def mode(self, natural: tuple) -> tuple:
        """Returns (m, (ν − D) Ψ⁻¹)."""
        _, mean, _, scale = self._described(natural)
        return mean, jnp.maximum(natural[2], 0) * invert_positive(scale)

    def from_network(self, output: Array) -> tuple:
        mean, (log_shrinkage, log_dof) = output[: self.dim], output[self.dim : self.dim + 2]
        root = wishart.triangle(output[self.dim + 2 :], self.dim)
        dof = jnp.exp(log_dof) + self.dim - 1
        return _natural(jnp.exp(log_shrinkage), mean, dof, matmul(root, root.T))

    def center(self, natural):
        _, mean, dof, scale = self._described(natural)
        return mean, wishart.mean_precision(dof, scale)

    def near(self, point):
        mean, precision = point
        one = jnp.ones(mean.shape[:-1], mean.dtype)
        scale = (self.dim + 1) * invert_positive(precision)
        return _natural(one, mean, (self.dim + 1) * one, scale)

    def nodes(self, natural):
        """Returns the 4 D pairs of m ± √D Lᵢ with L Lᵀ = (κ E Λ)⁻¹, and E Λ (1 ± s).

        The average of μᵀ Λ μ is mᵀ E Λ m + tr(E Λ (κ E Λ)⁻¹), as it is to be.
        """
        shrinkage, mean, dof, scale = self._described(natural)
        size = self.dim / (dof * shrinkage)
        root = jnp.sqrt(size)[..., None, None] * cholesky(scale)
        steps = jnp.moveaxis(root, -1, 0)
        means = jnp.concatenate([mean + steps, mean - steps])
        precisions = wishart.scaled_means(dof, scale)
        return jnp.concatenate([means, means]), jnp.repeat(precisions, 2 * self.dim, 0)

    def read_about(self, function: Callable[[Any], Scalar], point: PyTree) -> tuple:
        r"""Reads f = −½κ μᵀΛμ + rᵀΛμ + ½n log|Λ| − ½ tr SΛ.

        In μ the gradient is Λ(r − κμ), and its derivative along e₁ is −κΛe₁. In Λ it is that of a Wishart with
        ½ S' = ½ S − sym(r μᵀ) + ½κ μμᵀ.
        """
        mean, precision = point
        first = jnp.zeros_like(mean).at[..., 0].set(1)
        of_mean = jax.grad(lambda mean: function((mean, precision)))
        slope, change = jax.jvp(of_mean, (mean,), (first,))
        shrinkage = -change[..., 0] / precision[..., 0, 0]
        pull = matvec(invert_positive(precision), slope) + shrinkage[..., None] * mean
        exponent, scale = wishart.read_precision(lambda value: function((mean, value)), precision)
        cross = _outer(pull, mean)
        scale = scale + cross + cross.mT - shrinkage[..., None, None] * _outer(mean, mean)
        return shrinkage, pull, exponent, scale

    def to_unconstrained(self, point):
        mean, precision = point
        return jnp.concatenate([mean, wishart.unconstrained_triangle(cholesky(precision))], -1)

    def from_unconstrained(self, free):
        root = wishart.triangle(free[..., self.dim :], self.dim)
        return free[..., : self.dim], matmul(root, root.mT)

    def origin(self, dtype):
        return jnp.zeros(self.dim, dtype), jnp.eye(self.dim, dtype=dtype)


def _outer(a: Array, b: Array) -> Array:
    return a[..., :, None] * b[..., None, :]


def _natural(shrinkage: Array, mean: Array, dof: Array, scale: Array) -> tuple:
    pull = shrinkage[..., None] * mean
    return shrinkage, pull, dof - mean.shape[-1], scale + _outer(pull, mean)


def _nothing(natural: tuple) -> tuple:
    return jax.tree.map(jnp.zeros_like, natural)
