"""Restricts an update to some blocks."""

from .._free import choose, is_frozen, spread
from .._state import ELBOState, Info
from .._types import PyTree
from .._update import AbstractUpdate, Promise
from ._wrapper import AbstractWrapper


class Only(AbstractWrapper):
    """Applies the update to the selected entries only; all others are restored exactly.

    It may wrap any update, also one without `free`; the ELBO is that of the update. If a step has `free`, that is
    better: its free params are then optimal given the others, while here they are those of the whole step.
    Restoring a part may lower the ELBO, so `Only` promises ascent only if the update does and nothing is restored,
    or if nothing moves. The update's memory (an optimizer's moments) evolves as if all had moved.

    **Arguments:**

    - `update`: any update.
    - `params`: which params may move: `True` (all, the default) or `False`, one of these for each block (a prefix
        of the params' tree), or masks for their entries.
    - `posterior`: the same for the posterior.

    **Raises** `ValueError` at `init` for a tree that is not a prefix, or a mask that does not broadcast.

    ```python
    >>> import elbax, optax
    >>> model = elbax.GaussianMixture(2)
    >>> step = elbax.JointGradientStep(model, optax.adam(1e-3))
    >>> encoder_alone = elbax.wrappers.Only(step, params=False)
    >>> weights_and_encoder = elbax.wrappers.Only(step, params={"logits": True, "components": False})

    ```
    """

    update: AbstractUpdate
    params: PyTree = True
    posterior: PyTree = True

    def keeps(self, promise: Promise) -> Promise:
        if is_frozen((self.params, self.posterior)) and promise is Promise.BOUND:
            return promise
        everything = self.params is True and self.posterior is True
        return self.update.keeps(promise) if everything else Promise.NOTHING

    @property
    def settles(self) -> bool:
        return self.update.settles and not is_frozen(self.posterior)

    @property
    def fixed_point(self) -> bool:
        return self.posterior is True and self.update.fixed_point

    def init_memory(self, params: PyTree, posterior: PyTree) -> PyTree:
        spread(self.params, params, "params")
        spread(self.posterior, posterior, "posterior")
        return self.update.init_memory(params, posterior)

    def __call__(self, state: ELBOState, batch: PyTree) -> tuple[ELBOState, Info]:
        moved, info = self.update(state, batch)
        return self._kept(moved, state), info

    def settle(self, state: ELBOState, batch: PyTree) -> ELBOState:
        return self._kept(self.update.settle(state, batch), state)

    def _kept(self, moved: ELBOState, state: ELBOState) -> ELBOState:
        """Returns `moved` in the selected entries, else `state`."""
        params = choose(spread(self.params, state.params), moved.params, state.params)
        free = spread(self.posterior, state.posterior)
        return moved.replace(
            params=params, posterior=choose(free, moved.posterior, state.posterior)
        )
