"""Several steps as one."""

import equinox as eqx
import jax

from .._arguments import check_count
from .._state import ELBOState, Info
from .._types import PyTree
from .._update import AbstractUpdate
from ._wrapper import AbstractWrapper


class Repeat(AbstractWrapper):
    """`num_times` steps of the update on the same batch, as one step; its info is the last one's.

    Around an M-step, the gradient steps of a generalized EM (Dempster, Laird and Rubin 1977); around an
    encoder's step, an E-step that comes closer; around a chain, several sweeps for each minibatch.

    **Arguments:**

    - `update`: any update.
    - `num_times`: how many steps, at least 1.

    **Raises** `ValueError` for fewer than one.

    ```python
    >>> import elbax, optax
    >>> model = elbax.GaussianMixture(2)
    >>> m_step = elbax.GradientMStep(model, optax.adam(1e-2))
    >>> generalized_em = elbax.Chain(elbax.ExactEStep(model), elbax.Repeat(m_step, 10))

    ```
    """

    update: AbstractUpdate
    num_times: int = eqx.field(static=True)

    def __check_init__(self):
        check_count("Repeat", num_times=self.num_times)

    @property
    def fixed_point(self) -> bool:
        return self.update.fixed_point

    def __call__(self, state: ELBOState, batch: PyTree) -> tuple[ELBOState, Info]:
        state, infos = jax.lax.scan(
            lambda state, _: self.update(state, batch), state, length=self.num_times
        )
        return state, jax.tree.map(lambda leaf: leaf[-1], infos)
