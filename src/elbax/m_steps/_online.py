"""The M-step of online EM."""

import equinox as eqx
import jax
import jax.numpy as jnp

from .._arguments import check_count, check_schedule
from .._model import AbstractModel
from .._program import by_value
from .._types import Any, Array, Callable, PyTree, Scalar
from ._statistics import AbstractStatisticsStep, Remembered


class OnlineMStep(AbstractStatisticsStep):
    r"""Maximizes at running statistics of a stream, in which older batches count less.

    This is online EM (Cappé and Moulines 2009): $s \leftarrow (1 - \rho_t)\, s + \rho_t\, \hat s_t$, then $\theta
    \leftarrow \arg\max_\theta \langle \eta(\theta), s \rangle + \log p(\theta)$, where $\hat s_t$ are the batch's
    expected statistics under q. With $\rho = 1$ on all data it is `ClosedFormMStep`. Rates $\rho_t = (t +
    1)^{-\alpha}$ with $\frac12 < \alpha \le 1$ converge. With α = 0.6 and `Averaged` around the chain, the
    averaged estimate is as good as maximum likelihood on all the data seen.

    Start near the data (`model.init(key, x)`): in float32, statistics about params thousands of standard
    deviations away hold little of the data's own spread. Latents that a component eliminates (a Student t's
    scale, an analyzer's factors, missing columns) have their statistics taken at the params of the moment too.
    Pass minibatches of B from N rows as `Batch(x, weight=N / B)` if a prior is to count once for all N.

    **Arguments:**

    - `model`: a model with a closed form for what is free.
    - `rate`: ρ, a number in (0, 1] or a function of the step 0, 1, …; at the first step ρ is 1, but for a
        `Bayesian` with a `GaussianBelief`, whose s is always that of its own params.
    - `delay`: the number of steps before θ first moves, while statistics accumulate (for small batches).
    - `chunk_size`: about how many rows to process at a time.
    - `free`: which params this step updates; see `ClosedFormMStep`.

    **Raises** `TypeError` at `init` for a model without a closed form for what is free, or one whose natural
    parameters are about a point without a `rebase`.

    ```python
    >>> import elbax, jax
    >>> x, model = elbax.datasets.old_faithful(), elbax.GaussianMixture(2)
    >>> params = model.init(jax.random.key(0), x)
    >>> online = elbax.Chain(
    ...     elbax.ExactEStep(model), elbax.OnlineMStep(model, rate=lambda t: (t + 1.0) ** -0.6)
    ... )
    >>> state = online.init(params, key=jax.random.key(1))
    >>> batches = jax.random.permutation(jax.random.key(2), x)[:270].reshape(27, 10, 2)
    >>> state, info = jax.lax.scan(online, state, batches)

    ```
    """

    model: AbstractModel
    rate: float | Array | Callable[[Any], Any] = eqx.field(converter=by_value)
    delay: int = eqx.field(static=True, default=0)
    chunk_size: int | None = eqx.field(static=True, default=None)
    free: PyTree = True

    def __check_init__(self):
        check_count("OnlineMStep", least=0, delay=self.delay)
        if not (callable(self.rate) or isinstance(self.rate, int | float | jax.Array)):
            raise TypeError(
                f"OnlineMStep: rate must be a number or a function of the step, got {self.rate!r}."
            )
        if isinstance(self.rate, int | float) and not 0 < self.rate <= 1:
            raise ValueError(f"OnlineMStep: rate must be in (0, 1], got {self.rate}.")

    def init_memory(self, params: PyTree, posterior: PyTree) -> Remembered:
        check_schedule("OnlineMStep", self.rate, float)
        memory = AbstractStatisticsStep.init_memory(self, params, posterior)
        if not self.model.knows_statistics:
            return memory
        return Remembered(self.model.statistics_at(params), memory.about, memory.step)

    def start(self, zeros):
        return zeros

    def move(self, kept, change):
        return change(kept)

    def recall(self, memory, params):
        moved = AbstractStatisticsStep.recall(self, memory, params)
        if not self.model.knows_statistics:
            return moved
        # Once θ has moved they are its own: apart from it they keep what `maximize` refuses, such as a precision
        # below 0 by noise where data say nothing, and there they would grow from step to step.
        own, still = self.model.statistics_at(params), self.waits(memory.step - 1)
        return jax.tree.map(lambda old, new: jnp.where(still, old, new), moved, own)

    def join(self, kept, fresh, step):
        whole = not self.model.knows_statistics

        def mix(old, new):
            return old + rate_at(self.rate, step, old.dtype, whole) * (new - old)

        mixed = jax.tree.map(mix, kept, fresh)
        return mixed, mixed

    def waits(self, step):
        return step < self.delay


def rate_at(rate: Any, step: Array, dtype: Any, whole: bool = True) -> Scalar:
    """Returns ρ of a number or a schedule; with `whole` it is 1 at the first step."""
    now = jnp.asarray(rate(step.astype(dtype)) if callable(rate) else rate, dtype)
    return jnp.where(step == 0, 1.0, now).astype(dtype) if whole else now
