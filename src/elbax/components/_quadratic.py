r"""Log-densities of K normals as quadratics in x, in three forms.

All use the coordinates `count`, h (`linear`) and J (`precision`), taken about each component's mean μ and in units
of its covariance, $\Sigma = W^{-1} W^{-\top}$: with z = W(x − μ),

    log p = count + h·z − ½ zᵀJz    at h = 0 and J = I.
"""

import math

import jax
import jax.numpy as jnp

from .._math.algebra import diagonal, matmul, vdot
from .._math.linear_algebra import cholesky, invert_triangle
from .._math.triangularize import triangularize
from .._reference import Reference
from .._types import Array, Callable, Float, PyTree
from ..data._incomplete_rows import IncompleteRows
from ._covariance import AbstractCovariance


def over_components(
    function: Callable, axis: int | None, natural: PyTree, root: str = "inverse"
) -> PyTree:
    """Returns function(count, h, J, μ, W) for every component; `root` selects C in place of W.

    `axis` is None if the components share one covariance.
    """
    about = natural["about"].value
    return jax.vmap(function, in_axes=(0, 0, axis, 0, axis))(
        natural["count"], natural["linear"], natural["precision"], about["mean"], about[root]
    )


def differences(
    structure: AbstractCovariance, axis: int | None, natural: PyTree, x: Float[Array, " D"]
) -> Float[Array, " K"]:
    """Computes the quadratic from differences x − μ: accurate at any offset, spread and correlation."""

    def one(count, linear, precision, mean, inverse):
        z = structure.apply(inverse, x - mean)
        return count + vdot(linear, z) - 0.5 * structure.quadratic(precision, z)

    return over_components(one, axis, natural)


def expand(structure: AbstractCovariance, axis: int | None, natural: PyTree) -> PyTree:
    """Returns the coefficients of 1, v and its products, v = U⁻¹(x − c), for one c and U: computed once per pass.

    U is `average_unit`, so that the columns of v are about uncorrelated and less cancels. With m = U⁻¹(μ − c),
    V = WU and A = VᵀJV: log p = [count − h·Vm − ½ mᵀAm] + (Vᵀh + Am)·v − ½ vᵀAv.
    """
    about = natural["about"].value
    # The density does not depend on the center and the unit, so no derivative is taken.
    center = jax.lax.stop_gradient(about["center"])
    unit = jax.lax.stop_gradient(average_unit(structure, axis, about["factor"]))
    to_unit = None if unit is None else structure.inverse(unit)

    def one(count, linear, precision, mean, inverse):
        from_center = in_unit(structure, to_unit, mean - center)
        # Factors apply to each other as to vectors.
        inverse = inverse if unit is None else structure.apply(inverse, unit)
        form = structure.congruence(inverse, precision)
        pull = structure.apply_transposed(inverse, linear)
        push = 0.5 * jax.grad(structure.quadratic, 1)(form, from_center)  # A m
        constant = count - vdot(pull, from_center) - 0.5 * vdot(push, from_center)
        curvature = -0.5 * jnp.atleast_1d(structure.coefficients(form))
        return constant, jnp.concatenate([pull + push, curvature])

    constant, coefficients = over_components(one, axis, natural)
    about = Reference({"center": center, "to_unit": to_unit})
    return {"constant": constant, "coefficients": coefficients, "about": about}


def average_unit(structure: AbstractCovariance, axis: int | None, factors: Array) -> Array | None:
    """Returns `structure.average`; `axis` is None if `factors` is the one of all components."""
    return structure.average(factors[None] if axis is None else factors)


def in_unit(structure: AbstractCovariance, to_unit: Array | None, offset: Array) -> Array:
    """Returns U⁻¹ applied to an offset, or to a factor."""
    return offset if to_unit is None else structure.apply(to_unit, offset)


def expanded(
    structure: AbstractCovariance, coefficients: PyTree, x: Float[Array, " D"]
) -> Float[Array, " K"]:
    """Evaluates the coefficients of `expand`: a matrix product over many rows; cancels far from the center."""
    about = jax.lax.stop_gradient(coefficients["about"].value)
    offset = in_unit(structure, about["to_unit"], x - about["center"])
    squares = jnp.atleast_1d(structure.monomials(offset))
    features = jnp.concatenate([offset, squares])
    return coefficients["constant"] + matmul(features, coefficients["coefficients"].T)


