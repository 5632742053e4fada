"""The predictive density by draws of the params."""

import equinox as eqx
import jax
import jax.numpy as jnp

from .._arguments import check_count
from .._door import check_model
from .._model import AbstractExponentialFamilyModel, AbstractModel
from .._types import Any, Array, Float, PyTree, Scalar
from ..data._check import check_no_nan
from ..families import Categorical


class Drawn(AbstractExponentialFamilyModel):
    r"""The average of a model over draws of its params: $p(x) = \frac{1}{S} \sum_s p(x \mid \theta_s)$.

    The latent is the number of the draw. Params: those of the model, with a leading axis of draws. Under draws
    from q(θ), the evidence of new data estimates their predictive density $E_q[p(x \mid \theta)]$. Its logarithm
    is slightly low on average, by half the relative variance of the density over draws divided by S.

    **Arguments:**

    - `model`: a model whose conditional p(z | x) is known.
    - `num_samples`: S.

    ```python
    >>> import elbax, jax.numpy as jnp
    >>> model = elbax.Mixture(elbax.components.Poisson(), 1)
    >>> drawn = elbax.beliefs.Drawn(model, 2)
    >>> params = {"logits": jnp.zeros((2, 1)), "components": {"log_rates": jnp.zeros((2, 1, 1))}}
    >>> print(f"{elbax.evidence(drawn, params, jnp.array([[0], [1]])):.3f}")
    -1.000

    ```
    """

    model: AbstractModel
    num_samples: int = eqx.field(static=True)

    def __init__(self, model: AbstractModel, num_samples: int):
        check_model(model, "Drawn")
        check_count("Drawn", num_samples=num_samples)
        self.model, self.num_samples = model, num_samples

    @property
    def latent(self) -> Categorical:
        """The family of the number of the draw, `Categorical(num_samples)`."""
        return Categorical(self.num_samples)

    def check(self, batch: PyTree, who: str = "fit") -> None:
        self.model.check(batch, who)

    def check_params(self, params: PyTree, who: str = "check_params") -> None:
        check_no_nan(params, who)
        for leaf in jax.tree.leaves(params):
            if jnp.shape(leaf)[:1] != (self.num_samples,):
                raise ValueError(
                    f"{who}: Drawn has num_samples {self.num_samples}, but the params have an array of shape "
                    f"{jnp.shape(leaf)}. Their leading axis must be that of the draws."
                )
        first = eqx.filter_eval_shape(
            lambda draws: jax.tree.map(lambda leaf: leaf[0], draws), params
        )
        self.model.check_params(first, who)

    def natural(self, params: PyTree) -> PyTree:
        """Returns the prepared coordinates of every draw."""
        return jax.vmap(lambda theta: self.model.prepare(self.model.natural(theta)))(params)

    def potentials(self, natural: PyTree, x: PyTree) -> tuple[Float[Array, " S"], Scalar]:
        """Returns (log p(x | θₛ) − log S for each s, 0)."""

        def one(natural):
            q = self.model.conditional(natural, x)
            return self.model.elbo(natural, x, q, jax.random.key(0))

        scores = jax.vmap(one)(natural)
        return scores - jnp.log(self.num_samples).astype(scores.dtype), jnp.zeros((), scores.dtype)

    def describe(self, params: PyTree) -> Any:
        """Returns the model's description of every draw."""
        return jax.vmap(self.model.describe)(params)
