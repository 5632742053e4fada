"""A real vector with a Gaussian distribution of full covariance."""

import math
from typing import ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from .._arguments import check_count
from .._math.algebra import matmul, matvec, vdot
from .._math.linear_algebra import cholesky, invert_positive, invert_triangle, root_of_inverse
from .._types import Any, Array, Callable, Float, Key, Scalar
from ._conjugate import AbstractConjugateFamily
from ._family import Distribution


class Gaussian(AbstractConjugateFamily):
    r"""A Gaussian latent $z \in R^d$ of any covariance, with $t(z) = (z, -\tfrac12 z z^\top)$.

    The natural parameters are (h, J), of shapes `(dim,)` and `(dim, dim)`. J is the precision and $h = J m$:
    $A(h, J) = \tfrac12 h^\top J^{-1} h - \tfrac12 \log|J| + \tfrac d2 \log 2\pi$.

    An encoder returns either 2·dim numbers or dim + dim (dim + 1) / 2. The first are the mean and the log standard
    deviations (a diagonal covariance). The second are the mean and the lower triangle of the covariance's Cholesky
    factor, with the logarithms of its diagonal. Such a q keeps its mean and factor, so that its draws, entropy and
    bound need no factorization. `DiagonalGaussian` is cheaper if a diagonal covariance is enough.

    ```python
    >>> import elbax, jax.numpy as jnp
    >>> q = elbax.Gaussian(1)((jnp.array([2.0]), jnp.array([[4.0]])))
    >>> print(q.mode(), q.entropy().round(4))
    [0.5] 0.7258

    ```
    """

    event_ndim: ClassVar[int] = 1

    dim: int = eqx.field(static=True)

    def __check_init__(self):
        check_count("Gaussian", dim=self.dim)

    @property
    def event_shape(self) -> Any:
        return (self.dim,)

    @property
    def natural_shapes(self) -> Any:
        return (self.dim,), (self.dim, self.dim)

    def batch_ndim(self, natural: tuple) -> int:
        return jnp.ndim(natural[0]) - 1

    def log_normalizer(self, natural: tuple) -> Scalar:
        linear, precision = natural
        factor = cholesky(precision)
        # Invert, then multiply: data often share J, and the inverse is then computed once for all of them.
        whitened = matmul(invert_triangle(factor), linear)
        return (
            0.5 * vdot(whitened, whitened)
            - jnp.sum(jnp.log(jnp.diagonal(factor)))
            + 0.5 * self.dim * math.log(2 * math.pi)
        )

    def _moments(self, natural: tuple) -> tuple[Array, Array]:
        linear, precision = natural
        covariance = invert_positive(precision)
        return matmul(covariance, linear), covariance

    def mean(self, natural: tuple) -> tuple[Float[Array, " d"], Float[Array, "d d"]]:
        mean, covariance = self._moments(natural)
        return mean, -0.5 * (covariance + jnp.outer(mean, mean))

    def entropy(self, natural: tuple) -> Scalar:
        half = jnp.sum(jnp.log(jnp.diagonal(cholesky(natural[1]))))
        return 0.5 * self.dim * math.log(2 * math.pi * math.e) - half

    def statistics(self, z: Float[Array, " d"]) -> tuple[Float[Array, " d"], Float[Array, "d d"]]:
        return z, -0.5 * jnp.outer(z, z)

    def sample(self, natural: tuple, key: Key) -> Float[Array, " d"]:
        linear, precision = natural
        # J = C Cᵀ, so that C⁻ᵀ (C⁻¹ h + u) has mean J⁻¹ h and covariance J⁻¹.
        inverse = invert_triangle(cholesky(precision))
        noise = jax.random.normal(key, (self.dim,), linear.dtype)
        return matmul(matmul(inverse, linear) + noise, inverse)

    def mode(self, natural: tuple) -> Float[Array, " d"]:
        return self._moments(natural)[0]

    def from_network(self, output: Float[Array, " size"]) -> tuple[Array, Array]:
        return self.distribution(output).natural

    def distribution(self, output: Float[Array, " size"]) -> "GaussianByFactor":
        diagonal, full = 2 * self.dim, self.dim + self.dim * (self.dim + 1) // 2
        if output.shape not in ((diagonal,), (full,)):
            raise ValueError(
                f"Gaussian({self.dim}): an encoder must return {diagonal} numbers (mean, log standard "
                f"deviations) or {full} numbers (mean, lower triangle of the covariance's Cholesky factor with "
                f"log diagonal); got shape {output.shape}."
            )
        mean, rest = output[: self.dim], output[self.dim :]
        if output.shape == (diagonal,):
            factor = jnp.diag(jnp.exp(rest))
            inverse = jnp.diag(jnp.exp(-rest))
        else:
            raw = jnp.zeros((self.dim, self.dim), output.dtype)
            raw = raw.at[np.tril_indices(self.dim)].set(rest)
            factor = jnp.tril(raw, -1) + jnp.diag(jnp.exp(jnp.diagonal(raw)))
            inverse = invert_triangle(factor)
        # Under `jit`, what is not used is not computed.
        precision = matmul(inverse.T, inverse)
        return GaussianByFactor((matmul(precision, mean), precision), self, mean, factor)

    def read(
        self, function: Callable[[Any], Scalar], dtype: Any = float
    ) -> tuple[tuple[Array, Array], Scalar]:
        """Expands to second order at the origin: h = ∇f(0), J = −∇²f(0), c = f(0)."""
        origin = jnp.zeros(self.dim, dtype)
        constant, linear = jax.value_and_grad(function)(origin)
        return (linear, -jax.hessian(function)(origin)), constant

    def from_description(self, *, mean: Any, precision: Any) -> Distribution:
        """Returns N(mean, precision⁻¹), one for each entry of leading axes."""
        mean, precision = jnp.asarray(mean, float), jnp.asarray(precision, float)
        batch = jnp.broadcast_shapes(mean.shape[:-1], precision.shape[:-2])
        precision = jnp.broadcast_to(precision, (*batch, self.dim, self.dim))
        return self((matvec(precision, jnp.broadcast_to(mean, (*batch, self.dim))), precision))

    def center(self, natural: tuple) -> Array:
        # By the factor that `nodes` takes, which is then computed once.
        root = root_of_inverse(natural[1])
        return matvec(root, matvec(root.mT, natural[0]))

    def near(self, point: Array) -> tuple[Array, Array]:
        identity = jnp.eye(self.dim, dtype=point.dtype)
        return point, jnp.broadcast_to(identity, (*point.shape, self.dim))

    def nodes(self, natural: tuple) -> Array:
        """Returns m ± √d Lᵢ with L Lᵀ = J⁻¹: they have the mean and the covariance of q."""
        center = self.center(natural)
        steps = jnp.moveaxis(math.sqrt(self.dim) * root_of_inverse(natural[1]), -1, 0)
        return jnp.concatenate([center + steps, center - steps])

    def read_about(self, function: Callable[[Any], Scalar], point: Array) -> tuple[Array, Array]:
        """At the mean of q nothing cancels. Entries do not interact: one product has a column of each."""
        gradient = jax.grad(function)

        def column(unit):
            return jax.jvp(gradient, (point,), (jnp.broadcast_to(unit, point.shape),))[1]

        columns = jax.vmap(column, out_axes=-1)(jnp.eye(self.dim, dtype=point.dtype))
        return gradient(point) - matvec(columns, point), -columns

    def to_unconstrained(self, point: Array) -> Array:
        return point

    def from_unconstrained(self, free: Array) -> Array:
        return free

    def origin(self, dtype: Any) -> Array:
        return jnp.zeros(self.dim, dtype)


