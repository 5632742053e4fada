"""The gain of each part of a chain."""

import equinox as eqx
import jax.numpy as jnp

from .._elbo import elbo
from .._model import AbstractModel
from .._state import ELBOState, Info
from .._types import Array, Float, Int, PyTree
from .._update import Chain, Promise
from ..posteriors._posterior import draws_anew
from ._wrapper import AbstractWrapper


class Certificate(Info):
    """The info of a chain, with the effect of each of its parts on the ELBO of the batch.

    **Fields,** in addition to those of `Info`:

    - `gains`: the increase by each part, shape `(num_parts,)`, in nats per datum.
    - `broken`: the index of the first part that promises to ascend but lowered it; −1 for none.
    """

    gains: Float[Array, " num_parts"] | None = None
    broken: Int[Array, ""] | None = None


class Certify(AbstractWrapper):
    r"""Runs the chain unchanged, and measures the gain of each part in $\mathrm{ELBO}(q, \theta)$ of the batch.

    EM ascends the ELBO in q and in θ in turn (Neal and Hinton 1998): measured before, between and after the parts,
    no gain is negative. This identifies a wrong M-step, which a trace of sweeps shows at best as a fall. A part
    that promises not to lower the ELBO is `broken` if the ELBO falls by more than 1e-10 (1 + |ELBO|), or 64 units
    of rounding in float32. Parts that do not update the posterior (an `EvidenceMStep`, a guarded chain) are
    measured but not judged. Nor are any parts if the posterior draws (`MonteCarlo`, `Importance`): a part has
    draws of its own, and may raise the ELBO of these and lower that of others.

    `info.elbo` is the chain's. It makes one more pass over the data for each part, and one more. Draws, if any,
    are the same before and after a part.

    **Arguments:**

    - `update`: a `Chain`.
    - `model`: the model whose ELBO is measured.
    - `chunk_size`: about how many rows to process at a time.

    **Raises** `TypeError` for an update that is not a chain.

    ```python
    >>> import elbax, jax
    >>> x, model = elbax.datasets.old_faithful(), elbax.GaussianMixture(2)
    >>> params = model.init(jax.random.key(0), x)
    >>> em = elbax.em(model)
    >>> certified = elbax.wrappers.Certify(em, model)
    >>> state = certified.init(params, key=jax.random.key(1))
    >>> state, info = certified(state, x)
    >>> print(info.gains.shape, info.broken)
    (2,) -1

    ```
    """

    update: Chain
    model: AbstractModel
    chunk_size: int | None = eqx.field(static=True, default=None)

    def __check_init__(self):
        if not isinstance(self.update, Chain):
            raise TypeError(
                "Certify: update must be a Chain, because Certify measures the ELBO between its parts; got "
                f"{type(self.update).__name__}. Put other wrappers around Certify: Repeat(Certify(chain, model), "
                "10)."
            )

    @property
    def fixed_point(self) -> bool:
        return self.update.fixed_point

    def __call__(self, state: ELBOState, batch: PyTree) -> tuple[ELBOState, Certificate]:
        def measure(at):
            return elbo(
                self.model,
                at.params,
                at.posterior,
                batch,
                key=state.key,
                chunk_size=self.chunk_size,
            )

        values, infos, at = [measure(state)], [], state
        for at, info in self.update.walk(state, batch):
            values.append(measure(at))
            infos.append(info)
        values = jnp.stack(values)
        gains = jnp.diff(values)
        exact = not draws_anew(state.posterior)
        promised = [
            exact and part.keeps(Promise.BOUND) is Promise.BOUND for part in self.update.parts
        ]
        slack = max(1e-10, 64 * float(jnp.finfo(values.dtype).eps)) * (1 + jnp.abs(values[1:]))
        # A gain that is not finite also counts as a fall.
        fell = ~(gains >= -slack) & jnp.array(promised)
        broken = jnp.where(jnp.any(fell), jnp.argmax(fell), -1)
        info = self.update.summary(infos)
        return at, Certificate(**vars(info), gains=gains, broken=broken)
