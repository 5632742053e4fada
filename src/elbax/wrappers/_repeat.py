"""Repeated steps."""

import equinox as eqx
import jax

from .._arguments import check_count
from .._state import ELBOState, Info
from .._types import PyTree
from .._update import AbstractUpdate, Promise, walk
from ..m_steps import IncrementalMStep
from ._wrapper import AbstractWrapper


class Repeat(AbstractWrapper):
    """Makes `num_times` steps of the update on the same batch, as one step; its info is that of the last one.

    Around an M-step it makes the gradient steps of a generalized EM (Dempster, Laird and Rubin 1977); around an
    encoder's step a more accurate E-step; around a chain several sweeps per minibatch. It may wrap anything but an
    `IncrementalMStep`, which takes every batch for the next of its cycle.

    **Arguments:**

    - `update`: any update.
    - `num_times`: the number of steps, at least 1.

    **Raises** `ValueError` for fewer than one, `TypeError` around an `IncrementalMStep`.

    ```python
    >>> import elbax, optax
    >>> model = elbax.GaussianMixture(2)
    >>> m_step = elbax.GradientMStep(model, optax.adam(1e-2))
    >>> generalized_em = elbax.Chain(elbax.ExactEStep(model), elbax.wrappers.Repeat(m_step, 10))

    ```
    """

    update: AbstractUpdate
    num_times: int = eqx.field(static=True)

    def __check_init__(self):
        check_count("Repeat", num_times=self.num_times)
        again = self.num_times > 1
        if again and any(isinstance(part, IncrementalMStep) for part in walk(self.update)):
            raise TypeError(
                "Repeat: got an update with IncrementalMStep, which would treat each repetition of a batch as "
                "the next batch of its cycle. Iterate over the batches more often instead."
            )

    def keeps(self, promise: Promise) -> Promise:
        # A promise that holds after two steps holds after more.
        for _ in range(min(self.num_times, 2)):
            promise = self.update.keeps(promise)
        return promise

    @property
    def fixed_point(self) -> bool:
        return self.update.fixed_point

    def __call__(self, state: ELBOState, batch: PyTree) -> tuple[ELBOState, Info]:
        state, infos = jax.lax.scan(
            lambda state, _: self.update(state, batch), state, length=self.num_times
        )
        return state, jax.tree.map(lambda leaf: leaf[-1], infos)
