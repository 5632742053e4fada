"""Extrapolation of slow chains."""

import equinox as eqx
import jax
import jax.numpy as jnp

from .._arguments import check_positive
from .._math.algebra import dot, is_label, subtract, where
from .._program import by_value
from .._state import ELBOState, Info
from .._types import Array, Bool, Callable, Int, PyTree, Scalar
from .._update import AbstractUpdate
from ._wrapper import AbstractRemembering


class Extrapolation(eqx.Module):
    """The memory of `Accelerate`.

    **Fields:**

    - `update`: the inner update's memory.
    - `last`: the point, in the extrapolation's coordinates, whose image under the chain is the params.
    - `longest`: the largest step length to try.
    - `evaluations`: the number of evaluations of the chain.
    """

    update: PyTree
    last: PyTree
    longest: Scalar
    evaluations: Int[Array, ""]


class Accelerate(AbstractRemembering):
    r"""Accelerates a chain by extrapolating its path: SQUAREM (Varadhan and Roland 2008, scheme S3).

    Let $F$ be one step of the chain as a map of the params, $\theta_0, \theta_1 = F(\theta_0), \theta_2 =
    F(\theta_1)$ three successive points, $r = \theta_1 - \theta_0$ and $v = \theta_2 - \theta_1 - r$. Then

    $$\theta' = F(\theta_0 + 2 \alpha r + \alpha^2 v), \quad \alpha = |r| / |v|.$$

    α = 1 is two steps of the chain; where the chain is slow, α is large. α is bounded. If the bound is reached and
    the step succeeds, the bound grows by `growth`; if the step fails, the bound shrinks to below the length that
    failed.

    It ascends if the chain does. $F$ measures the ELBO at its input, so $F(\theta')$, the next point of the path,
    also tests θ'. If the ELBO there is not finite, or lower than at θ₁, where the step began, the step ends at θ₂
    instead. A step thus makes one or three evaluations and no other pass, all on the given batch, which should be
    the full one. `info.elbo` is the chain's where the step began. The path may lead to another maximum than the
    chain's, even a lower one. No step can detect that: compare with `fit` of the chain.

    **Arguments:**

    - `update`: a chain that derives its posterior from the params and has no memory, such as
        `Chain(ExactEStep(model), ClosedFormMStep(model))`.
    - `to`, `back`: functions from the params to the coordinates of the extrapolation, and back (into the params'
        domain, if necessary by projection); by default the unconstrained params themselves.
    - `growth`: the factor by which the bound on α grows, above 1.

    **Raises** `TypeError` at `init` for any other update, and at the first step for one that measures no ELBO;
    `ValueError` for one of `to` and `back` without the other, or an invalid growth.

    ```python
    >>> import elbax, jax
    >>> x, model = elbax.datasets.old_faithful(), elbax.GaussianMixture(3)
    >>> params = model.init(jax.random.key(0), x)
    >>> em = elbax.em(model)
    >>> fast = elbax.wrappers.Accelerate(em)
    >>> state = fast.init(params, key=jax.random.key(1))
    >>> result = elbax.fit(fast, state, x)

    ```
    """

    update: AbstractUpdate
    to: Callable[[PyTree], PyTree] | None = eqx.field(static=True, default=None, converter=by_value)
    back: Callable[[PyTree], PyTree] | None = eqx.field(
        static=True, default=None, converter=by_value
    )
    growth: float = eqx.field(static=True, default=4.0)

    def __check_init__(self):
        if (self.to is None) != (self.back is None):
            raise ValueError(
                "Accelerate: pass both `to` and `back`, which must be inverses of each other."
            )
        check_positive("Accelerate", growth=self.growth)
        if not self.growth > 1:
            raise ValueError(f"Accelerate: growth must be above 1, got {self.growth}.")

    @property
    def patience(self) -> int:
        # Its gains are irregular: a small one says little about the next.
        return 3 * self.update.patience

    def init_memory(self, params: PyTree, posterior: PyTree) -> Extrapolation:
        inner = self.update.init_memory(params, posterior)
        if not self.update.fixed_point or jax.tree.leaves(inner):
            raise TypeError(
                f"Accelerate: only the params are extrapolated, but a step of {type(self.update).__name__} "
                "depends on more: on a posterior that it does not compute from them, or on a memory. Pass a "
                "chain that begins with ExactEStep or HardEStep and whose M-steps have no memory. Put other "
                "wrappers around Accelerate: Averaged(Accelerate(chain))."
            )
        last = self._coordinates(params)
        dtype = jnp.result_type(*(leaf for leaf in jax.tree.leaves(last) if not is_label(leaf)))
        return Extrapolation(inner, last, jnp.ones((), dtype), jnp.zeros((), int))

    def _coordinates(self, params: PyTree) -> PyTree:
        return params if self.to is None else self.to(params)

    def _params(self, coordinates: PyTree) -> PyTree:
        return coordinates if self.back is None else self.back(coordinates)

    def __call__(self, state: ELBOState, batch: PyTree) -> tuple[ELBOState, Info]:
        memory, start = state.memory, self.inside(state)
        second, info = self.update(start, batch)
        here = self._coordinates(start.params)
        r = subtract(here, memory.last)
        v = subtract(subtract(self._coordinates(second.params), here), r)
        size, bend = dot(r, r), dot(v, v)
        # At rest, as before the first step, there is nothing to extrapolate (and the root has no derivative).
        moving = (size > 0) & (bend > 0)
        whole = jnp.where(moving, jnp.sqrt(jnp.where(moving, size / bend, 1)), 0)
        length = jnp.clip(whole, 1, memory.longest)
        further = length > 1.01

        def extrapolate():
            def along(x, r, v):
                return x if is_label(x) else x + 2 * length * r + length**2 * v

            point = self._params(jax.tree.map(along, memory.last, r, v))
            point, _ = self.update(second.replace(params=point), batch)
            moved, there = self.update(point, batch)
            good = self._rises(info.elbo, there.elbo)
            return *where(good, (moved, self._coordinates(point.params)), (second, here)), good

        end, last, good = jax.lax.cond(
            further, extrapolate, lambda: (second, here, jnp.ones((), bool))
        )
        longest = jnp.where(whole >= memory.longest, self.growth * memory.longest, memory.longest)
        longest = jnp.where(good, longest, jnp.maximum(length / 1.2, 1))
        evaluations = memory.evaluations + jnp.where(further, 3, 1)
        return end.replace(memory=Extrapolation(end.memory, last, longest, evaluations)), info

    def _rises(self, before: Scalar | None, after: Scalar | None) -> Bool[Array, ""]:
        """Returns whether the ELBO is finite and not lower, up to rounding."""
        if before is None or after is None:
            raise TypeError(
                f"Accelerate: {type(self.update).__name__} does not measure the ELBO, which Accelerate compares. "
                "Pass a chain that makes a pass over the data."
            )
        slack = 8 * jnp.finfo(before.dtype).eps * (1 + jnp.abs(before))
        return (after >= before - slack) & jnp.isfinite(after)
