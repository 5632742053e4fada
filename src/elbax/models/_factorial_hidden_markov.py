"""The factorial hidden Markov model: several chains that add up in what is observed."""

import math

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from .._arguments import (
    check_choice,
    check_count,
    check_key,
    check_kind,
    check_not_negative,
    in_full,
)
from .._door import enter_sample
from .._invariance import beside_by_name, Invariances, nothing, shifts
from .._math.algebra import log, matmul, vdot
from .._math.linear_algebra import cholesky
from .._math.triangularize import invert_noise
from .._model import AbstractExponentialFamilyModel
from .._program import compiled
from .._reference import Reference
from .._types import Any, Array, Int, Key, PyTree, Scalar
from ..components._parts import pooled_covariance
from ..components._unit import positive_variance, with_given_unit
from ..data._batch import host_rows, rows
from ..data._check import check_described, check_table, is_concrete
from ..data._incomplete_rows import is_incomplete
from ..data._sequence import all_steps, as_sequence, check_sequences, num_observed, values_of
from ..families import CoupledChains
from ..families._undefined import draw_label
from ..priors import Dirichlet
from ..priors._shares import log_prior_of_shares, maximize_shares, vanished
from ._linear_gaussian import LinearGaussian
from ._linear_gaussian_state_space import NOISE, Noise


_LOG_2PI = math.log(2 * math.pi)


