"""The mixture: a categorical latent, and one density per value of it."""

import equinox as eqx
import jax
import jax.numpy as jnp

from .._arguments import check_count, check_kind
from .._door import enter_sample
from .._free import log_shares
from .._invariance import beside_by_name, Invariances, shifts
from .._math.algebra import log
from .._shortcut import Shortcut
from .._types import Any, Array, Bool, Float, Int, Key, PyTree, Scalar
from ..components import AbstractComponent
from ..data._batch import host_rows, rows
from ..data._check import check_described, check_each, check_enough, is_concrete
from ..families import Categorical, Distribution
from ..families._undefined import draw_label, where_defined
from ..priors import Dirichlet, StickBreaking
from ..priors._shares import vanished
from ..starts import AbstractPartitioned, shares_of


class Mixture(AbstractPartitioned):
    r"""A mixture $p(x, z = k) = \pi_k\, p(x \mid \theta_k)$ with a categorical latent z.

    The E-step is exact, and the M-step has a closed form if the component has one. `latent` is
    `Categorical(num_components)`. Params: `{"logits": (K,), "components": params of the component}`.

    **Arguments:**

    - `component`: the density, one of `elbax.components`, such as `Normal("full")`, `Bernoulli()`, `Poisson()`,
        `StudentT()`, `FactorAnalyzer(2)`, a `Product` of several for columns of mixed type, or
        `LinearRegression()` for a mixture of regressions.
    - `num_components`: K.
    - `prior`: a `Dirichlet` prior on the weights; or, for a `Bayesian`, `StickBreaking`.

    ```python
    >>> import elbax, jax, jax.numpy as jnp
    >>> model = elbax.Mixture(elbax.components.Poisson(), 2)
    >>> x = jnp.array([[0], [1], [0], [9], [12], [8]])
    >>> params = model.init(jax.random.key(0), x)
    >>> em = elbax.em(model)
    >>> state = em.init(params, key=jax.random.key(1))
    >>> result = elbax.fit(em, state, x)
    >>> print(jnp.sort(model.describe(result.state.params)["rates"][:, 0]).round(1))
    [0.3 9.7]

    ```
    """

    component: AbstractComponent
    num_components: int = eqx.field(static=True)
    prior: Dirichlet | StickBreaking | None

    def __init__(
        self,
        component: AbstractComponent,
        num_components: int,
        *,
        prior: Dirichlet | StickBreaking | None = None,
    ):
        check_components(type(self).__name__, component, num_components=num_components)
        if not isinstance(prior, StickBreaking):
            check_kind(type(self).__name__, Dirichlet, prior=prior)
        self.component = component
        self.num_components = num_components
        self.prior = prior

    @property
    def latent(self) -> Categorical:
        """The family of the component of a row, `Categorical(num_components)`."""
        return Categorical(self.num_components)

    def check(self, batch: PyTree, who: str = "fit") -> None:
        self.component.check(*host_rows(batch), who)

    @property
    def num_parts(self) -> int:
        return self.num_components

    def start_rows(self, batch: PyTree) -> tuple[PyTree, Array]:
        return start_rows(self.component, self.num_components, batch, f"{type(self).__name__}.init")

    def start_table(self, x: PyTree) -> Float[Array, "num_rows features"]:
        return self.component.table(x)

    def from_parts(self, x: PyTree, weight: Array, assignment: Array) -> PyTree:
        return {
            "logits": shares_of(weight, assignment, self.num_components),
            "components": self.component.init(x, weight, assignment, self.num_components),
        }

    @property
    def parted(self) -> dict[str, Any]:
        return {"components": self.component}

    @property
    def shapes(self) -> PyTree:
        return {
            "logits": (self.num_components,),
            "components": self.component.shapes(self.num_components),
        }

    def natural(self, params: PyTree) -> PyTree:
        r"""Returns $\log \pi_k$ and the components' coordinates, in which their log-densities are linear."""
        return {
            "logits": jax.nn.log_softmax(params["logits"]),
            "components": self.component.natural(params["components"]),
        }

    def potentials(self, natural: PyTree, x: PyTree) -> tuple[Float[Array, " K"], Scalar]:
        r"""Returns ($\log \pi_k + \log p(x \mid \theta_k)$ for each k, 0): responsibilities are its softmax."""
        densities = self.component.log_densities(natural["components"], x)
        return natural["logits"] + densities, jnp.zeros((), densities.dtype)

    def maximize(self, statistics: PyTree, params: PyTree, free: PyTree) -> PyTree:
        """Returns weights proportional to the expected counts, and the components' closed form.

        A component without data keeps its params, with the smallest weight that its dtype allows.
        """
        count = statistics["logits"]
        if self.prior is not None:
            count = count + self.prior.pseudo_count
        return {
            "logits": log_shares(count, params["logits"], free["logits"]),
            "components": self.component.maximize(
                statistics["components"], params["components"], free["components"]
            ),
        }

    def log_prior(self, params: PyTree) -> Scalar | float:
        total = self.component.log_prior(params["components"])
        if self.prior is not None:
            total += self.prior.log_density(jax.nn.log_softmax(params["logits"]))
        return total

    @property
    def knows_prior(self) -> bool:
        return True

    def latent_prior(self, params: PyTree, x: PyTree) -> Distribution:
        return self.latent(jax.nn.log_softmax(params["logits"]))

    def shortcut(self, params: PyTree, x: PyTree) -> Shortcut | None:
        found = self.component.shortcut(params["components"], x)
        if found is None:
            return None
        return found.around(lambda form: eqx.tree_at(lambda model: model.component, self, form))

    def impute(self, params: PyTree, x: PyTree, q: Any) -> tuple[PyTree, PyTree]:
        return self.component.impute(params["components"], x, q.mean())

    def describe(self, params: PyTree) -> dict[str, Any]:
        """Returns weights `(K,)` and the components' description (means, covariances, rates, …)."""
        weights = jax.nn.softmax(params["logits"])
        return {"weights": weights, **self.component.describe(params["components"])}

    def from_description(self, *, weights: Any, **described: Any) -> PyTree:
        """Returns params from a description, to start from given numbers or from another program's fit.

        Weights need not sum to 1: they are normalized.

        **Raises** `ValueError` for a wrong shape or an invalid number; the message names it.

        ```python
        >>> import elbax
        >>> model = elbax.Mixture(elbax.components.Poisson(), 2)
        >>> params = model.from_description(weights=[0.5, 0.5], rates=[[1.0], [3.0]])

        ```
        """
        check_described("Mixture", weights=(weights, (self.num_components,), "shares"))
        check_each("Mixture", self.num_components, described)
        return {
            "logits": log(jnp.asarray(weights, float)),
            "components": self.component.from_description(**described),
        }

    def sample(
        self, params: PyTree, key: Key, num_data: int | None = None, *, inputs: Any = None
    ) -> tuple[PyTree, Int[Array, " num_data"]]:
        """Returns `num_data` draws of (x, z); for regressions one (target, z) for each row of `inputs`."""
        if (num_data is None) == (inputs is None):
            raise TypeError("sample: pass either num_data or, for a regression, inputs.")
        params = enter_sample(self, params, key, num_data=num_data)
        keys = jax.random.split(key, len(inputs) if num_data is None else num_data)

        def one(key, inputs=None):
            key_z, key_x = jax.random.split(key)
            z = draw_label(key_z, params["logits"])
            x = self.component.sample(params["components"], z, key_x, inputs)
            return where_defined(z >= 0, x), z

        return jax.vmap(one)(keys) if inputs is None else jax.vmap(one)(keys, inputs)

    def invariances(self, params: PyTree) -> Invariances:
        """Returns the shifts of all logits, and the components' invariances."""
        return beside_by_name(
            {
                "logits": shifts(params["logits"].shape),
                "components": self.component.invariances(params["components"]),
            }
        )

    def at_boundary(self, params: PyTree, least: float) -> PyTree:
        return {
            "logits": vanished(params["logits"], least),
            "components": self.component.at_boundary(params["components"], least),
        }

    def nests(self, other: Any) -> bool:
        alike = isinstance(other, Mixture) and self.component == other.component
        return alike and self.prior is None and self.num_components >= other.num_components

    def summary(self) -> dict[str, Any]:
        own = {"K": self.num_components, "component": type(self.component).__name__}
        return own | self.component.summary()

    def collapsed(self, params: PyTree) -> Bool[Array, " K"]:
        """Returns which components have shrunk onto a few points, where the likelihood is unbounded."""
        return jnp.broadcast_to(
            self.component.collapsed(params["components"]), (self.num_components,)
        )

    def emptied(self, params: PyTree) -> Bool[Array, " K"]:
        """Returns which components have less than a thousandth of an equal share."""
        return jax.nn.softmax(params["logits"]) < 1e-3 / self.num_components

    def restart_components(
        self, params: PyTree, which: Bool[Array, " K"], x: PyTree, weight: Array, assignment: Array
    ) -> PyTree:
        """Restarts the components in `which` from this partition, as `init` does; the others are unchanged."""
        fresh = self.component.init(x, weight, assignment, self.num_components)
        logits = params["logits"]
        equal = jnp.full_like(logits, 1 / self.num_components)
        left = 1 - jnp.sum(jnp.where(which, equal, 0))
        staying = jax.nn.log_softmax(jnp.where(which, -jnp.inf, logits)) + jnp.log(left)
        return {
            "logits": jnp.where(which, jnp.log(equal), staying),
            "components": self.component.exchange(which, fresh, params["components"]),
        }


def check_components(who: str, component: Any, **number: int) -> None:
    if not isinstance(component, AbstractComponent):
        raise TypeError(
            f"{who}: expected a component such as elbax.components.Normal('full'), got {component!r}."
        )
    check_count(who, **number)


def start_rows(
    component: AbstractComponent, number: int, x: PyTree, who: str
) -> tuple[PyTree, Array]:
    """Returns (rows, weights) to start from, checked if their values are known."""
    if is_concrete(x):
        table, weight = host_rows(x)
        component.check(table, weight, who, varied=True)
        check_enough(weight, who, number)
    return rows(x)
