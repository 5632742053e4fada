"""A prior on a mean and a covariance."""

import math
from typing import Any

import equinox as eqx
import jax.numpy as jnp
import numpy as np

from .._arguments import check_count, check_not_negative, check_positive
from .._types import Array
from ..data._check import check_table


class NormalInverseWishart(eqx.Module):
    r"""A prior on a mean and a covariance, $N(\mu; m, \Sigma / \kappa)\, \mathrm{IW}(\Sigma; \Psi, \nu)$.

    As pseudo-data: κ rows at m, and ν + dim + 1 rows of scatter Ψ. Its mode is at μ = m and Σ = Ψ / (ν + dim + 2).

    **Arguments:**

    - `mean`: m, a vector of shape `(dim,)` or one number for all columns.
    - `shrinkage`: κ; 0 leaves the mean without a prior.
    - `dof`: ν, more than dim − 1.
    - `scale`: Ψ, a matrix of shape `(dim, dim)`, or a number for that multiple of the identity.

    They are stored as static numbers, because a model holds no arrays.

    **Raises** `ValueError` for a `scale` that is not positive definite, or numbers out of range.

    ```python
    >>> import elbax
    >>> x = elbax.datasets.old_faithful()
    >>> prior = elbax.priors.NormalInverseWishart.from_data(x, num_components=2)
    >>> component = elbax.components.Normal("full", prior=prior)

    ```
    """

    mean: tuple | float = eqx.field(static=True)
    shrinkage: float = eqx.field(static=True)
    dof: float = eqx.field(static=True)
    scale: tuple | float = eqx.field(static=True)

    def __init__(self, mean: Any, shrinkage: float, dof: float, scale: Any):
        check_not_negative("NormalInverseWishart", shrinkage=shrinkage)
        check_positive("NormalInverseWishart", dof=dof)
        self.mean = _frozen(mean, "mean", 1)
        self.scale = _frozen(scale, "scale", 2)
        self.shrinkage, self.dof = float(shrinkage), float(dof)
        size = np.linalg.eigvalsh(np.atleast_2d(np.asarray(self.scale))).min()
        if not size > 0:
            raise ValueError(
                "NormalInverseWishart: scale must be a positive definite matrix or a positive number; "
                f"its smallest eigenvalue is {size:g}."
            )

    @classmethod
    def from_data(cls, x: Array, num_components: int) -> "NormalInverseWishart":
        """Returns the weak prior of Fraley and Raftery (2007): κ = 0.01, ν = dim + 2, Ψ = cov(x) / K^(2 / dim).

        **Raises** `ValueError` for anything but a complete table without constant columns.
        """
        who = "NormalInverseWishart.from_data"
        check_count(who, num_components=num_components)
        table = np.asarray(x, float)
        check_table(table, np.ones(len(table)), who)
        dim = table.shape[1]
        scale = np.cov(table.T).reshape(dim, dim) / num_components ** (2 / dim)
        return cls(table.mean(0), 0.01, dim + 2.0, scale)

    def center(self, dim: int, dtype: Any) -> Array:
        """Returns m, shape `(dim,)`."""
        return jnp.broadcast_to(jnp.asarray(self.mean, dtype), (dim,))

    def root(self, dim: int) -> np.ndarray:
        """Returns L with L Lᵀ = Ψ."""
        scale = np.asarray(self.scale)
        return np.linalg.cholesky(scale * np.eye(dim) if scale.ndim == 0 else scale)

    def log_density_of_mean(
        self, distance: Array, log_determinant: Array, dim: int
    ) -> Array | float:
        """Returns log N(μ; m, Σ/κ), in nats, from (μ − m)ᵀ Σ⁻¹ (μ − m) and log |Σ|."""
        if self.shrinkage == 0:
            return 0.0
        constant = 0.5 * dim * math.log(self.shrinkage / (2 * math.pi))
        return constant - 0.5 * (log_determinant + self.shrinkage * distance)

    def log_density_of_covariance(self, trace: Array, log_determinant: Array, dim: int) -> Array:
        """Returns log IW(Σ; Ψ, ν), in nats, from tr(Ψ Σ⁻¹) and log |Σ|."""
        if self.dof <= dim - 1:
            raise ValueError(
                f"NormalInverseWishart: dof must exceed dim - 1 = {dim - 1}, got {self.dof}."
            )
        log_scale = 2 * float(np.sum(np.log(np.diagonal(self.root(dim)))))
        constant = (
            0.5 * self.dof * (log_scale - dim * math.log(2))
            - 0.25 * dim * (dim - 1) * math.log(math.pi)
            - sum(math.lgamma(0.5 * (self.dof - i)) for i in range(dim))
        )
        return constant - 0.5 * ((self.dof + dim + 1) * log_determinant + trace)


def _frozen(value: Any, name: str, ndim: int) -> tuple | float:
    try:
        array = np.asarray(value, float)
    except (TypeError, ValueError):
        raise TypeError(f"NormalInverseWishart: {name} must hold numbers, got {value!r}.") from None
    if array.ndim not in (0, ndim):
        raise ValueError(
            f"NormalInverseWishart: {name} must be a number or have {ndim} axes, got shape {array.shape}."
        )
    if not np.all(np.isfinite(array)):
        raise ValueError(f"NormalInverseWishart: {name} must be finite.")
    if array.ndim == 2:
        return tuple(map(tuple, array.tolist()))
    return tuple(array.tolist()) if array.ndim else float(array)
