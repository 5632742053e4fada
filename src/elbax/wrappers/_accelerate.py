"""Far along the path that a slow chain creeps."""

import equinox as eqx
import jax
import jax.numpy as jnp

from .._algebra import dot, is_label, subtract, where
from .._state import ELBOState, Info
from .._types import Array, Bool, Callable, Int, PyTree, Scalar
from .._update import AbstractUpdate
from ._wrapper import AbstractRemembering


class Extrapolation(eqx.Module):
    """The memory of `Accelerate`: the longest step length to try, and how often the chain was evaluated."""

    update: PyTree
    longest: Scalar
    evaluations: Int[Array, ""]


class Accelerate(AbstractRemembering):
    r"""SQUAREM: steps of a chain, extrapolated (Varadhan and Roland 2008, scheme S3).

    With $F$ one step of the chain as a map of the params, $r = F(\theta) - \theta$ and $v = F(F(\theta)) -
    F(\theta) - r$,

    $$\theta' = \theta + 2 \alpha r + \alpha^2 v, \quad \alpha = |r| / |v|, \qquad \theta \leftarrow
    F(\theta').$$

    α = 1 is two steps of the chain; where it creeps, α is many. The length is bounded: a bound that is
    reached and serves grows by `growth`, one that fails shrinks to below the length that failed.

    It ascends as the chain does. $F$ measures the ELBO where it starts, hence the third evaluation is also
    the test: if the ELBO at θ' is not finite or lower than at θ, the step ends at the second iterate
    instead. So a step makes two evaluations or three and no other pass, on the batch that it is given:
    give it the full one. It may lead to another maximum than the chain would, a lower one too; no step can
    tell, so compare `fit` from the same start.

    **Arguments:**

    - `update`: a chain that derives its posterior from the params and remembers nothing, such as
        `Chain(ExactEStep(model), ClosedFormMStep(model))`.
    - `to`, `back`: from the params to the coordinates to extrapolate in, and back (into the
        params' domain, if need be by projection); by default the unconstrained params as they are.
    - `growth`: by what the bound on α grows.

    **Raises** `TypeError` at `init` for any other update, and at the first step for one that measures no
    ELBO; `ValueError` for one of `to` and `back` without the other, or a growth that is none.

    ```python
    >>> import elbax, jax
    >>> x, model = elbax.datasets.old_faithful(), elbax.GaussianMixture(3)
    >>> params = model.init(jax.random.key(0), x)
    >>> em = elbax.Chain(elbax.ExactEStep(model), elbax.ClosedFormMStep(model))
    >>> fast = elbax.Accelerate(em)
    >>> state = fast.init(params, elbax.Exact(model, params), key=jax.random.key(1))
    >>> result = elbax.fit(fast, state, x)

    ```
    """

    update: AbstractUpdate
    to: Callable[[PyTree], PyTree] | None = eqx.field(static=True, default=None)
    back: Callable[[PyTree], PyTree] | None = eqx.field(static=True, default=None)
    growth: float = eqx.field(static=True, default=8.0)

    def __check_init__(self):
        if (self.to is None) != (self.back is None):
            raise ValueError("Accelerate: give both `to` and `back`, each the other's inverse.")
        if not self.growth > 1:
            raise ValueError(f"Accelerate: growth must be above 1, got {self.growth}.")

    def init_memory(self, params: PyTree, posterior: PyTree) -> Extrapolation:
        inner = self.update.init_memory(params, posterior)
        if not self.update.fixed_point or jax.tree.leaves(inner):
            raise TypeError(
                f"Accelerate extrapolates the params alone, but a step of {type(self.update).__name__} "
                "depends on more: on a posterior that it does not derive from them, or on a memory. Put it "
                "around a chain that begins with ExactEStep or HardEStep and whose M-steps remember "
                "nothing, and other wrappers around it: Averaged(Accelerate(chain))."
            )
        numbers = [
            leaf for leaf in jax.tree.leaves(self._coordinates(params)) if not is_label(leaf)
        ]
        return Extrapolation(inner, jnp.ones((), jnp.result_type(*numbers)), jnp.zeros((), int))

    def _coordinates(self, params: PyTree) -> PyTree:
        return params if self.to is None else self.to(params)

    def __call__(self, state: ELBOState, batch: PyTree) -> tuple[ELBOState, Info]:
        memory, start = state.memory, self.inside(state)
        first, info = self.update(start, batch)
        second, _ = self.update(first, batch)
        path = [self._coordinates(point.params) for point in (start, first, second)]
        r, v, length = _bend(*path)
        length = jnp.clip(length, 1, memory.longest)
        # At α = 1 the second iterate is what an extrapolation gives.
        further = length > 1.01

        def extrapolate():
            point = jax.tree.map(
                lambda x, r, v: r if is_label(x) else x + 2 * length * r + length**2 * v,
                path[0],
                r,
                v,
            )
            params = point if self.back is None else self.back(point)
            moved, there = self.update(second.replace(params=params), batch)
            good = self._rises(info.elbo, there.elbo)
            return where(good, moved, second), good

        end, good = jax.lax.cond(further, extrapolate, lambda: (second, jnp.ones((), bool)))
        longest = jnp.where(length >= memory.longest, self.growth * memory.longest, memory.longest)
        longest = jnp.where(good, longest, jnp.maximum(length / 1.2, 1))
        evaluations = memory.evaluations + jnp.where(further, 3, 2)
        return end.replace(memory=Extrapolation(end.memory, longest, evaluations)), info

    def _rises(self, before: Scalar | None, after: Scalar | None) -> Bool[Array, ""]:
        """Whether the ELBO is finite and no lower, to rounding."""
        if before is None or after is None:
            raise TypeError(
                f"Accelerate watches the ELBO, but {type(self.update).__name__} measures none: give it a "
                "chain that makes a pass over the data."
            )
        slack = 8 * jnp.finfo(before.dtype).eps * (1 + jnp.abs(before))
        return (after >= before - slack) & jnp.isfinite(after)


def _bend(start: PyTree, first: PyTree, second: PyTree) -> tuple[PyTree, PyTree, Scalar]:
    """(r, v, α) of three points in a row; labels among them are the first one's."""
    r = subtract(first, start)
    v = subtract(subtract(second, first), r)
    size, bend = jnp.sqrt(dot(r, r)), jnp.sqrt(dot(v, v))
    return r, v, jnp.where(bend > 0, size / jnp.where(bend > 0, bend, 1), 1)