class GaussianByFactor(Distribution):
    """N(m, L Lᵀ) that stores the mean m and the factor L."""

    location: Float[Array, "*batch d"]
    factor: Float[Array, "*batch d d"]

    def mean(self):
        second = matmul(self.factor, self.factor.T) + jnp.outer(self.location, self.location)
        return self.location, -0.5 * second

    def mode(self):
        return self.location

    def sample(self, key):
        noise = jax.random.normal(key, self.location.shape, self.location.dtype)
        return self.location + matmul(self.factor, noise)

    def entropy(self):
        dim = self.location.size
        return jnp.sum(jnp.log(jnp.diagonal(self.factor))) + 0.5 * dim * math.log(
            2 * math.pi * math.e
        )

    def expect(self, function, key=None):
        return function(self.sample(key))

    def bound(self, potentials):
        """Returns E_q[⟨λ, t(z)⟩] + H(q), with the quadratic form in m and the trace computed separately."""
        linear, form = potentials
        pull = linear - 0.5 * matmul(form, self.location)
        spread = vdot(self.factor, matmul(form, self.factor))
        return vdot(pull, self.location) - 0.5 * spread + self.entropy()

    def log_prob(self, z):
        half = matmul(invert_triangle(self.factor), z - self.location)
        dim = self.location.size
        # log N = −½ |L⁻¹(z − m)|² + d/2 − H.
        return 0.5 * (dim - vdot(half, half)) - self.entropy()
