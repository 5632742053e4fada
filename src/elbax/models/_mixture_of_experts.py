"""The mixture of experts: a mixture whose weights depend on the inputs."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from .._arguments import check_not_negative
from .._door import enter_sample
from .._free import is_frozen
from .._invariance import beside_by_name, Invariances, nothing, shifts
from .._reference import split_coordinates
from .._shortcut import Shortcut
from .._types import Any, Array, Bool, Float, Int, Key, PyTree, Scalar
from ..components import AbstractComponent
from ..components._linear import described, linear
from ..data._batch import host_rows
from ..data._check import check_described, check_each
from ..families import Categorical, Distribution
from ..families._undefined import draw_label, where_defined
from ..starts import AbstractPartitioned
from ._mixture import check_components, start_rows


class MixtureOfExperts(AbstractPartitioned):
    r"""A mixture of experts $p(y, z = k \mid u) = g_k(u)\, p(y \mid u, \theta_k)$ with a softmax gate g.

    See Jordan and Jacobs (1994). A datum is `(inputs, target)`. Params: `{"gate": f, "experts": params of the
    component}`. The gate is softmax f(u), where f is a callable pytree from inputs to `(K,)`: linear from `init`,
    or any `elbax.Network`. The gate has no closed M-step; the experts may have one:

        elbax.Chain(
            elbax.ExactEStep(model),
            elbax.ClosedFormMStep(model, free={"gate": False, "experts": True}),
            elbax.NewtonMStep(model, free={"gate": True, "experts": False}),
        )

    is EM with iteratively reweighted least squares for the gate. With `GradientMStep` gate and experts may be
    networks.

    **Arguments:**

    - `expert`: `elbax.components.LinearRegression()`, or `GeneralizedLinear(response)`.
    - `num_experts`: K.
    - `ridge`: the weight of the penalty −½ ridge Σ w² on the gate's weights w (a normal prior). If the experts
        separate the inputs sharply, as they often do, the likelihood grows without bound in the gate's weights; a
        small ridge bounds them.

    ```python
    >>> import elbax, jax, jax.numpy as jnp
    >>> u = jnp.linspace(-1.0, 1.0, 60)[:, None]
    >>> x = (u, jnp.abs(u[:, 0]))
    >>> model = elbax.MixtureOfExperts(elbax.components.LinearRegression(), 2)
    >>> params = model.init(jax.random.key(0), x)
    >>> model.predict(params, u[0]).shape
    ()

    ```
    """

    expert: AbstractComponent
    num_experts: int = eqx.field(static=True)
    ridge: float = eqx.field(static=True)

    def __init__(self, expert: AbstractComponent, num_experts: int, *, ridge: float = 0.0):
        check_components("MixtureOfExperts", expert, num_experts=num_experts)
        if type(expert).predict is AbstractComponent.predict:
            raise TypeError(
                "MixtureOfExperts: expert must be a regression, such as elbax.components.LinearRegression(); "
                f"got {expert!r}. For data without inputs use Mixture."
            )
        check_not_negative("MixtureOfExperts", ridge=ridge)
        self.expert = expert
        self.num_experts = num_experts
        self.ridge = float(ridge)

    @property
    def latent(self) -> Categorical:
        """The family of the expert of a row, `Categorical(num_experts)`."""
        return Categorical(self.num_experts)

    def check(self, batch: PyTree, who: str = "fit") -> None:
        self.expert.check(*host_rows(batch), who)

    @property
    def num_parts(self) -> int:
        return self.num_experts

    def start_rows(self, batch: PyTree) -> tuple[PyTree, Array]:
        return start_rows(self.expert, self.num_experts, batch, "MixtureOfExperts.init")

    def start_table(self, x: PyTree) -> Float[Array, "num_rows features"]:
        """Returns inputs and targets side by side."""
        return self.expert.table(x)

    def from_parts(self, x: PyTree, weight: Array, assignment: Array) -> PyTree:
        """Returns experts of the parts, and a uniform gate."""
        num_inputs = x[0].shape[-1]
        gate = linear(jnp.zeros((self.num_experts, num_inputs + 1), weight.dtype))
        return {
            "gate": gate,
            "experts": self.expert.init(x, weight, assignment, self.num_experts),
        }

    @property
    def parted(self) -> dict[str, Any]:
        return {"experts": self.expert}

    @property
    def shapes(self) -> PyTree:
        return {"gate": callable, "experts": self.expert.shapes(self.num_experts)}

    def natural(self, params: PyTree) -> PyTree:
        return params | {"experts": self.expert.natural(params["experts"])}

    def gate(self, params: PyTree, inputs: Array) -> Float[Array, " K"]:
        """Returns log g(u)."""
        return jax.nn.log_softmax(params["gate"](inputs))

    def potentials(self, natural: PyTree, x: PyTree) -> tuple[Float[Array, " K"], Scalar]:
        densities = self.expert.log_densities(natural["experts"], x)
        return self.gate(natural, x[0]) + densities, jnp.zeros((), densities.dtype)

    @property
    def knows_prior(self) -> bool:
        return True

    def latent_prior(self, params: PyTree, x: PyTree) -> Distribution:
        return self.latent(self.gate(params, x[0]))

    def maximize(self, statistics: PyTree, params: PyTree, free: PyTree) -> PyTree:
        """Returns the experts' closed form.

        **Raises** `TypeError` if the gate is free too: it depends on the inputs, so it has no sufficient
        statistics.
        """
        if not is_frozen(free["gate"]):
            raise TypeError(
                "MixtureOfExperts: the gate depends on the inputs, so it has no closed-form M-step. In one "
                'Chain, use ClosedFormMStep(model, free={"gate": False, "experts": True}) and then '
                'NewtonMStep(model, free={"gate": True, "experts": False}) or a GradientMStep.'
            )
        experts = self.expert.maximize(statistics["experts"], params["experts"], free["experts"])
        return params | {"experts": experts}

    def log_prior(self, params: PyTree) -> Scalar | float:
        total = self.expert.log_prior(params["experts"])
        if self.ridge:
            weights = split_coordinates(params["gate"])[0]
            total -= 0.5 * self.ridge * sum(jnp.sum(leaf**2) for leaf in jax.tree.leaves(weights))
        return total

    def shortcut(self, params: PyTree, x: PyTree) -> Shortcut | None:
        found = self.expert.shortcut(params["experts"], x)
        if found is None:
            return None
        return found.around(lambda form: eqx.tree_at(lambda model: model.expert, self, form))

    def describe(self, params: PyTree) -> dict[str, Any]:
        """Returns the gate's coefficients `(K, num_inputs + 1)`, with last row 0, and the experts' description."""
        gate = described(params["gate"])
        if "coefficients" in gate:
            gate = gate["coefficients"] - gate["coefficients"][-1]
        return {"gate": gate, **self.expert.describe(params["experts"])}

    def from_description(self, *, gate: Any, **experts: Any) -> PyTree:
        """Returns params from gate coefficients `(K, num_inputs + 1)` and a description of the experts."""
        shape = (self.num_experts, "num_inputs + 1")
        check_described("MixtureOfExperts", gate=(gate, shape, "finite"))
        check_each("MixtureOfExperts", self.num_experts, experts)
        coefficients = jnp.asarray(gate, float)
        return {"gate": linear(coefficients), "experts": self.expert.from_description(**experts)}

    def predict(self, params: PyTree, inputs: Float[Array, " P"]) -> Scalar:
        """Returns E[y | u] for one row of inputs."""
        return jnp.sum(
            jnp.exp(self.gate(params, inputs)) * self.expert.predict(params["experts"], inputs)
        )

    def sample(
        self, params: PyTree, key: Key, inputs: Float[Array, "num_data P"]
    ) -> tuple[Array, Int[Array, " num_data"]]:
        """Returns a target and the expert that produced it, (y, z), for each row of inputs."""

        params = enter_sample(self, params, key)

        def one(key, inputs):
            key_z, key_y = jax.random.split(key)
            z = draw_label(key_z, params["gate"](inputs))
            return where_defined(z >= 0, self.expert.sample(params["experts"], z, key_y, inputs)), z

        return jax.vmap(one)(jax.random.split(key, len(inputs)), inputs)

    def invariances(self, params: PyTree) -> Invariances:
        """Returns the common shifts of a linear gate's outputs, none for a network's, and those of the experts."""
        gate = described(params["gate"])
        linear_gate = "coefficients" in gate
        return beside_by_name(
            {
                "gate": shifts(gate["coefficients"].shape, axis=0)
                if linear_gate
                else nothing(params["gate"]),
                "experts": self.expert.invariances(params["experts"]),
            }
        )

    def at_boundary(self, params: PyTree, least: float) -> PyTree:
        return {
            "gate": jax.tree.map(lambda leaf: np.zeros(np.shape(leaf), bool), params["gate"]),
            "experts": self.expert.at_boundary(params["experts"], least),
        }

    def nests(self, other: Any) -> bool:
        alike = isinstance(other, MixtureOfExperts) and self.expert == other.expert
        return alike and self.ridge == 0 and self.num_experts >= other.num_experts

    def summary(self) -> dict[str, Any]:
        own = {"K": self.num_experts, "component": type(self.expert).__name__}
        return own | self.expert.summary()

    def collapsed(self, params: PyTree) -> Bool[Array, " K"]:
        """Returns which experts have shrunk onto a few points, where the likelihood is unbounded."""
        return jnp.broadcast_to(self.expert.collapsed(params["experts"]), (self.num_experts,))