class FactorialHiddenMarkovModel(AbstractExponentialFamilyModel):
    r"""A factorial hidden Markov model (Ghahramani and Jordan 1997): C independent Markov chains of K states, and

    $$x_t \sim N\Big(b + \sum_c M_c[z_{ct}],\; R\Big).$$

    A datum is one sequence, an array `(T, dim)`; sequences of different lengths are given as
    `elbax.sequences(...)`. Params: `{"initial": (C, K), "transition": (C, K, K)}`, logits, and `"emission":
    {"matrix": (dim, C (K - 1)), "offset": (dim,), "scale"}`. A constant could be moved from one chain to another,
    so the states of each chain have mean zero, and the matrix acts on K − 1 orthonormal contrasts of them. With a
    floor the emission holds a `"unit"`, a `Reference` to the standard deviations of the data's columns. The ELBO
    is in nats per sequence.

    With `MeanFieldEStep(model)` each chain is exact given the marginals of the others (the structured
    approximation). With `ExactEStep(model)` inference is that of all $K^C$ states together, for small C. The
    M-step is the regression of x on the states of all chains.

    **Arguments:**

    - `num_chains`, `num_states`: C and K.
    - `noise`: the structure of R, `"full"`, `"diagonal"` or `"isotropic"`.
    - `prior`, `transition_prior`: `Dirichlet` priors on the first states and on the rows of all transition
        matrices.
    - `floor`: the weight of the penalty −½ floor · tr R⁻¹D, where D are the variances of the data's columns; 0
        turns it off.
    - `limit`: the largest table of exact inference, as for `elbax.families.CoupledChains`.

    ```python
    >>> import elbax, jax, jax.numpy as jnp
    >>> steps = jnp.arange(40.0)
    >>> x = 1.0 * (steps // 5 % 2) + 3.0 * (steps // 8 % 2)  # two switches
    >>> x = (x + 0.1 * jnp.sin(7.0 * steps**2))[None, :, None]
    >>> model = elbax.FactorialHiddenMarkovModel(2, 2)
    >>> params = model.init(jax.random.key(1), x)
    >>> posterior = elbax.posteriors.MeanField.init(model, params, x)
    >>> em = elbax.Chain(elbax.MeanFieldEStep(model, 3), elbax.ClosedFormMStep(model))
    >>> result = elbax.fit(em, em.init(params, posterior, key=jax.random.key(0)), x)
    >>> jumps = jnp.diff(model.describe(result.state.params)["means"][:, :, 0], axis=1)
    >>> sorted(abs(jumps[:, 0]).round(1).tolist())
    [1.0, 3.0]

    ```
    """

    num_chains: int = eqx.field(static=True)
    num_states: int = eqx.field(static=True)
    noise: Noise = eqx.field(static=True)
    prior: Dirichlet | None
    transition_prior: Dirichlet | None
    floor: float = eqx.field(static=True)
    limit: int = eqx.field(static=True)

    def __init__(
        self,
        num_chains: int,
        num_states: int,
        *,
        noise: Noise = "full",
        prior: Dirichlet | None = None,
        transition_prior: Dirichlet | None = None,
        floor: float = 1e-6,
        limit: int = 2**20,
    ):
        who = "FactorialHiddenMarkovModel"
        check_count(who, num_chains=num_chains, num_states=num_states, limit=limit)
        noise = in_full(noise)
        check_choice(who, NOISE, noise=noise)
        check_kind(who, Dirichlet, prior=prior, transition_prior=transition_prior)
        check_not_negative(who, floor=floor)
        self.num_chains = num_chains
        self.num_states = num_states
        self.noise = noise
        self.prior = prior
        self.transition_prior = transition_prior
        self.floor = float(floor)
        self.limit = limit

    @property
    def latent(self) -> CoupledChains:
        """The family of the paths of all chains, a `CoupledChains(num_chains, num_states)`."""
        return CoupledChains(self.num_chains, self.num_states, limit=self.limit)

    @property
    def _emission(self) -> LinearGaussian:
        return LinearGaussian(NOISE[self.noise])

    @property
    def _width(self) -> int:
        return self.num_chains * (self.num_states - 1)

    @property
    def _contrasts(self) -> np.ndarray:
        """The contrasts of the indicators of all states, (C K, C (K − 1)), orthonormal columns."""
        states = self.num_states
        # Helmert's: each state against the mean of those before it.
        helmert = np.zeros((states, states - 1))
        for j in range(states - 1):
            helmert[: j + 1, j] = -1.0
            helmert[j + 1, j] = j + 1.0
        helmert /= np.linalg.norm(helmert, axis=0)
        return np.kron(np.eye(self.num_chains), helmert)

    def check(self, batch: PyTree, who: str = "fit") -> None:
        x, weight = host_rows(batch)
        if is_incomplete(values_of(x)):
            raise ValueError(
                f"{who}: FactorialHiddenMarkovModel takes sequences without gaps; got missing values. Fill them, "
                "or cut the sequences there."
            )
        check_sequences(x, weight, who, 3)
        check_table(*all_steps(x, weight), who, varied=False)

    def init(self, key: Key, x: PyTree) -> PyTree:
        """Returns sticky chains, and states at random in proportion to the spread of the steps.

        It is a pure function of the key, so restarts may be vmapped.

        **Raises** `ValueError` for data that no fit could use.
        """
        check_key(key, "FactorialHiddenMarkovModel.init")
        if is_concrete(x):
            self.check(x, "FactorialHiddenMarkovModel.init")
        return _start(self, key, *all_steps(*rows(x)))

    @property
    def shapes(self) -> PyTree:
        chains, states = self.num_chains, self.num_states
        return {
            "initial": (chains, states),
            "transition": (chains, states, states),
            "emission": {
                "matrix": ("dim", self._width),
                "offset": ("dim",),
                "scale": NOISE[self.noise].shape("dim"),
                "unit": Reference(("dim",)),
            },
        }

    def natural(self, params: PyTree) -> PyTree:
        emission = params["emission"]
        return {
            "initial": jax.nn.log_softmax(params["initial"]),
            "transition": jax.nn.log_softmax(params["transition"]),
            "emission": self._emission.natural(emission, len(emission["offset"]), self._width),
        }

    def rebase(self, natural: PyTree, params: PyTree) -> PyTree:
        emission = params["emission"]
        moved = self._emission.rebase(
            natural["emission"], emission, len(emission["offset"]), self._width
        )
        return natural | {"emission": moved}

    def prepare(self, natural: PyTree) -> PyTree:
        """Returns the log-density of a step as a quadratic form in the indicators of all states.

        In units of the noise the residual is ε = w − V u with w = L⁻¹(x − b) and the contrasts u, and the
        log-density is quadratic in ε and u (see `LinearGaussian`): a term in w alone, one linear in u, and
        −½ u·Q u.
        """
        emission = natural["emission"]
        about = emission["about"].value
        inverse = invert_noise(about["root"])
        columns = matmul(inverse, about["matrix"])
        precision = 0.5 * (emission["precision"] + emission["precision"].T)
        weighted = matmul(precision, columns)
        mixed = matmul(columns.T, emission["cross"])
        square = 0.5 * (emission["square"] + emission["square"].T)
        square += mixed + mixed.T + matmul(columns.T, weighted)
        pivots = jnp.diagonal(about["root"])
        constant = emission["count"] - jnp.sum(jnp.log(pivots)) - 0.5 * _LOG_2PI * len(pivots)
        contrasts = jnp.asarray(self._contrasts, columns.dtype)
        square = matmul(contrasts, matmul(square, contrasts.T))
        own = matmul(contrasts, emission["input"] - matmul(columns.T, emission["linear"]))
        shape = (self.num_chains, self.num_states) * 2
        return {
            "initial": natural["initial"],
            "transition": natural["transition"],
            "coupling": jnp.where(self.latent.apart, -0.5 * square.reshape(shape), 0),
            "own": own - 0.5 * jnp.diagonal(square),
            "slope": matmul(contrasts, (emission["cross"] + weighted).T),
            "linear": emission["linear"],
            "precision": precision,
            "constant": constant,
            "whiten": inverse,
            "offset": about["offset"],
        }

    def potentials(self, natural: PyTree, x: PyTree) -> tuple[PyTree, Scalar]:
        values, length, steps = as_sequence(x)
        dim = len(natural["offset"])
        if is_incomplete(values) or jnp.shape(values)[1:] != (dim,):
            raise ValueError(
                f"FactorialHiddenMarkovModel: with these params one sequence must have shape (T, {dim}) and no "
                f"gaps; got {jax.tree.map(jnp.shape, values)}. A posterior takes one sequence. For all sequences "
                "use jax.vmap(posterior)(x)."
            )
        inside = jnp.arange(steps) < length
        values = jnp.where(inside[:, None], values - natural["offset"], 0)
        scaled = matmul(values.astype(natural["offset"].dtype), natural["whiten"].T)
        field = natural["own"] + matmul(scaled, natural["slope"].T)
        unary = field.reshape(steps, self.num_chains, self.num_states).swapaxes(0, 1)
        number = length.astype(unary.dtype)
        square = vdot(scaled, matmul(scaled, natural["precision"]))
        constant = number * natural["constant"] - 0.5 * square
        constant += vdot(natural["linear"], jnp.sum(scaled, 0))
        names = ("initial", "transition", "coupling")
        potentials = {name: natural[name] for name in names}
        return potentials | {"unary": unary, "length": length}, constant

    def maximize(self, statistics: PyTree, params: PyTree, free: PyTree) -> PyTree:
        """Returns the regression on all states with its noise, and probabilities in proportion to counts."""
        possible = np.ones(self.num_states, bool)
        shares = {
            name: maximize_shares(statistics[name], params[name], free[name], possible, prior)
            for name, prior in self._priors.items()
        }
        emission = self._emission.maximize(
            statistics["emission"],
            params["emission"],
            free["emission"],
            len(params["emission"]["offset"]),
            self.floor,
        )
        return shares | {"emission": emission}

    @property
    def _priors(self) -> dict[str, Dirichlet | None]:
        return {"initial": self.prior, "transition": self.transition_prior}

    def log_prior(self, params: PyTree) -> Scalar | float:
        emission = params["emission"]
        total = self._emission.log_prior(emission, len(emission["offset"]), self.floor)
        possible = np.ones(self.num_states, bool)
        for name, prior in self._priors.items():
            total += log_prior_of_shares(params[name], possible, prior)
        return total

    def describe(self, params: PyTree) -> dict[str, Array]:
        """Returns initial (C, K) and transition (C, K, K) probabilities, means (C, K, dim), offset and covariance.

        The means of each chain's states sum to zero.
        """
        emission = params["emission"]
        return {
            "initial": jax.nn.softmax(params["initial"]),
            "transition": jax.nn.softmax(params["transition"]),
            "means": self._means(emission["matrix"]),
            "offset": emission["offset"],
            "covariance": self._emission.covariance(emission, len(emission["offset"])),
        }

    def _means(self, matrix: Array) -> Array:
        """Returns what each state of each chain adds, (C, K, dim)."""
        contrasts = jnp.asarray(self._contrasts, matrix.dtype)
        return matmul(contrasts, matrix.T).reshape(self.num_chains, self.num_states, -1)

    def from_description(
        self,
        *,
        initial: Any,
        transition: Any,
        means: Any,
        covariance: Any,
        offset: Any = None,
        unit: Any = None,
    ) -> PyTree:
        """Returns params from a description. Probabilities need not sum to 1: rows are normalized.

        `unit` are the standard deviations to which the floor is relative, by default those of the noise.

        **Raises** `ValueError` for a wrong shape or an invalid number.
        """
        who, chains, states = "FactorialHiddenMarkovModel", self.num_chains, self.num_states
        means = jnp.asarray(means, float)
        offset = jnp.zeros(means.shape[-1:]) if offset is None else jnp.asarray(offset, float)
        check_described(
            who,
            initial=(initial, (chains, states), "shares"),
            transition=(transition, (chains, states, states), "shares"),
            means=(means, (chains, states, "dim"), "finite"),
            offset=(offset, ("dim",), "finite"),
            covariance=(covariance, ("dim", "dim"), "covariances"),
        )
        covariance = jnp.asarray(covariance, float)
        flat = means.reshape(chains * states, -1)
        emission = {
            "matrix": matmul(flat.T, jnp.asarray(self._contrasts, flat.dtype)),
            "offset": offset + jnp.sum(jnp.mean(means, 1), 0),
            "scale": NOISE[self.noise].pack(cholesky(covariance)),
        }
        variance = jnp.diagonal(covariance)
        return {
            "initial": log(jnp.asarray(initial, float)),
            "transition": log(jnp.asarray(transition, float)),
            "emission": with_given_unit(emission, self.floor, unit, variance, who),
        }

    def sample(
        self, params: PyTree, key: Key, num_data: int, length: int
    ) -> tuple[Array, Int[Array, "num_data C length"]]:
        """Returns `num_data` sequences (x, z) of `length` steps."""
        params = enter_sample(self, params, key, num_data=num_data, length=length)
        emission = params["emission"]
        root = self._emission.root(emission, len(emission["offset"]))
        means = self._means(emission["matrix"])

        def one(key):
            key_first, key_rest, key_x = jax.random.split(key, 3)

            def step(z, key):
                moves = jax.vmap(lambda table, state: table[state])(params["transition"], z)
                after = draw_label(key, moves)
                return after, after

            first = draw_label(key_first, params["initial"])
            _, rest = jax.lax.scan(step, first, jax.random.split(key_rest, length - 1))
            z = jnp.concatenate([first[None], rest]).T
            noise = jax.random.normal(key_x, (length, len(root)), root.dtype)
            each = jax.vmap(lambda table, path: table[path])(means, z)
            return emission["offset"] + jnp.sum(each, 0) + matmul(noise, root.T), z

        return jax.vmap(one)(jax.random.split(key, num_data))

    def invariances(self, params: PyTree) -> Invariances:
        """Returns the shifts of all logits of a row."""
        return beside_by_name(
            {
                "initial": shifts(params["initial"].shape),
                "transition": shifts(params["transition"].shape),
                "emission": nothing(params["emission"]),
            }
        )

    def at_boundary(self, params: PyTree, least: float) -> PyTree:
        nothing = jax.tree.map(lambda leaf: np.zeros(np.shape(leaf), bool), params)
        return nothing | {name: vanished(params[name], least) for name in self._priors}

    def num_observations(self, batch: PyTree) -> float:
        return num_observed(*all_steps(*rows(batch)))

    def summary(self) -> dict[str, Any]:
        return {"chains": self.num_chains, "K": self.num_states, "noise": self.noise}


