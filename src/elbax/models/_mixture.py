"""A mixture: a categorical latent and one density a value of it."""

import equinox as eqx
import jax
import jax.numpy as jnp

from .._check import check_table
from .._model import AbstractExponentialFamilyModel
from .._types import Array, Bool, Float, Int, Key, PyTree, Scalar
from ..components import AbstractComponent
from ..families import Categorical
from ._k_means import k_means


class Mixture(AbstractExponentialFamilyModel):
    r"""$p(x, z = k) = \pi_k\, p(x \mid \theta_k)$, with z categorical.

    Params: `{"logits": (K,), "components": the component's own}`. Exact E-step and closed-form M-step
    by the exponential family's two identities; `latent` is `Categorical(num_components)`.

    **Arguments:**

    - `component`: an `elbax.components.AbstractComponent`, such as `elbax.components.Normal("full")`.
    - `num_components`: K.
    """

    component: AbstractComponent
    num_components: int = eqx.field(static=True)

    def __init__(self, component: AbstractComponent, num_components: int):
        if not isinstance(component, AbstractComponent):
            raise TypeError(
                "Mixture: component must be a component such as elbax.components.Normal('full'), got "
                f"{component!r}."
            )
        if num_components < 1:
            raise ValueError(f"Mixture: num_components must be at least 1, got {num_components}.")
        self.component = component
        self.num_components = num_components

    @property
    def latent(self) -> Categorical:
        return Categorical(self.num_components)

    def init(self, key: Key, x: PyTree) -> PyTree:
        """Params from a k-means++ start: a pure function of the key, so restarts may be vmapped.

        `x` has shape `(num_data, dim)`, or is a `Batch`.

        **Raises** `ValueError` for data that no fit could use (it names the row or the column).
        """
        x, weight = check_table(x, "Mixture.init", at_least=self.num_components)
        return _start(self, key, x, weight)

    def natural(self, params: PyTree) -> PyTree:
        return {
            "logits": jax.nn.log_softmax(params["logits"]),
            "components": self.component.natural(params["components"]),
        }

    def prepare(self, natural: PyTree) -> PyTree:
        return natural | {"components": self.component.prepare(natural["components"])}

    def potentials(self, natural: PyTree, x: Array) -> tuple[Float[Array, " K"], Scalar]:
        densities = self.component.log_densities(natural["components"], x)
        return natural["logits"] + densities, jnp.zeros((), densities.dtype)

    def maximize(self, statistics: PyTree, params: PyTree) -> PyTree:
        """Weights in proportion to the expected counts, and the components' own closed form.

        A component without data keeps its place, with a weight as small as its dtype allows.
        """
        count = statistics["logits"]
        tiny = jnp.finfo(count.dtype).tiny
        return {
            "logits": jax.nn.log_softmax(jnp.log(jnp.maximum(count, tiny))),
            "components": self.component.maximize(statistics["components"], params["components"]),
        }

    def log_prior(self, params: PyTree) -> Scalar | float:
        return self.component.log_prior(params["components"])

    def latent_prior(self, params: PyTree) -> Float[Array, " K"]:
        return jax.nn.log_softmax(params["logits"])

    def shortcut(self, params: PyTree) -> "tuple[Bool[Array, ''], Mixture] | None":
        found = self.component.shortcut(params["components"])
        if found is None:
            return None
        allowed, component = found
        return allowed, Mixture(component, self.num_components)

    def describe(self, params: PyTree) -> dict[str, Array]:
        """Weights `(K,)`, and what the components say of themselves (means, covariances, …)."""
        weights = jax.nn.softmax(params["logits"])
        return {"weights": weights, **self.component.describe(params["components"])}

    def sample(
        self, params: PyTree, key: Key, num_data: int
    ) -> tuple[Array, Int[Array, " num_data"]]:
        """`num_data` draws of (x, z)."""

        def one(key):
            key_z, key_x = jax.random.split(key)
            z = jax.random.categorical(key_z, params["logits"])
            return self.component.sample(params["components"], z, key_x), z

        return jax.vmap(one)(jax.random.split(key, num_data))

    def num_free_params(self, params: PyTree) -> int:
        """How many numbers a fit estimates: the parameter count of AIC and BIC."""
        return self.num_components - 1 + self.component.num_free_params(params["components"])

    def collapsed(self, params: PyTree) -> Bool[Array, " K"]:
        """Which components have shrunk onto a few points, where the likelihood is unbounded."""
        return self.component.collapsed(params["components"])


@eqx.filter_jit
def _start(model: Mixture, key: Key, x: Array, weight: Array) -> PyTree:
    assignment = k_means(key, x, weight, model.num_components)
    mass = jax.ops.segment_sum(weight, assignment, model.num_components)
    floor = 1e-3 * jnp.sum(weight) / model.num_components
    return {
        "logits": jax.nn.log_softmax(jnp.log(jnp.maximum(mass, floor))),
        "components": model.component.init(x, weight, assignment, model.num_components),
    }
