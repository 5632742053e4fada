"""Beliefs over the coefficients of logistic and probit regressions."""

from typing import ClassVar

import jax.numpy as jnp

from .._math.algebra import matmul, vdot
from .._math.normal import log_normal_cdf
from .._reference import Reference
from .._types import Any, Array, PyTree, Scalar
from ..components._linear import design
from ..components._linear_regression import at_center
from ..models import LogisticRegression, Model, ProbitRegression
from ..models._binary_regression import AbstractBinaryRegression, center_of
from ._belief import AbstractOnePrior, belief, needed, no_predictive
from ._flags import together
from ._rows import draw_rows, packed, root_of_covariance, row_divergence


class BinaryRegressionBelief(AbstractOnePrior):
    r"""$q(\beta) = N(m, \Lambda^{-1})$ with a full covariance, and the intercept at the inputs' mean.

    The params are `{"coefficients": {"point": m, "precision": Λ}}` and the center of the inputs. E_q[η] are the
    moments 0 and Λ⁻¹ about m. The best Λ is the prior's plus the expected sum of weighted ũũᵀ.
    """

    block: ClassVar[str] = "coefficients"

    def __init__(self, model: AbstractBinaryRegression):
        example = "elbax.priors.Normal(1.0)"
        self.model, self.prior = model, needed(model.prior, model, "prior", example)

    def _precisions(self, row: Array) -> Array:
        return self.prior.precisions(row.size, row.dtype)

    def start(self, params, count):
        row = params["coefficients"]
        precision = jnp.diag(self._precisions(row) + count)
        block = {"point": row, "precision": packed(precision[None])[0]}
        return params | {"coefficients": block}

    def shapes(self, shapes):
        (width,) = shapes["coefficients"]
        size = lambda sizes: sizes[width] * (sizes[width] + 1) // 2
        return shapes | {"coefficients": {"point": (width,), "precision": (size,)}}

    def point(self, q):
        return q | {"coefficients": q["coefficients"]["point"]}

    def natural(self, q):
        natural = self.model.natural(self.point(q))
        root = self._root(q)
        return natural | {"second": matmul(root, root.T)}

    def _root(self, q: PyTree) -> Array:
        block = q["coefficients"]
        return root_of_covariance(block["precision"], block["point"].size)

    def about(self, natural, q):
        return self.model.rebase(natural, self.point(q))

    def posterior(self, statistics, q, free):
        point = self.point(q)
        row = self.model.at_center(point)
        prior = self._precisions(row)
        precision = jnp.diag(prior) - 2 * statistics["second"]
        cross = statistics["first"] - prior * row
        flags = free["coefficients"]
        moved = self.model.move(precision, cross, point, flags["point"])
        best = {"point": moved, "precision": packed(precision[None])[0]}
        return q | {"coefficients": together(flags, best, q["coefficients"])}

    def divergence(self, q):
        row = self.model.at_center(self.point(q))
        prior, one = self._precisions(row), jnp.ones((), row.dtype)
        packed = q["coefficients"]["precision"]
        return {"coefficients": row_divergence(row, one, packed, prior, jnp.log(prior))}

    def sample(self, q, key):
        point = self.point(q)
        row, raw = self.model.at_center(point), q["coefficients"]["precision"]
        (drawn,) = draw_rows(row[None], jnp.ones((1,), row.dtype), raw[None], key)
        return point | {"coefficients": at_center(drawn, -center_of(point))}

    def predictive(self, q):
        if not isinstance(self.model, ProbitRegression):
            raise TypeError(no_predictive("the coefficients of a LogisticRegression"))
        point = self.point(q)
        params = {"mean": self.model.at_center(point), "root": self._root(q)}
        return Model(_predictive), params | {"center": Reference(center_of(point))}


def _predictive(params: PyTree, x: Any) -> Scalar:
    """Returns log Φ(± m·ũ / √(1 + ũᵀΛ⁻¹ũ)) of one datum: the label is the sign of N(m·ũ, 1 + ũᵀΛ⁻¹ũ)."""
    inputs, label = x
    u = design(inputs.astype(params["mean"].dtype) - params["center"].value)
    variance = jnp.sum(matmul(u, params["root"]) ** 2)
    score = vdot(params["mean"], u) / jnp.sqrt(1 + variance)
    return log_normal_cdf(jnp.where(label.astype(u.dtype) > 0, score, -score))


belief.register(LogisticRegression, BinaryRegressionBelief)
belief.register(ProbitRegression, BinaryRegressionBelief)