@compiled
def _start(model: FactorialHiddenMarkovModel, key: Key, x: Array, weight: Array) -> PyTree:
    number, states = model.num_chains, model.num_states
    weight = weight.astype(x.dtype)
    seen = jnp.ones_like(x)
    center = matmul(weight, x) / jnp.sum(weight)
    covariance, variance = pooled_covariance(x - center, seen, weight)
    variance = positive_variance(variance)
    scale = jnp.sqrt(variance)
    # A share of the variance keeps the root regular where columns are collinear.
    eye = jnp.eye(len(center), dtype=x.dtype)
    root = cholesky(covariance / jnp.outer(scale, scale) + 1e-3 * eye)
    draws = jax.random.normal(key, (len(center), model._width), x.dtype)
    sticky = jnp.log(0.8 * jnp.eye(states, dtype=x.dtype) + 0.2 / states)
    return {
        "initial": jnp.zeros((number, states), x.dtype),
        "transition": jnp.broadcast_to(sticky, (number, states, states)),
        "emission": with_given_unit(
            {
                "matrix": scale[:, None] * matmul(root, draws) / math.sqrt(number),
                "offset": center,
                "scale": NOISE[model.noise].pack(scale[:, None] * root * math.sqrt(0.5)),
            },
            model.floor,
            scale,
            variance,
            "FactorialHiddenMarkovModel.init",
        ),
    }
