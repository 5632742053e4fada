"""The M-step by Newton's method."""

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

from .._elbo import elbo
from .._free import choose, moving, spread
from .._model import AbstractModel
from .._state import ELBOState, Info
from .._types import PyTree
from .._update import AbstractUpdate


class NewtonMStep(AbstractUpdate):
    r"""$\theta \leftarrow \theta + t\, |H|^{-1} g$ with gradient g and Hessian H of
    $\mathrm{ELBO}(q, \theta) + \log p(\theta)$ in the free params.

    For a softmax gate, logistic and Poisson regressions this is iteratively reweighted least squares.
    Eigenvalues of H count by their size, so that the step ascends where the ELBO is not concave, and
    directions in which it is flat stay. The step t is halved until the ELBO does not fall, hence it
    promises to ascend.

    **Arguments:**

    - `model`: any model; the Hessian has as many rows as there are free numbers, so leave large
        networks to `GradientMStep`.
    - `chunk_size`: about how many rows to see at a time.
    - `free`: which params move, `True` or `False` for each block of them, or a mask for each entry.
    - `num_halvings`: how often t may be halved; after that θ stays.

    ```python
    >>> import elbax
    >>> model = elbax.Mixture(elbax.components.GeneralizedLinear("bernoulli"), 2)
    >>> em = elbax.Chain(elbax.ExactEStep(model), elbax.NewtonMStep(model))
    >>> em.ascends
    True

    ```
    """

    model: AbstractModel
    chunk_size: int | None = eqx.field(static=True, default=None)
    free: PyTree = True
    num_halvings: int = eqx.field(static=True, default=20)

    @property
    def ascends(self) -> bool:
        # Where expectations are sampled, the two values that a step compares are estimates.
        return self.model.exact

    def init_memory(self, params: PyTree, posterior: PyTree) -> PyTree:
        spread(self.free, params)
        return ()

    def check(self, batch: PyTree) -> None:
        self.model.check(batch)

    def __call__(self, state: ELBOState, batch: PyTree) -> tuple[ELBOState, Info]:
        key, now = jax.random.split(state.key)
        free = spread(self.free, state.params)
        start, unflatten = ravel_pytree(moving(free, state.params))

        def put(vector):
            return choose(free, eqx.combine(unflatten(vector), state.params), state.params)

        def objective(vector):
            return elbo(
                self.model, put(vector), state.posterior, batch, key=now, chunk_size=self.chunk_size
            )

        if start.size == 0:
            return state.replace(key=key), Info(objective(start))

        def slope(vector):
            value, gradient = jax.value_and_grad(objective)(vector)
            return gradient, (value, gradient)

        hessian, (value, gradient) = jax.jacfwd(slope, has_aux=True)(start)
        # Params of any units are brought to one scale first: what is flat then is flat in them all.
        diagonal = jnp.abs(jnp.diagonal(hessian))
        unit = jnp.sqrt(jnp.where(diagonal > 0, diagonal, 1))
        values, vectors = jnp.linalg.eigh(hessian / jnp.outer(unit, unit))
        size = jnp.abs(values)
        curved = size > 10 * start.size * jnp.finfo(start.dtype).eps * jnp.max(size)
        along = jnp.matmul(gradient / unit, vectors, precision="highest")
        step = jnp.where(curved, along / jnp.where(curved, size, 1), 0)
        direction = jnp.matmul(vectors, step, precision="highest") / unit

        # At the maximum all that differs is rounding: it must not halve a step that is right.
        enough = value - 8 * jnp.finfo(start.dtype).eps * (1 + jnp.abs(value))

        def falls(carry):
            _, reached, tries = carry
            return ~(reached >= enough) & (tries < self.num_halvings)

        def halve(carry):
            t, _, tries = carry
            return 0.5 * t, objective(start + 0.5 * t * direction), tries + 1

        whole = jnp.ones((), start.dtype)
        first = whole, objective(start + direction), jnp.zeros((), int)
        t, reached, _ = jax.lax.while_loop(falls, halve, first)
        moved = jnp.where(reached >= enough, start + t * direction, start)
        # Where the Hessian is not finite no step was made, which must not pass for an end.
        found = jnp.where(jnp.all(jnp.isfinite(hessian)), value, jnp.nan)
        return state.replace(params=put(moved), key=key), Info(found)
