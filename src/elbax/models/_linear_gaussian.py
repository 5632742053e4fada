r"""One linear-Gaussian conditional, $N(y; A u + b, L L^\top)$, and its part of EM.

In units of its own noise, $\epsilon = L^{-1}(y - A u - b)$, the log-density is $c + l^\top \epsilon +
\epsilon^\top B u - \tfrac12 \epsilon^\top P \epsilon + e^\top u - \tfrac12 u^\top E u$ at c = l = B = e = E = 0
and P = I. These are its coordinates. Any value of them is again such a conditional, times a Gaussian factor in u.
A filter's log-normalizer is thus a function of them, and its gradient is the expected statistics, accurate in
float32 however small the noise is. Where L is singular, ε is still noise, of which y shows only a part.
"""

import equinox as eqx
import jax
import jax.numpy as jnp

from .._math.algebra import diagonal, matmul, vdot
from .._math.linear_algebra import root_of_inverse
from .._math.triangularize import invert_noise
from .._reference import Reference
from .._types import Any, Array, PyTree, Scalar
from ..components._covariance import AbstractCovariance, Spherical
from ..components._linear_regression import solve_masked
from ..components._unit import floors
from ..priors import NormalInverseGamma, NormalInverseWishart


class LinearGaussian(eqx.Module):
    """A conditional with params `{"matrix": (p, k), "offset": (p,), "scale": array of the noise's structure}`.

    A plain normal has k = 0 inputs and no matrix. The offset is optional. `"unit"` is what a floor is relative to.
    EM takes two kinds of `prior`: a `NormalInverseGamma` on rows, where their noise is independent, and a
    `NormalInverseWishart` for a plain normal.
    """

    noise: AbstractCovariance
    prior: Any = None

    def root(self, params: PyTree, dim: int) -> Array:
        """Returns L, lower triangular."""
        return self.noise.dense(self.noise.factor(params["scale"], dim), dim)

    def natural(self, params: PyTree, dim: int, inputs: int) -> PyTree:
        root = self.root(params, dim)
        zeros = lambda *shape: jnp.zeros(shape, root.dtype)
        return {
            "count": zeros(),
            "linear": zeros(dim),
            "cross": zeros(dim, inputs),
            "precision": jnp.eye(dim, dtype=root.dtype),
            "input": zeros(inputs),
            "square": zeros(inputs, inputs),
            "about": Reference(
                {
                    "matrix": params.get("matrix", zeros(dim, inputs)),
                    "offset": params.get("offset", zeros(dim)),
                    "root": root,
                }
            ),
        }

    def rebase(self, natural: PyTree, params: PyTree, dim: int, inputs: int) -> PyTree:
        """Inserts ε = B ε' + D u + b with B = L⁻¹L', D = L⁻¹(A' − A) and b = L⁻¹(b' − b) of the new params.

        The measure changes too, dε = |B| dε'. Where L is singular, new params differ within its range.
        """
        about = natural["about"].value
        new = self.natural(params, dim, inputs)["about"]
        inverse = invert_noise(about["root"])
        turn = matmul(inverse, new.value["root"])
        tilt = matmul(inverse, new.value["matrix"] - about["matrix"])
        shift = matmul(inverse, new.value["offset"] - about["offset"])
        linear, cross = natural["linear"], natural["cross"]
        # It enters symmetrically, so that its statistic is symmetric.
        precision = 0.5 * (natural["precision"] + natural["precision"].T)
        pushed, rest = matmul(precision, shift), cross - matmul(precision, tilt)
        own = diagonal(turn)
        volume = jnp.sum(jnp.log(jnp.where(own > 0, own, 1)))
        mixed = matmul(tilt.T, cross)
        return {
            "count": natural["count"] + vdot(linear, shift) - 0.5 * vdot(pushed, shift) + volume,
            "linear": matmul(turn.T, linear - pushed),
            "cross": matmul(turn.T, rest),
            "precision": matmul(turn.T, matmul(precision, turn)),
            "input": natural["input"] + matmul(tilt.T, linear - pushed) + matmul(cross.T, shift),
            "square": natural["square"]
            - mixed
            - matmul(cross.T, tilt)
            + matmul(tilt.T, matmul(precision, tilt)),
            "about": new,
        }

    def conditional(self, natural: PyTree) -> dict[str, Array]:
        """Returns the conditional with these coordinates: matrix, offset, root, and the factor in u."""
        about = natural["about"].value
        shrunk = root_of_inverse(natural["precision"])
        covariance = matmul(shrunk, shrunk.T)
        cross, linear = matmul(covariance, natural["cross"]), matmul(covariance, natural["linear"])
        return {
            "matrix": about["matrix"] + matmul(about["root"], cross),
            "offset": about["offset"] + matmul(about["root"], linear),
            "root": matmul(about["root"], shrunk),
            "linear": natural["input"] + matmul(natural["cross"].T, linear),
            "precision": natural["square"] - matmul(natural["cross"].T, cross),
            "constant": natural["count"]
            + 0.5 * vdot(natural["linear"], linear)
            + jnp.sum(jnp.log(diagonal(shrunk))),
        }

    def maximize(
        self, statistics: PyTree, params: PyTree, free: PyTree, dim: int, floor: float
    ) -> PyTree:
        """Returns the params of highest expected log-density and prior: least squares, then the residual noise.

        With a mask on entries of the matrix the least squares are weighted by the previous noise.
        """
        of_offset = statistics["count"]
        if self.prior is not None:
            statistics, of_offset = self._with_prior(statistics, params, dim)
        count, linear, cross = statistics["count"], statistics["linear"], statistics["cross"]
        scatter = -(statistics["precision"] + statistics["precision"].T)
        square = -(statistics["square"] + statistics["square"].T)
        root = self.root(params, dim)
        inputs = cross.shape[1]
        names = [name for name in ("matrix", "offset") if name in params]
        # (A, b) as one matrix that acts on (u, 1).
        width = {"matrix": inputs, "offset": 1}
        parts = {"matrix": cross, "offset": linear[:, None]}
        dtype, moved = root.dtype, {}
        seen = count > jnp.finfo(dtype).tiny
        change = jnp.zeros((dim, 0), dtype)
        normal, target = jnp.zeros((0, 0), dtype), jnp.zeros((dim, 0), dtype)
        if names:
            both = jnp.concatenate([square, statistics["input"][:, None]], 1)
            last = jnp.concatenate([statistics["input"], of_offset[None]])
            whole = jnp.concatenate([both, last[None]], 0)
            keep = [i for i in range(inputs + 1) if ("matrix" if i < inputs else "offset") in names]
            normal = whole[jnp.array(keep)][:, jnp.array(keep)]
            target = jnp.concatenate([parts[name] for name in names], 1)
            flags = [_entries(free[name], (dim, width[name])) for name in names]
            if all(flag is True for flag in flags):
                moving = jnp.ones(len(normal), bool)
                change = jax.vmap(lambda row: solve_masked(normal, row, moving))(target)
            elif not all(flag is False for flag in flags):
                masks = [
                    jnp.full((dim, width[n]), f) if isinstance(f, bool) else f
                    for n, f in zip(names, flags)
                ]
                change = _masked(normal, target, root, jnp.concatenate(masks, 1))
            else:
                change = jnp.zeros_like(target)
            change = jnp.where(seen, change, 0)
            step, start = matmul(root, change), 0
            for name in names:
                part = step[:, start : start + width[name]]
                moved[name] = params[name] + (part if name == "matrix" else part[:, 0])
                start += width[name]
        both = matmul(change, target.T)
        moment = scatter - both - both.T + matmul(change, matmul(normal, change.T))
        moment = self._structured(moment)
        if floor:
            weighted = matmul(invert_noise(root), _floor(params, floor))
            moment += self._structured(matmul(weighted, weighted.T))
        safe = jnp.where(seen, count, 1)
        scale = self.noise.rescale(params["scale"], moment / safe, dim)
        return params | moved | {"scale": jnp.where(seen, scale, params["scale"])}

    def _structured(self, moment: Array) -> Array:
        """Returns the mean of S(ε), given that of ε εᵀ."""
        return jnp.sum(
            jax.vmap(self.noise.outer)(jnp.eye(len(moment), dtype=moment.dtype), moment), 0
        )

    def _with_prior(self, statistics: PyTree, params: PyTree, dim: int) -> tuple[PyTree, Scalar]:
        """Returns the statistics with the prior's pseudo-data, and how many data the offset has."""
        root, count = self.root(params, dim), statistics["count"]
        inverse, dtype = invert_noise(root), root.dtype
        offset = params.get("offset", jnp.zeros(dim, dtype))
        if isinstance(self.prior, NormalInverseWishart):
            prior = self.prior
            # For the mode: N(m; ·, V/κ) has a factor |V|^(−1/2), IW(V; Ψ, ν) the power −(ν + D + 1)/2.
            more, weight = prior.dof + dim + 2, jnp.asarray(prior.shrinkage, dtype)
            gap = matmul(inverse, prior.center(dim, dtype) - offset)
            scale = matmul(inverse, jnp.asarray(prior.root(dim), dtype))
            own = matmul(scale, scale.T) + weight * jnp.outer(gap, gap)
            matrix = jnp.zeros((dim, 0), dtype)
            precisions = jnp.zeros(0, dtype)
        else:
            weight, precisions = self._row_precisions(params)
            width = precisions.size + ("offset" in params)
            share = 1 / dim if isinstance(self.noise, Spherical) else 1.0
            more = share * (2 * self.prior.shape + 2) + width
            gap, matrix = -matmul(inverse, offset), -matmul(inverse, params["matrix"])
            # Rows are independent: what is off the diagonal is not used.
            square = weight * gap**2 + jnp.sum(precisions * matrix**2, -1)
            own = jnp.diag(square + share * 2 * self.prior.rate * diagonal(inverse) ** 2)
        return statistics | {
            "count": count + more,
            "linear": statistics["linear"] + weight * gap,
            "cross": statistics["cross"] + precisions * matrix,
            "precision": statistics["precision"] - 0.5 * own,
            "square": statistics["square"] - 0.5 * jnp.diag(precisions),
        }, count + weight

    def _row_precisions(self, params: PyTree) -> tuple[Array, Array]:
        """Returns λ of the offset and of the columns of the matrix."""
        if not isinstance(self.prior, NormalInverseGamma):
            raise TypeError(
                f"LinearGaussianStateSpace: the prior of a part is {self.prior!r}, which is for Bayesian only: it "
                "holds params as they are. Use Bayesian(model); or EM with free=, such as "
                'ClosedFormMStep(model, free={"transition": {"matrix": False, "scale": True}, ...}).'
            )
        matrix = params["matrix"]
        found = self.prior.precisions(matrix.shape[1] + 1, matrix.dtype)
        return found[0], found[1:]

    def log_prior(self, params: PyTree, dim: int, floor: float) -> Scalar | float:
        """Returns log p(params) and −½ floor tr (L Lᵀ)⁻¹ D, over the directions that have noise."""
        total = 0.0 if self.prior is None else self._log_density_of_prior(params, dim)
        if not floor:
            return total
        weighted = matmul(invert_noise(self.root(params, dim)), _floor(params, floor))
        return total - 0.5 * vdot(weighted, weighted)

    def _log_density_of_prior(self, params: PyTree, dim: int) -> Scalar:
        prior, root = self.prior, self.root(params, dim)
        if isinstance(prior, NormalInverseWishart):
            inverse = invert_noise(root)
            gap = matmul(inverse, params["offset"] - prior.center(dim, root.dtype))
            scale = matmul(inverse, jnp.asarray(prior.root(dim), root.dtype))
            log_determinant = 2 * jnp.sum(jnp.log(diagonal(root)))
            return prior.log_density_of_mean(
                vdot(gap, gap), log_determinant, dim
            ) + prior.log_density_of_covariance(vdot(scale, scale), log_determinant, dim)
        of_offset, precisions = self._row_precisions(params)
        variance, rows = diagonal(root) ** 2, params["matrix"]
        if "offset" in params:
            rows = jnp.concatenate([params["offset"][:, None], rows], 1)
            precisions = jnp.concatenate([of_offset[None], precisions])
        own = variance[0] if isinstance(self.noise, Spherical) else variance
        densities = prior.log_density_of_row(rows, variance, precisions)
        return jnp.sum(densities) + jnp.sum(prior.log_density_of_variance(own))

    def covariance(self, params: PyTree, dim: int) -> Array:
        return self.noise.matrix(self.noise.factor(params["scale"], dim), dim)


def _floor(params: PyTree, floor: float) -> Array:
    """Returns a root of floor · D, where D are the squares of the unit."""
    return jnp.diag(floors(params, floor, "LinearGaussianStateSpace").astype(params["scale"].dtype))


def _entries(flag: Any, shape: tuple[int, int]) -> Any:
    if isinstance(flag, bool):
        return flag
    return jnp.broadcast_to(flag if jnp.ndim(flag) == 2 else flag[:, None], shape)


def _masked(normal: Array, target: Array, root: Array, mask: Array) -> Array:
    """Returns the L⁻¹ D, D zero outside the mask, of highest ⟨L⁻¹ D, target⟩ − ½ tr(L⁻¹ D N Dᵀ L⁻ᵀ)."""
    inverse = invert_noise(root)
    precision = matmul(inverse.T, inverse)
    system = jnp.kron(precision, normal)
    right = matmul(inverse.T, target).reshape(-1)
    return matmul(inverse, solve_masked(system, right, mask.reshape(-1)).reshape(mask.shape))
