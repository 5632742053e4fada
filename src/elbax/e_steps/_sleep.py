"""The sleep phase of wake-sleep."""

import equinox as eqx
import jax
import jax.numpy as jnp
import optax

from .._arguments import check_count, check_function, check_optimizer, kind_of
from .._gradient import check_trainable
from .._math.algebra import nodes_of
from .._model import AbstractModel
from .._program import by_value
from .._state import ELBOState, Info
from .._types import Any, Callable, PyTree
from .._update import AbstractUpdate
from ..posteriors import Importance, MonteCarlo
from ..posteriors._posterior import bind, weights_of, with_weights
from ..posteriors._table import tables


class SleepEStep(AbstractUpdate):
    r"""Makes one optimizer step along $\nabla_\phi\, E_{p_\theta(x, z)}[\log q_\phi(z \mid x)]$.

    The encoder is trained on pairs (x, z) sampled from the model, and the batch is not used. This descends
    KL(p ‖ q) instead of KL(q ‖ p). With `GradientMStep` it is wake-sleep (Hinton et al. 1995), which has no single
    objective.

    **Arguments:**

    - `model`: the model.
    - `optimizer`: any optax optimizer.
    - `sample`: `sample(params, key) -> (x, z)`, one draw from the model; x as the encoder takes it.
    - `num_samples`: the number of draws per step.

    **Raises** `TypeError` at `init` for a posterior without weights, a table, or one that is represented by draws.

    ```python
    >>> import elbax, equinox as eqx, jax, jax.numpy as jnp, optax
    >>> norm = jax.scipy.stats.norm
    >>> def log_joint(slope, x, z):
    ...     return norm.logpdf(z).sum() + norm.logpdf(x, slope * z).sum()
    >>> def sample(slope, key):
    ...     z, noise = jax.random.normal(key, (2, 1))
    ...     return slope * z + noise, z
    >>> model = elbax.Model(log_joint, elbax.DiagonalGaussian(1))
    >>> encoder = elbax.Amortized(eqx.nn.MLP(1, 2, 8, 1, key=jax.random.key(0)), model.latent)
    >>> sleep = elbax.SleepEStep(model, optax.adam(1e-2), sample)
    >>> wake_sleep = elbax.Chain(sleep, elbax.GradientMStep(model, optax.adam(1e-2)))
    >>> state = wake_sleep.init(jnp.array(1.0), encoder, key=jax.random.key(1))
    >>> state, info = wake_sleep(state, jnp.array([[0.3], [-2.0]]))

    ```
    """

    model: AbstractModel
    optimizer: optax.GradientTransformation = eqx.field(converter=by_value)
    sample: Callable[[Any, Any], Any] = eqx.field(converter=by_value)
    num_samples: int = eqx.field(static=True, default=100)

    def __check_init__(self):
        check_optimizer("SleepEStep", self.optimizer)
        check_function("SleepEStep", "sample(params, key) -> (x, z)", sample=self.sample)
        check_count("SleepEStep", num_samples=self.num_samples)

    @property
    def ascends(self) -> bool:
        return False

    @property
    def usual_posterior(self) -> str:
        return "elbax.Amortized(network, model.latent)"

    def init_memory(self, params: PyTree, posterior: PyTree) -> PyTree:
        check_trainable("SleepEStep", posterior)
        if nodes_of(MonteCarlo | Importance, posterior) or tables(posterior):
            raise TypeError(
                f"SleepEStep: got {kind_of(posterior)} posterior; expected one that knows log q(z | x) "
                "at simulated x. Draws have no density, and a table has no entries for simulated rows. Start "
                "from elbax.Amortized(network, model.latent)."
            )
        return self.optimizer.init(weights_of(posterior))

    def settle(self, state: ELBOState, batch: PyTree) -> ELBOState:
        return state.replace(posterior=bind(state.posterior, self.model, state.params))

    def __call__(self, state: ELBOState, batch: PyTree) -> tuple[ELBOState, Info]:
        state = self.settle(state, batch)
        key, now = jax.random.split(state.key)
        keys = jax.random.split(now, (self.num_samples, 2))
        x, z = jax.vmap(lambda key: self.sample(state.params, key))(keys[:, 0])
        weights = weights_of(state.posterior)

        def surprise(weights):
            posterior = with_weights(weights, state.posterior)
            each = lambda x, z, key: posterior(x, key=key).log_prob(z)
            return -jnp.mean(jax.vmap(each, axis_name="rows")(x, z, keys[:, 1]))

        slope = jax.grad(surprise)(weights)
        with jax.numpy_dtype_promotion("standard"):
            steps, memory = self.optimizer.update(slope, state.memory, weights)
            weights = optax.apply_updates(weights, steps)
        posterior = with_weights(weights, state.posterior)
        return state.replace(posterior=posterior, memory=memory, key=key), Info()
