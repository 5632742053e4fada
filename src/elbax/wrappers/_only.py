"""A step of which some blocks come to nothing."""

from .._free import choose, is_frozen, spread
from .._state import ELBOState, Info
from .._types import PyTree
from .._update import AbstractUpdate, Promise
from ._wrapper import AbstractWrapper


class Only(AbstractWrapper):
    """The update, of which only the named entries come to effect: all others are put back, to the bit.

    It may stand around any update, also one that knows no `free`; its ELBO is the update's. Where a step does take
    `free`, that is better: its free params then take their best given that the others stay, while here they come
    as the whole step would have them. So what is put back in part may lower the ELBO, and `Only` promises ascent
    only if the update does and nothing is put back, or nothing moves. The update's memory (an optimizer's moments)
    goes on as if all had moved.

    **Arguments:**

    - `update`: any update.
    - `params`: which params may move: `True` (all, the default) or `False`, one of them for each block (a
        prefix of the params' tree), or masks for their entries.
    - `posterior`: the same of the posterior.

    **Raises** `ValueError` at `init` for a tree that is no prefix, or a mask that does not broadcast.

    ```python
    >>> import elbax, optax
    >>> model = elbax.GaussianMixture(2)
    >>> step = elbax.JointGradientStep(model, optax.adam(1e-3))
    >>> encoder_alone = elbax.Only(step, params=False)
    >>> weights_and_encoder = elbax.Only(step, params={"logits": True, "components": False})

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
        """`moved` where it may be, else `state`."""
        params = choose(spread(self.params, state.params), moved.params, state.params)
        free = spread(self.posterior, state.posterior)
        return moved.replace(
            params=params, posterior=choose(free, moved.posterior, state.posterior)
        )
