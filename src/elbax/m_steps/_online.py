"""The M-step of online EM."""

import equinox as eqx
import jax
import jax.numpy as jnp

from .._batch import as_batch
from .._elbo import elbo, expected_statistics
from .._free import choose, spread
from .._model import AbstractModel, split_coordinates
from .._state import ELBOState, Info
from .._types import Any, Array, Callable, PyTree, Scalar
from .._update import AbstractUpdate


class OnlineMStep(AbstractUpdate):
    r"""$s \leftarrow (1 - \rho_t)\, s + \rho_t\, \hat s_t$, then $\theta \leftarrow \arg\max_\theta \langle
    \eta(\theta), s \rangle + \log p(\theta)$: statistics of a stream, each batch counting less as it ages
    (Cappé and Moulines 2009).

    $\hat s_t$ are the batch's expected statistics under q. With $\rho = 1$ on all data it is
    `ClosedFormMStep`. Rates $\rho_t = (t + 1)^{-\alpha}$ with $\frac12 < \alpha \le 1$ converge; with 0.6
    and `Averaged` around the chain the averaged estimate is as good as maximum likelihood on all the data seen.

    Statistics are taken about the params at the start, so let these be near the data (`model.init(key, x)`).
    Minibatches of B from N rows are `Batch(x, weight=N / B)` where a prior is to count once for all N.

    **Arguments:**

    - `model`: a model with a closed form whose log-joint is linear in its statistics; see `model.is_linear`.
    - `rate`: ρ, a number in (0, 1] or a function of the step 0, 1, …; the first step counts whole.
    - `delay`: steps before the first move of θ, while statistics gather (for small batches).
    - `chunk_size`: about how many rows to see at a time.
    - `free`: which params this step claims; see `ClosedFormMStep`.

    **Raises** `TypeError` for a model without a closed form, or one that eliminates a latent of its
    components (a Student t's scale, missing columns), whose statistics belong to the params that they were
    taken at.

    ```python
    >>> import elbax, jax
    >>> x, model = elbax.datasets.old_faithful(), elbax.GaussianMixture(2)
    >>> params = model.init(jax.random.key(0), x)
    >>> online = elbax.Chain(
    ...     elbax.ExactEStep(model), elbax.OnlineMStep(model, rate=lambda t: (t + 1.0) ** -0.6)
    ... )
    >>> state = online.init(params, elbax.Exact(model, params), key=jax.random.key(1))
    >>> batches = jax.random.permutation(jax.random.key(2), x)[:270].reshape(27, 10, 2)
    >>> state, info = jax.lax.scan(online, state, batches)

    ```
    """

    model: AbstractModel
    rate: float | Array | Callable[[Any], Any]
    delay: int = eqx.field(static=True, default=0)
    chunk_size: int | None = eqx.field(static=True, default=None)
    free: PyTree = True

    def __check_init__(self):
        if self.delay < 0:
            raise ValueError(f"OnlineMStep: delay must not be negative, got {self.delay}.")
        if isinstance(self.rate, int | float) and not 0 < self.rate <= 1:
            raise ValueError(f"OnlineMStep: rate must be in (0, 1], got {self.rate}.")

    @property
    def ascends(self) -> bool:
        return False

    def init_memory(self, params: PyTree, posterior: PyTree) -> PyTree:
        if not self.model.is_linear():
            raise TypeError(
                f"OnlineMStep adds up statistics of different steps, but those of {type(self.model).__name__} "
                "belong to the "
                "params that they were taken at (a latent of its components is eliminated, or its log-joint "
                "is not "
                "linear in statistics at all). Use GradientMStep on minibatches."
            )
        free = spread(self.free, params)
        coordinates, _ = split_coordinates(self.model.natural(params))
        eqx.filter_eval_shape(
            lambda statistics, params: self.model.maximize(statistics, params, free),
            coordinates,
            params,
        )
        zeros = jax.tree.map(jnp.zeros_like, coordinates)
        return {"statistics": zeros, "about": params, "step": jnp.zeros((), int)}

    def check(self, batch: PyTree) -> None:
        self.model.check(batch)

    def _rate(self, step: Array, dtype: Any) -> Scalar:
        rate = self.rate(step.astype(dtype)) if callable(self.rate) else self.rate
        return jnp.where(step == 0, 1.0, jnp.asarray(rate, dtype)).astype(dtype)

    def __call__(self, state: ELBOState, batch: PyTree) -> tuple[ELBOState, Info]:
        if not self.model.is_linear(as_batch(batch).x):
            raise TypeError(
                "OnlineMStep: statistics of different steps do not add up where columns are missing, as these "
                "are eliminated at the params of the moment, nor inside of Anneal. Use GradientMStep on "
                "minibatches."
            )
        key, now = jax.random.split(state.key)
        memory, step = state.memory, state.memory["step"]
        # Statistics do not depend on the point that they are taken at, only on what they are taken about.
        _, fresh, _ = expected_statistics(
            self.model, memory["about"], state.posterior, batch, key=now, chunk_size=self.chunk_size
        )

        def mix(old, new):
            rate = self._rate(step, old.dtype)
            return old + rate * (new - old)

        statistics = jax.tree.map(mix, memory["statistics"], fresh)
        free = spread(self.free, state.params)
        moved = self.model.maximize(statistics, memory["about"], free)
        params = choose(free, moved, state.params)
        waits = step < self.delay
        params = jax.tree.map(lambda new, old: jnp.where(waits, old, new), params, state.params)
        value = elbo(
            self.model, state.params, state.posterior, batch, key=now, chunk_size=self.chunk_size
        )
        memory = memory | {"statistics": statistics, "step": step + 1}
        return state.replace(params=params, memory=memory, key=key), Info(value)