def marginal_by_precision(
    structure: AbstractCovariance, axis: int | None, natural: PyTree, x: IncompleteRows
) -> tuple[Float[Array, " K"], Float[Array, " K"]]:
    """Computes `marginal` by completing the square in the missing columns, for covariances not nearly singular.

    With v = x − μ, A = WᵀJW, a = Wᵀh and o, m the observed and missing columns, it is
    count + a·v_o − ½ v_oᵀA v_o + ½ uᵀ A_mm⁻¹ u with u = (a − A v_o)_m, and ½ log |2π A_mm⁻¹|. The difference of
    the last two squares cancels as expanded squares do. It takes a few products per pattern, a third of the time.
    """
    dim = x.values.shape[-1]
    missing = ~x.observed
    both = missing[:, None] & missing

    def one(count, linear, precision, mean, inverse):
        eye = jnp.eye(dim, dtype=mean.dtype)
        # Columns in units of their standard deviations given all others, so that A is of order one.
        weights = structure.dense(inverse, dim)
        unit = 1 / jnp.linalg.norm(weights, axis=0)
        weights = weights * unit
        form = matmul(weights.T, matmul(structure.dense(precision, dim), weights))
        pull = matmul(linear, weights)
        v = jnp.where(x.observed, (x.values - mean) / unit, 0)
        factor = cholesky(jnp.where(both, form, eye))
        push = matmul(v, form)
        whitened = matmul(invert_triangle(factor), jnp.where(missing, pull - push, 0))
        exponent = count + vdot(pull, v) - 0.5 * vdot(push, v) + 0.5 * vdot(whitened, whitened)
        units = jnp.where(missing, jnp.log(unit) + 0.5 * math.log(2 * math.pi), 0)
        return exponent, jnp.sum(units) - jnp.sum(jnp.log(diagonal(factor)))

    return over_components(one, axis, natural)


def marginal(
    structure: AbstractCovariance, axis: int | None, natural: PyTree, x: IncompleteRows
) -> tuple[Float[Array, " K"], Float[Array, " K"]]:
    """Returns the log of each density's integral over the missing columns, as (its exponent, the log-volume).

    With C = W⁻¹ and the observed rows first, C Θ = L is lower triangular (Θ orthogonal). In t = Θᵀz the observed
    columns fix the first numbers, L_oo t_o = (x − μ)_o, and the others are free; dx_m = |L_mm| dt_m. With J' =
    ΘᵀJΘ, h' = Θᵀh and u = (h' − J't)_m at t_m = 0 it is count + h'·t − ½ tᵀJ't + ½ uᵀ J'_mm⁻¹ u, and log |L_mm| +
    ½ log |2π J'_mm⁻¹|. At J = I nothing cancels, however close to singular the covariance is, because the
    conditional densities of x_m, which are then narrow, are not formed. What does not depend on the values is
    computed once for all rows that share `observed`.
    """
    dim = x.values.shape[-1]
    order = jnp.argsort(~x.observed)
    missing = jnp.arange(dim) >= jnp.sum(x.observed)
    both = missing[:, None] & missing

    def one(count, linear, precision, mean, factor):
        eye = jnp.eye(dim, dtype=mean.dtype)
        triangle, turn = triangularize(structure.dense(factor, dim)[order], dim)
        form = matmul(turn.T, matmul(structure.dense(precision, dim), turn))
        pull = matmul(linear, turn)
        solve = jnp.where(missing[:, None] | missing, 0, invert_triangle(triangle))
        root = invert_triangle(cholesky(jnp.where(both, form, eye)))
        # Multiply first what does not depend on the values: rows often share all else.
        push = matmul(solve.T, form)
        t = jnp.where(x.observed, x.values - mean, 0)[order]
        pushed = matmul(t, push)
        whitened = matmul(root, jnp.where(missing, pull - pushed, 0))
        t = matmul(solve, t)
        exponent = count + vdot(pull, t) - 0.5 * vdot(pushed, t) + 0.5 * vdot(whitened, whitened)
        units = jnp.log(diagonal(triangle)) + 0.5 * math.log(2 * math.pi)
        units = units + jnp.log(diagonal(root))
        return exponent, jnp.sum(jnp.where(missing, units, 0))

    return over_components(one, axis, natural, "factor")
