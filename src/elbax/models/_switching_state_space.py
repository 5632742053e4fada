"""The switching state space: linear dynamics, each step with those of a hidden regime."""

from typing import Literal, NoReturn

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from .._arguments import check_count, check_key, check_kind
from .._door import enter_sample
from .._math.algebra import log, matmul
from .._model import AbstractExponentialFamilyModel
from .._program import compiled
from .._reference import Reference
from .._types import Any, Array, Key, PyTree, Scalar
from ..data._batch import rows
from ..data._check import check_described
from ..data._sequence import all_steps, num_observed
from ..families import SwitchingChain
from ..families._undefined import draw_label
from ..priors import Dirichlet
from ..priors._shares import log_prior_of_shares, maximize_shares, vanished
from ._linear_gaussian_state_space import LinearGaussianStateSpace


_PARTS = ("initial", "transition", "emission")

Part = Literal["initial", "transition", "emission"]


class SwitchingStateSpace(AbstractExponentialFamilyModel):
    r"""A state space that switches between regimes along a Markov chain $s_t$ (Ghahramani and Hinton 2000):

    $$z_{t+1} \sim N(A_{s_{t+1}} z_t + b_{s_{t+1}}, Q_{s_{t+1}}),
        \quad x_t \sim N(C_{s_t} z_t + d_{s_t}, R_{s_t}).$$

    A datum is a sequence as for `LinearGaussianStateSpace`, with the same rules for lengths and missing values.
    The latent is the pair (switches (T,), states (T, dim)). Its posterior is a mixture of $K^T$ Gaussians, so q is
    a product of a Markov chain and a Gaussian chain, each exact given the other: `MeanFieldEStep` with a table, or
    `CoordinateAscentEStep` without one. `elbax.elbo` is the bound; the evidence is not known.

    Params: `{"switches": {"initial": (K,), "transition": (K, K)}}`, logits, and the parts `"initial"`,
    `"transition"`, `"emission"` of the regime's params; those that switch have a leading axis of regimes.

    **Arguments:**

    - `regime`: the model of one regime, a `LinearGaussianStateSpace`. All noise must be positive definite.
    - `num_regimes`: K.
    - `switching`: the parts that differ between regimes; the others are shared.
    - `prior`, `transition_prior`: `Dirichlet` priors on the first regime and on the rows of the switches' matrix.

    ```python
    >>> import elbax, jax, jax.numpy as jnp
    >>> noise = jax.random.normal(jax.random.key(0), (80,))
    >>> x = (jnp.where(jnp.arange(80) < 40, 0.1, 2.0) * noise)[None, :, None]  # quiet, then wild
    >>> regime = elbax.LinearGaussianStateSpace(1, floor=0.01)
    >>> model = elbax.SwitchingStateSpace(regime, 2)
    >>> params = model.init(jax.random.key(1), x)
    >>> posterior = elbax.posteriors.MeanField.init(model, params, x)
    >>> em = elbax.Chain(elbax.MeanFieldEStep(model, 3), elbax.ClosedFormMStep(model))
    >>> result = elbax.fit(em, em.init(params, posterior, key=jax.random.key(2)), x, max_steps=40)
    >>> switches, states = result.state.posterior(x[0], index=0).mode()
    >>> int(jnp.sum(jnp.abs(jnp.diff(switches))))
    1

    ```
    """

    regime: LinearGaussianStateSpace
    num_regimes: int = eqx.field(static=True)
    switching: tuple[Part, ...] = eqx.field(static=True)
    prior: Dirichlet | None
    transition_prior: Dirichlet | None

    def __init__(
        self,
        regime: LinearGaussianStateSpace,
        num_regimes: int,
        *,
        switching: Any = ("transition", "emission"),
        prior: Dirichlet | None = None,
        transition_prior: Dirichlet | None = None,
    ):
        who = "SwitchingStateSpace"
        check_count(who, num_regimes=num_regimes)
        check_kind(who, LinearGaussianStateSpace, regime=regime)
        if any(prior is not None for prior in regime.priors.values()):
            raise ValueError(
                f"{who}: the regime has priors, which this model does not take. Leave them out of the regime."
            )
        check_kind(who, Dirichlet, prior=prior, transition_prior=transition_prior)
        switching = (switching,) if isinstance(switching, str) else tuple(switching)
        if not switching or not {*switching} <= {*_PARTS}:
            raise ValueError(f"{who}: switching must name some of {_PARTS}, got {switching!r}.")
        self.regime = regime
        self.num_regimes = num_regimes
        self.switching = tuple(name for name in _PARTS if name in switching)
        self.prior = prior
        self.transition_prior = transition_prior

    @property
    def latent(self) -> SwitchingChain:
        """The family of switches and states, a `SwitchingChain(num_regimes, regime.dim)`."""
        return SwitchingChain(self.num_regimes, self.regime.dim)

    @property
    def exact(self) -> bool:
        return False

    def conditional(self, natural: PyTree, x: PyTree) -> NoReturn:
        raise TypeError(
            "SwitchingStateSpace: p(switches, states | sequence) and the evidence are not known. Use "
            "MeanFieldEStep or CoordinateAscentEStep, and elbax.elbo with their posterior."
        )

    def potentials_at(self, natural: PyTree, x: PyTree) -> PyTree:
        return self.potentials(natural, x)[0]

    def check(self, batch: PyTree, who: str = "fit") -> None:
        self.regime.check(batch, who)

    def init(self, key: Key, x: PyTree) -> PyTree:
        """Returns regimes about one fit's start, with noise of different sizes and matrices moved by the key.

        It is a pure function of the key, so restarts may be vmapped.

        **Raises** `ValueError` for data that no fit could use.
        """
        check_key(key, "SwitchingStateSpace.init")
        key_regime, key_moves = jax.random.split(key)
        return _start(self, key_moves, self.regime.init(key_regime, x))

    @property
    def shapes(self) -> PyTree:
        number, of_one = self.num_regimes, self.regime.shapes

        def stacked(shape):
            if isinstance(shape, Reference):
                return Reference(stacked(shape.value))
            return (number, *shape)

        is_shape = lambda node: isinstance(node, tuple | Reference)
        for name in self.switching:
            of_one[name] = jax.tree.map(stacked, of_one[name], is_leaf=is_shape)
        return of_one | {"switches": {"initial": (number,), "transition": (number, number)}}

    @property
    def _axes(self) -> dict[str, int | None]:
        """The axis of regimes of each part, as `jax.vmap` takes it."""
        return {name: 0 if name in self.switching else None for name in _PARTS}

    def _in_regimes(self, function: Any, name: str, *trees: PyTree) -> PyTree:
        """Applies a function to one part of each regime, or of all if they share it."""
        return (jax.vmap(function) if name in self.switching else function)(*trees)

    def _sizes(self, params: PyTree) -> dict[str, tuple[int, int]]:
        """Returns (outputs, inputs) of each part."""
        dim = self.regime.dim
        outputs = params["emission"]["matrix"].shape[-2]
        return {"initial": (dim, 0), "transition": (dim, dim), "emission": (outputs, dim)}

    def natural(self, params: PyTree) -> PyTree:
        sizes = self._sizes(params)
        found = {
            name: self._in_regimes(
                lambda own, name=name, part=part: part.natural(own, *sizes[name]),
                name,
                params[name],
            )
            for name, part in self.regime._parts.items()
        }
        return found | {"switches": jax.tree.map(jax.nn.log_softmax, params["switches"])}

    def rebase(self, natural: PyTree, params: PyTree) -> PyTree:
        sizes = self._sizes(params)
        moved = {
            name: self._in_regimes(
                lambda own, new, name=name, part=part: part.rebase(own, new, *sizes[name]),
                name,
                natural[name],
                params[name],
            )
            for name, part in self.regime._parts.items()
        }
        return natural | moved

    def prepare(self, natural: PyTree) -> PyTree:
        """Returns the conditionals of all regimes."""
        parts = self.regime._parts
        return natural | {
            name: self._in_regimes(part.conditional, name, natural[name])
            for name, part in parts.items()
        }

    def potentials(self, natural: PyTree, x: PyTree) -> tuple[PyTree, Scalar]:
        own = {name: natural[name] for name in _PARTS}
        in_one = lambda own: self.regime.potentials(own, x)
        regimes, constants = jax.vmap(in_one, (self._axes,), axis_size=self.num_regimes)(own)
        return {"switches": natural["switches"], "regimes": regimes}, constants[0]

    def maximize(self, statistics: PyTree, params: PyTree, free: PyTree) -> PyTree:
        """Returns each regime's weighted least squares with its noise, and the switches' expected frequencies."""
        sizes, moved = self._sizes(params), {}
        for name, part in self.regime._parts.items():
            flags, masks = eqx.partition(free[name], lambda flag: isinstance(flag, bool))
            masks = jax.tree.map(
                lambda mask, leaf: None if mask is None else jnp.broadcast_to(mask, leaf.shape),
                masks,
                params[name],
                is_leaf=lambda node: node is None,
            )

            def one(statistics, params, masks, name=name, part=part, flags=flags):
                free = eqx.combine(flags, masks)
                return part.maximize(statistics, params, free, sizes[name][0], self.regime.floor)

            moved[name] = self._in_regimes(one, name, statistics[name], params[name], masks)
        possible = np.ones(self.num_regimes, bool)
        moved["switches"] = {
            name: maximize_shares(
                statistics["switches"][name],
                params["switches"][name],
                free["switches"][name],
                possible,
                prior,
            )
            for name, prior in self._priors.items()
        }
        return moved

    @property
    def _priors(self) -> dict[str, Dirichlet | None]:
        return {"initial": self.prior, "transition": self.transition_prior}

    def log_prior(self, params: PyTree) -> Scalar | float:
        total, sizes = 0.0, self._sizes(params)
        for name, part in self.regime._parts.items():
            if self.regime.floor:
                each = self._in_regimes(
                    lambda own, name=name, part=part: part.log_prior(
                        own, sizes[name][0], self.regime.floor
                    ),
                    name,
                    params[name],
                )
                total += jnp.sum(each)
        possible = np.ones(self.num_regimes, bool)
        for name, prior in self._priors.items():
            total += log_prior_of_shares(params["switches"][name], possible, prior)
        return total

    def describe(self, params: PyTree) -> dict[str, Any]:
        """Returns the switches' initial (K,) and transition (K, K) probabilities, and each regime's own."""
        return {
            "initial": jax.nn.softmax(params["switches"]["initial"]),
            "transition": jax.nn.softmax(params["switches"]["transition"]),
            "regimes": [
                self.regime.describe(self._regime_params(params, k))
                for k in range(self.num_regimes)
            ],
        }

    def _regime_params(self, params: PyTree, number: Any) -> PyTree:
        """Returns the params of one regime."""
        pick = lambda tree: jax.tree.map(lambda leaf: leaf[number], tree)
        return {
            name: pick(params[name]) if name in self.switching else params[name] for name in _PARTS
        }

    def from_description(self, *, initial: Any, transition: Any, regimes: Any) -> PyTree:
        """Returns params from probabilities of the switches, and one description of each regime.

        Regimes are dictionaries of what `regime.from_description` takes. What they share is taken from the first.

        **Raises** `ValueError` for another number of regimes, a wrong shape or an invalid number.
        """
        number, regimes = self.num_regimes, list(regimes)
        if len(regimes) != number:
            raise ValueError(
                f"SwitchingStateSpace: expected descriptions of {number} regimes, got {len(regimes)}."
            )
        check_described(
            "SwitchingStateSpace",
            initial=(initial, (number,), "shares"),
            transition=(transition, (number, number), "shares"),
        )
        each = [self.regime.from_description(**described) for described in regimes]
        stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *each)
        found = {
            name: stacked[name] if name in self.switching else each[0][name] for name in _PARTS
        }
        switches = {"initial": initial, "transition": transition}
        logits = {name: log(jnp.asarray(table, float)) for name, table in switches.items()}
        return found | {"switches": logits}

    def sample(self, params: PyTree, key: Key, num_data: int, length: int) -> tuple[Array, PyTree]:
        """Returns `num_data` sequences (x, (switches, states)) of `length` steps."""
        params = enter_sample(self, params, key, num_data=num_data, length=length)
        sizes, switches = self._sizes(params), params["switches"]

        def draw(name, number, inputs, key):
            own = self._regime_params(params, number)[name]
            root = self.regime._parts[name].root(own, sizes[name][0])
            noise = jax.random.normal(key, root.shape[:1], root.dtype)
            mean = own.get("offset", 0.0) + matmul(root, noise)
            return mean if inputs is None else mean + matmul(own["matrix"], inputs)

        def one(key):
            key_switch, key_state, *keys = jax.random.split(key, length + 2)
            first = draw_label(key_switch, switches["initial"])

            def step(carry, key):
                switch, state = carry
                key_x, key_switch, key_state = jax.random.split(key, 3)
                x = draw("emission", switch, state, key_x)
                after = draw_label(key_switch, switches["transition"][switch])
                moved = draw("transition", after, state, key_state)
                return (after, moved), (x, (switch, state))

            begin = first, draw("initial", first, None, key_state)
            return jax.lax.scan(step, begin, jnp.stack(keys))[1]

        return jax.vmap(one)(jax.random.split(key, num_data))

    def at_boundary(self, params: PyTree, least: float) -> PyTree:
        nothing = jax.tree.map(lambda leaf: np.zeros(np.shape(leaf), bool), params)
        switches = params["switches"]
        return nothing | {
            "switches": {name: vanished(table, least) for name, table in switches.items()}
        }

    def num_observations(self, batch: PyTree) -> float:
        return num_observed(*all_steps(*rows(batch)))

    def summary(self) -> dict[str, Any]:
        return {"K": self.num_regimes} | self.regime.summary()


@compiled
def _start(model: SwitchingStateSpace, key: Key, params: PyTree) -> PyTree:
    number, sizes = model.num_regimes, model._sizes(params)
    dtype = params["initial"]["offset"].dtype
    factors = jnp.exp(jnp.linspace(-0.7, 0.7, number, dtype=dtype)) if number > 1 else jnp.ones(1)
    for name in model.switching:
        part, own = model.regime._parts[name], params[name]
        root = part.root(own, sizes[name][0])
        stacked = jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (number, *leaf.shape)), own)
        stacked["scale"] = jax.vmap(lambda factor, p=part, r=root: p.noise.pack(factor * r))(
            factors
        )
        if name == "transition" and number > 1:
            matrix = stacked["matrix"]
            stacked["matrix"] = matrix + 0.1 * jax.random.normal(key, matrix.shape, dtype)
        params = params | {name: stacked}
    sticky = jnp.log(0.8 * jnp.eye(number, dtype=dtype) + 0.2 / number)
    return params | {"switches": {"initial": jnp.zeros(number, dtype), "transition": sticky}}
