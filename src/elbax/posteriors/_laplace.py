"""Laplace's approximation: a normal distribution at the mode."""

import equinox as eqx
import jax
import jax.numpy as jnp

from .._arguments import check_count, kind_of
from .._math.algebra import matmul
from .._math.linear_algebra import eigh
from .._program import program
from .._types import Any, Key, PyTree
from ..families import Distribution, Gaussian
from ._exact import check_target, Exact
from ._posterior import AbstractPosterior, looks_first


class Laplace(AbstractPosterior):
    r"""Approximates p(z | x) by $q(z) = N(\hat z, J^{-1})$, for any log-joint of a `Gaussian` latent.

    $\hat z = \arg\max_z \log p_\theta(x, z)$ is the mode, and $J = -\nabla_z^2 \log p_\theta(x, \hat z)$ the
    curvature there. It is exact if the log-joint is quadratic in z. Newton's method finds the mode from z = 0.
    Each step divides by the absolute values of the curvature's eigenvalues, and takes the best of the lengths 1,
    ½, …, 2⁻¹¹ and 0. The ELBO of q is a lower bound of the evidence. Laplace's approximation of the evidence is
    not a bound, and is not reported.

    **Arguments:**

    - `target`: `Exact(model, params)`: the model at a snapshot of θ, which `LaplaceEStep` keeps up to date. Its
        conditional need not be known.
    - `num_steps`: the number of Newton steps.

    **Raises** `TypeError` for a model whose latent is not a `Gaussian`.

    ```python
    >>> import elbax, jax, jax.numpy as jnp
    >>> def log_joint(params, x, z):  # a Poisson count with a normal log-rate
    ...     return jax.scipy.stats.norm.logpdf(z).sum() + x * z[0] - jnp.exp(z[0])
    >>> model = elbax.Model(log_joint, elbax.Gaussian(1))
    >>> q = elbax.posteriors.Laplace(elbax.Exact(model, ()))(jnp.array(3.0))
    >>> print(f"{q.mode()[0]:.3f}")
    0.792

    ```
    """

    target: Exact
    num_steps: int = eqx.field(static=True, default=20)

    def __check_init__(self):
        check_target("Laplace", self.target)
        check_count("Laplace", num_steps=self.num_steps)
        model = self.target.model
        if not isinstance(model.latent, Gaussian):
            raise TypeError(
                f"Laplace: the latent must be a Gaussian(dim), but the model has {kind_of(model.latent)}."
            )

    @looks_first
    @program
    def __call__(self, x: PyTree, *, key: Key | None = None) -> Distribution:
        model, natural = self.target.model, self.target.prepared
        numbers = [leaf for leaf in jax.tree.leaves((natural, x)) if eqx.is_inexact_array(leaf)]
        log_joint = lambda z: model.log_joint_at(natural, x, z)

        def curvature(z):
            values, vectors = eigh(-jax.hessian(log_joint)(z))
            size = jnp.maximum(jnp.abs(values), 1e-6 * jnp.max(jnp.abs(values)))
            return size, vectors

        def step(z, _):
            size, vectors = curvature(z)
            move = matmul(vectors, matmul(vectors.T, jax.grad(log_joint)(z)) / size)
            # All lengths are tried at once; of equal values the longest step wins.
            lengths = jnp.append(0.5 ** jnp.arange(12.0), 0.0).astype(z.dtype)
            values = jax.vmap(lambda t: log_joint(z + t * move))(lengths)
            return z + lengths[
                jnp.argmax(jnp.where(jnp.isnan(values), -jnp.inf, values))
            ] * move, None

        family: Any = model.latent
        start = jnp.zeros(family.dim, numbers[0].dtype if numbers else float)
        mode, _ = jax.lax.scan(step, start, length=self.num_steps)
        size, vectors = curvature(mode)
        precision = matmul(vectors * size, vectors.T)
        return family((matmul(precision, mode), precision))
