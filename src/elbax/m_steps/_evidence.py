"""The "either" step of ECME: maximizes the evidence itself over some params."""

import equinox as eqx
import jax.numpy as jnp

from .._arguments import kind_of
from .._capability import MaximizesEvidence
from .._free import choose, spread
from .._math.algebra import matmul
from .._model import AbstractModel
from .._state import ELBOState, Info
from .._types import PyTree
from .._update import AbstractUpdate, Promise
from ..data._batch import as_batch, reduce_data, where_seen
from ..posteriors import Exact


class EvidenceMStep(AbstractUpdate):
    r"""Maximizes $\log p_\theta(x) + \log p(\theta)$ over a block of θ with a closed form, without the posterior.

    After a closed-form M-step it turns EM into ECME (Liu and Rubin 1994): `Chain(ExactEStep(model),
    ClosedFormMStep(model), EvidenceMStep(model))`. Factor analysis updates its mean, the scale of its factors and
    its noise variances in this way, with many times fewer sweeps; probabilistic PCA all its params at once. The
    evidence never falls. The ELBO of an inexact posterior may fall, so such posteriors are rejected.

    **Arguments:**

    - `model`: a model with `maximize_evidence(moments, params, free)`: `FactorAnalysis`, `ProbabilisticPCA`.
    - `chunk_size`: about how many rows to process at a time. The step needs the data's covariance, dim² numbers
        per row, unless the batch is `elbax.compress(x)`.
    - `free`: which params this step updates; see `ClosedFormMStep`.

    **Raises** `TypeError` at `init` for a model without such a maximum, or an inexact posterior, and for
    incomplete rows.

    ```python
    >>> import elbax
    >>> model = elbax.FactorAnalysis(2)
    >>> ecme = elbax.Chain(
    ...     elbax.ExactEStep(model), elbax.ClosedFormMStep(model), elbax.EvidenceMStep(model)
    ... )

    ```
    """

    model: AbstractModel
    chunk_size: int | None = eqx.field(static=True, default=None)
    free: PyTree = True

    @property
    def ascends(self) -> bool:
        return True

    def keeps(self, promise: Promise) -> Promise:
        return min(promise, Promise.SETTLED)

    def init_memory(self, params: PyTree, posterior: PyTree) -> PyTree:
        if not isinstance(posterior, Exact):
            raise TypeError(
                f"EvidenceMStep: got {kind_of(posterior)} posterior; expected an Exact one. The step "
                "does not use the posterior, so with any other one the ELBO could fall. Use ClosedFormMStep or "
                "GradientMStep."
            )
        # A model without such a maximum for the free params raises here.
        model = _maximizer(self.model)
        about = model.moments_about(params)

        def maximize(params, about):
            residual = model.residuals(params, about[None])[0]
            second = jnp.outer(residual, residual)
            moments = {"first": about, "second": second, "count": about[0]}
            return model.maximize_evidence(moments, params, spread(self.free, params))

        eqx.filter_eval_shape(maximize, params, about)
        return ()

    def __call__(self, state: ELBOState, batch: PyTree) -> tuple[ELBOState, Info]:
        _refuse_incomplete(batch)
        model = _maximizer(self.model)
        about = model.moments_about(state.params)

        def moments(x, weight, places):
            weight, deviations = weight.astype(about.dtype), x.astype(about.dtype) - about
            residuals = model.residuals(state.params, deviations)
            return {
                "first": matmul(weight, deviations),
                "second": matmul((weight[:, None] * residuals).T, residuals),
            }

        found, count = reduce_data(moments, batch, state.key, self.chunk_size)
        found["count"] = jnp.asarray(count, about.dtype)
        free = spread(self.free, state.params)
        moved = model.maximize_evidence(found, state.params, free)
        params = where_seen(batch, choose(free, moved, state.params), state.params)
        return state.replace(params=params), Info()


def _refuse_incomplete(batch: PyTree) -> None:
    if as_batch(batch).blocked:
        raise TypeError(
            "EvidenceMStep: got incomplete rows, but the step needs the covariance of complete rows. Use "
            "ClosedFormMStep."
        )


def _maximizer(model: AbstractModel) -> MaximizesEvidence:
    if isinstance(model, MaximizesEvidence):
        return model
    raise TypeError(
        f"EvidenceMStep: {type(model).__name__} has no closed-form maximum of its evidence in any block of "
        "params. FactorAnalysis and ProbabilisticPCA have one, but not inside of Anneal, which changes the "
        "objective. Use ClosedFormMStep or GradientMStep."
    )
