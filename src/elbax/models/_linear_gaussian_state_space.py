"""The linear-Gaussian state-space model: factor analysis along a chain."""

import math
from typing import Literal

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from .._arguments import check_choice, check_flag, check_key, check_not_negative, in_full
from .._door import enter_sample
from .._invariance import as_invariances, Invariances
from .._math.algebra import matmul
from .._math.linear_algebra import eigh
from .._math.triangularize import semidefinite_root, triangularize
from .._model import AbstractExponentialFamilyModel
from .._program import compiled
from .._reference import Reference
from .._types import Any, Array, Key, PyTree, Scalar
from ..components._covariance import Diagonal, Full, Spherical
from ..components._imputation import filled
from ..components._parts import pooled_covariance
from ..components._unit import positive_variance, with_given_unit
from ..data._batch import host_rows, rows
from ..data._check import check_described, check_table, is_concrete
from ..data._incomplete_rows import is_incomplete, known, known_numbers
from ..data._sequence import (
    all_steps,
    as_sequence,
    check_sequences,
    num_observed,
    without_steps_after,
)
from ..families import GaussianChain
from ..priors import Gamma, Known, NormalInverseGamma, NormalInverseWishart
from ..starts import start_of
from ._gaussian_rows import conditional_of_rows, factor_in_inputs, is_in_rows
from ._linear_gaussian import LinearGaussian


NOISE = {"full": Full(), "diagonal": Diagonal(), "isotropic": Spherical()}
_LOG_2PI = math.log(2 * math.pi)

Noise = Literal["full", "diagonal", "diag", "isotropic"]
RowsPrior = NormalInverseGamma | Gamma | Known | None


class LinearGaussianStateSpace(AbstractExponentialFamilyModel):
    r"""A linear-Gaussian state-space model, fitted by EM with a Kalman smoother.

    $$z_1 \sim N(m, V), \quad z_{t+1} \sim N(A z_t + b, Q), \quad x_t \sim N(C z_t + d, R).$$

    A datum is one sequence, an array `(T, outputs)`. Sequences of different lengths, or with missing values (NaN),
    are given as `elbax.sequences(...)`. Params: `{"initial": {"offset": m, "scale"}, "transition": {"matrix": A,
    "offset": b, "scale"}, "emission": {"matrix": C, "offset": d, "scale"}}`. The offsets b and d exist only with
    `offsets=True`. With a floor each of the three holds a `"unit"`, a `Reference` to the standard deviations that
    the floor is relative to. Params come from `init` or, from numbers in common notation, `from_description`. The
    ELBO is in nats per sequence.

    The E-step is a Kalman smoother; `Chain(ExactEStep(model), ClosedFormMStep(model))` is the EM algorithm of
    Shumway and Stoffer (1982). Known params are held fixed by `free`: `ClosedFormMStep(model, free={"initial":
    False, "transition": {"matrix": False, "scale": True}, "emission": {"matrix": mask, "scale": True}})`. With a
    mask on entries of a matrix, the free entries are set by least squares weighted by the previous noise, and then
    the noise is updated. This ascends, but it is one round of two.

    V, Q and R may be singular or 0, as in autoregressions in companion form, integrated trends and series observed
    without noise. EM multiplies noise: a direction without noise gains none, and its rows of the matrix and the
    offset stay as given. Observations must have a density: if earlier ones determine them up to rounding, the
    evidence is NaN.

    **Arguments:**

    - `dim`: the dimension of the state z.
    - `transition_noise`, `emission_noise`: the structure of Q and R, `"full"`, `"diagonal"` or `"isotropic"`.
    - `offsets`: whether there are b and d.
    - `floor`: the weight of the penalties −½ floor · tr V⁻¹D, −½ floor · tr Q⁻¹D and −½ floor · tr R⁻¹D. Each is
        relative to variances D of its own: for R those of the data's columns, for V and Q those of the states in
        `init`. Without a floor, noise of one kind may shrink to nothing where the likelihood is highest (as for a
        constant level). 0 turns it off. Directions without noise are left out.
    - `order`: how the chain runs, as for `GaussianChain`.
    - `initial_prior`: a `NormalInverseWishart` on m and V.
    - `transition_prior`, `emission_prior`: a `NormalInverseGamma` on the rows of (A, b) and Q, of (C, d) and R,
        whose `intercept_precision` is that of the offset. Such noise is diagonal or isotropic.

    `Bayesian` needs all three. For it a part may also be `priors.Known()`: it stays as it is in the params. With a
    `Gamma`, a prior on the precisions of the noise, only its matrix and offset do. EM refuses both; it has `free`.

    ```python
    >>> import elbax, jax, jax.numpy as jnp
    >>> x = jnp.array([1.0, 1.2, 0.9, jnp.nan, 2.1, 2.4])
    >>> batch = elbax.sequences([x])
    >>> model = elbax.LinearGaussianStateSpace(1)
    >>> params = model.from_description(
    ...     initial_mean=[0.0], initial_covariance=[[10.0]], transition=[[1.0]],
    ...     transition_covariance=[[0.1]], emission=[[1.0]], emission_covariance=[[0.1]])
    >>> level = elbax.Exact(model, params)(jax.tree.map(lambda leaf: leaf[0], batch)).mode()
    >>> print(f"{level[3, 0]:.2f}")
    1.59

    ```
    """

    dim: int = eqx.field(static=True)
    transition_noise: Noise = eqx.field(static=True)
    emission_noise: Noise = eqx.field(static=True)
    offsets: bool = eqx.field(static=True)
    floor: float = eqx.field(static=True)
    chain: GaussianChain
    initial_prior: NormalInverseWishart | Known | None
    transition_prior: RowsPrior
    emission_prior: RowsPrior

    def __init__(
        self,
        dim: int,
        *,
        transition_noise: Noise = "full",
        emission_noise: Noise = "diagonal",
        offsets: bool = False,
        floor: float = 1e-6,
        order: Literal["auto", "sequential", "pairwise"] = "auto",
        initial_prior: NormalInverseWishart | Known | None = None,
        transition_prior: RowsPrior = None,
        emission_prior: RowsPrior = None,
    ):
        who = "LinearGaussianStateSpace"
        transition_noise, emission_noise = in_full(transition_noise), in_full(emission_noise)
        check_choice(who, NOISE, transition_noise=transition_noise, emission_noise=emission_noise)
        check_flag(who, offsets=offsets)
        check_not_negative(who, floor=floor)
        self.dim = dim
        self.transition_noise = transition_noise
        self.emission_noise = emission_noise
        self.offsets = offsets
        self.floor = float(floor)
        self.chain = GaussianChain(dim, order=order)
        check_prior("initial", initial_prior, NormalInverseWishart)
        check_prior_of_rows("transition", transition_prior, transition_noise)
        check_prior_of_rows("emission", emission_prior, emission_noise)
        self.initial_prior = initial_prior
        self.transition_prior = transition_prior
        self.emission_prior = emission_prior

    @property
    def latent(self) -> GaussianChain:
        """The family of paths of hidden states, a `GaussianChain(dim)`."""
        return self.chain

    @property
    def _parts(self) -> dict[str, LinearGaussian]:
        return {
            "initial": LinearGaussian(Full(), self.initial_prior),
            "transition": LinearGaussian(NOISE[self.transition_noise], self.transition_prior),
            "emission": LinearGaussian(NOISE[self.emission_noise], self.emission_prior),
        }

    @property
    def priors(self) -> dict[str, Any]:
        """The priors of the parts, by their names in the params."""
        return {
            "initial": self.initial_prior,
            "transition": self.transition_prior,
            "emission": self.emission_prior,
        }

    def start_rows(self, batch: PyTree) -> tuple[PyTree, Array]:
        """Returns the steps of all sequences, for starts, which ignore their order."""
        return all_steps(*rows(batch))

    def _shapes(self, params: PyTree) -> dict[str, tuple[int, int]]:
        """Returns (outputs, inputs) of each conditional."""
        outputs = params["emission"]["matrix"].shape[0]
        return {
            "initial": (self.dim, 0),
            "transition": (self.dim, self.dim),
            "emission": (outputs, self.dim),
        }

    def check(self, batch: PyTree, who: str = "fit") -> None:
        x, weight = host_rows(batch)
        check_sequences(x, weight, who, 3)
        check_table(*all_steps(x, weight), who, varied=False)

    def init(
        self,
        key: Key,
        x: PyTree,
        init: Literal["principal_components", "random"] | PyTree = "principal_components",
    ) -> PyTree:
        """Returns params to start from. It is a pure function of the key, so restarts may be vmapped.

        **Arguments:**

        - `init`: `"principal_components"`, slow dynamics and the principal directions of the steps, with noise
            from the key; `"random"`, both drawn from the key; or params, which are returned unchanged.

        **Raises** `ValueError` for data that no fit could use.
        """
        who = "LinearGaussianStateSpace.init"
        check_key(key, who)
        held = [name for name, prior in self.priors.items() if isinstance(prior, Known | Gamma)]
        if held and isinstance(init, str):
            raise ValueError(
                f"{who}: params of a known part are not to be drawn ({', '.join(held)}). Make params with "
                "from_description, and pass them as init=params, or to Bayesian(model).start(params, x)."
            )
        if is_concrete(x):
            found = host_rows(x)
            check_sequences(*found, who, 3)
            check_table(*all_steps(*found), who)
        steps, weight = all_steps(*rows(x))
        return start_of(_start, init, self, key, steps, weight)

    @property
    def shapes(self) -> PyTree:
        return {
            "initial": {
                "offset": (self.dim,),
                "scale": Full().shape(self.dim),
                "unit": Reference((self.dim,)),
            },
            "transition": self._conditional_shapes(self.transition_noise, self.dim),
            "emission": self._conditional_shapes(self.emission_noise, "outputs"),
        }

    def _conditional_shapes(self, noise: Noise, outputs: int | str) -> dict[str, Any]:
        offset = {"offset": (outputs,)} if self.offsets else {}
        matrix = {"matrix": (outputs, self.dim)}
        scale = {"scale": NOISE[noise].shape(outputs), "unit": Reference((outputs,))}
        return matrix | offset | scale

    def natural(self, params: PyTree) -> PyTree:
        shapes = self._shapes(params)
        return {
            name: part.natural(params[name], *shapes[name]) for name, part in self._parts.items()
        }

    def rebase(self, natural: PyTree, params: PyTree) -> PyTree:
        shapes = self._shapes(params)
        return {
            name: part.rebase(natural[name], params[name], *shapes[name])
            for name, part in self._parts.items()
        }

    def prepare(self, natural: PyTree) -> PyTree:
        """Returns the conditionals."""
        return {
            name: conditional_of_rows(natural[name])
            if is_in_rows(natural[name])
            else part.conditional(natural[name])
            for name, part in self._parts.items()
        }

    def potentials(self, natural: PyTree, x: PyTree) -> tuple[PyTree, Scalar]:
        values, length, _ = as_sequence(x)
        initial, emission = natural["initial"], natural["emission"]
        shape, dim = known(values)[0].shape, len(emission["root"])
        if shape[1:] != (dim,):
            raise ValueError(
                f"LinearGaussianStateSpace: with these params one sequence must have shape (T, {dim}), got "
                f"{shape}. Data have a leading axis, the sequences. A posterior takes one sequence. For all "
                "sequences use jax.vmap(posterior)(x)."
            )
        in_rows = is_in_rows(emission)
        if is_incomplete(values):
            unary = jax.vmap(lambda row, seen: self._observed(natural, row, seen))(*known(values))
        else:
            values = values.astype(emission["offset"].dtype)
            unary = {
                "rows": emission["matrix"],
                "root": emission["root"],
                "target": values - emission["offset"],
            }
            unary |= factor_in_inputs(emission) if in_rows else {"constant": emission["constant"]}
        transition = natural["transition"]
        moving = {name: transition[name] for name in ("matrix", "offset", "root")}
        if is_in_rows(transition):
            moving |= factor_in_inputs(transition)
        else:
            moving["constant"] = transition["constant"]
        potentials = {
            "initial": {
                "mean": initial["offset"],
                "root": initial["root"],
                "constant": initial["constant"],
            },
            "transition": moving,
            "unary": unary,
            # Under params the factors in the inputs are zero: only their statistics are needed. Those of a belief
            # are not, and have been added above.
            "probe": {
                place: {name: block[name] for name in ("linear", "precision")}
                for place, block in (("unary", emission), ("transition", transition))
                if not is_in_rows(block)
            },
            "length": length,
        }
        return potentials, jnp.zeros((), initial["root"].dtype)

    def _observed(self, natural, row, seen):
        """Returns the observed rows of one step, as a marginal: a missing row is replaced by independent noise."""
        emission = natural["emission"]
        root = emission["root"]
        residual = jnp.where(seen, row.astype(root.dtype) - emission["offset"], 0)
        matrix = jnp.where(seen[:, None], emission["matrix"], 0)
        if self.emission_noise != "full":
            root = jnp.diag(jnp.where(seen, jnp.diagonal(root), 1))
        else:
            own = jnp.diag(jnp.where(seen, 0, 1).astype(root.dtype))
            both = jnp.concatenate([jnp.where(seen[:, None], root, 0), own], 1)
            root = triangularize(both, len(root))[0][:, : len(root)]
        missing = 0.5 * _LOG_2PI * jnp.sum(jnp.where(seen, 0, 1).astype(root.dtype))
        found = {"rows": matrix, "root": root, "target": residual}
        if is_in_rows(emission):
            factor = factor_in_inputs(emission, seen)
            return found | factor | {"constant": missing + factor["constant"]}
        return found | {"constant": missing + emission["constant"]}

    def maximize(self, statistics: PyTree, params: PyTree, free: PyTree) -> PyTree:
        """Returns least squares for A, b, C, d with the residual noise, and the first state's moments.

        Under priors it is their mode.
        """
        shapes = self._shapes(params)
        return {
            name: part.maximize(
                statistics[name],
                params[name],
                free[name],
                shapes[name][0],
                self.floor,
            )
            for name, part in self._parts.items()
        }

    def log_prior(self, params: PyTree) -> Scalar | float:
        shapes = self._shapes(params)
        return sum(
            part.log_prior(params[name], shapes[name][0], self.floor)
            for name, part in self._parts.items()
        )

    def impute(self, params: PyTree, x: PyTree, q: Any) -> tuple[PyTree, PyTree]:
        """Regresses the missing numbers of a step on its state and on the noise of the observed ones."""
        values, length, _ = as_sequence(x)
        emission = self._parts["emission"]
        dim = self._shapes(params)["emission"][0]
        matrix, root = params["emission"]["matrix"], emission.root(params["emission"], dim)
        offset = params["emission"].get("offset", jnp.zeros(dim, root.dtype))
        mean, covariance, _ = q.family.moments(q.natural)

        def one(row, seen, mean, covariance):
            # Some directions may have no noise: the least noise that explains the observed numbers.
            known_root = jnp.where(seen[:, None], root, 0)
            onto = matmul(root, jnp.linalg.pinv(known_root))
            unknown = root - matmul(onto, known_root)
            center = matmul(matrix, mean) + offset
            residual = jnp.where(seen, row.astype(root.dtype) - center, 0)
            slope = matrix - matmul(onto, jnp.where(seen[:, None], matrix, 0))
            spread = jnp.sum(slope * matmul(slope, covariance), -1)
            variance = jnp.sum(unknown**2, -1) + spread
            return filled(row, seen, center + matmul(onto, residual), variance)

        found = jax.vmap(one)(*known(values), mean, covariance)
        return without_steps_after(length, found)

    def describe(self, params: PyTree) -> dict[str, Array]:
        """Returns m, V, A, Q, C, R (and b, d) under the names that `from_description` takes."""
        shapes = self._shapes(params)
        found = {"initial_mean": params["initial"]["offset"]}
        for name, part in self._parts.items():
            if name != "initial":
                found[name] = params[name]["matrix"]
                if self.offsets:
                    found[f"{name}_offset"] = params[name]["offset"]
            found[f"{name}_covariance"] = part.covariance(params[name], shapes[name][0])
        return found

    def from_description(
        self,
        *,
        initial_mean: Any,
        initial_covariance: Any,
        transition: Any,
        transition_covariance: Any,
        emission: Any,
        emission_covariance: Any,
        transition_offset: Any = None,
        emission_offset: Any = None,
        unit: Any = None,
    ) -> PyTree:
        """Returns params from matrices and covariances in common notation.

        **Arguments:**

        - `initial_mean`, `initial_covariance`: m `(dim,)` and V `(dim, dim)`.
        - `transition`, `transition_covariance`: A and Q, `(dim, dim)`.
        - `emission`, `emission_covariance`: C `(outputs, dim)` and R `(outputs, outputs)`.
        - `transition_offset`, `emission_offset`: b and d, 0 by default; only with `offsets=True`.
        - `unit`: the standard deviations to which the floor is relative, a dictionary of `"initial"`,
            `"transition"` and `"emission"`; by default those of V, Q and R.

        Covariances may be singular: a direction without noise has none after a fit either.

        **Raises** `ValueError` for a covariance that is not positive semidefinite, or for offsets if the model has
        none.
        """

        def scale(name, covariance):
            covariance = jnp.asarray(covariance, float)
            root, deviation = semidefinite_root(covariance)
            if is_concrete(deviation) and not deviation <= 1:
                raise ValueError(
                    f"LinearGaussianStateSpace: {name}_covariance must be positive semidefinite; "
                    f"got {np.asarray(covariance).tolist()}."
                )
            return self._parts[name].noise.pack(root)

        square = (self.dim, self.dim)
        offsets = {
            f"{name}_offset": (given, shape, "finite")
            for name, given, shape in (
                ("transition", transition_offset, (self.dim,)),
                ("emission", emission_offset, ("outputs",)),
            )
            if given is not None
        }
        check_described(
            "LinearGaussianStateSpace",
            initial_mean=(initial_mean, (self.dim,), "finite"),
            initial_covariance=(initial_covariance, square, "symmetric"),
            transition=(transition, square, "finite"),
            transition_covariance=(transition_covariance, square, "symmetric"),
            emission=(emission, ("outputs", self.dim), "finite"),
            emission_covariance=(emission_covariance, ("outputs", "outputs"), "symmetric"),
            **offsets,
        )
        matrices = dict(transition=transition, emission=emission)
        offsets = dict(transition=transition_offset, emission=emission_offset)
        params = {
            "initial": {
                "offset": jnp.asarray(initial_mean, float),
                "scale": scale("initial", initial_covariance),
            }
        }
        covariances = dict(transition=transition_covariance, emission=emission_covariance)
        for name, matrix in matrices.items():
            matrix = jnp.asarray(matrix, float)
            params[name] = {"matrix": matrix, "scale": scale(name, covariances[name])}
            if self.offsets:
                zero = jnp.zeros(len(matrix))
                given = offsets[name]
                params[name]["offset"] = zero if given is None else jnp.asarray(given, float)
            elif offsets[name] is not None:
                raise ValueError(
                    f"LinearGaussianStateSpace: got {name}_offset, but the model has no offsets. Use "
                    "LinearGaussianStateSpace(..., offsets=True)."
                )
        given = {name: None for name in self._parts} if unit is None else unit
        variances = {"initial": initial_covariance, **covariances}
        return {
            name: with_given_unit(
                part,
                self.floor,
                given[name],
                jnp.diagonal(jnp.asarray(variances[name], float)),
                f"LinearGaussianStateSpace, {name}",
            )
            for name, part in params.items()
        }

    def sample(self, params: PyTree, key: Key, num_data: int, length: int) -> tuple[Array, Array]:
        """Returns `num_data` sequences (x, z) of `length` steps."""
        params = enter_sample(self, params, key, num_data=num_data, length=length)
        parts, shapes = self._parts, self._shapes(params)
        roots = {name: part.root(params[name], shapes[name][0]) for name, part in parts.items()}
        transition, emission = params["transition"], params["emission"]

        def normal(key, name):
            root = roots[name]
            return matmul(root, jax.random.normal(key, root.shape[:1], root.dtype))

        def one(key):
            key_first, *keys = jax.random.split(key, length + 1)
            first = params["initial"]["offset"] + normal(key_first, "initial")

            def step(z, key):
                key_x, key_z = jax.random.split(key)
                x = matmul(emission["matrix"], z) + emission.get("offset", 0.0)
                after = matmul(transition["matrix"], z) + transition.get("offset", 0.0)
                after += normal(key_z, "transition")
                return after, (x + normal(key_x, "emission"), z)

            return jax.lax.scan(step, first, jnp.stack(keys))[1]

        return jax.vmap(one)(jax.random.split(key, num_data))

    def smooth(self, params: PyTree, x: PyTree) -> tuple[Array, Array]:
        """Returns (E[z_t | x] (T, dim), Cov[z_t | x] (T, dim, dim)) of one sequence."""
        potentials, _ = self.potentials(self.prepare(self.natural(params)), x)
        means, covariances, _ = self.chain.moments(potentials)
        return means, covariances

    def invariances(self, params: PyTree) -> Invariances:
        """Returns the changes of the state's coordinates, T z (with offsets, T z + s), that keep Q's structure."""
        roots = jax.tree.map(lambda root: np.asarray(root, float), _state_roots(self, params))
        numbers = jax.tree.map(lambda leaf: np.asarray(leaf, float), params)
        transition, emission = numbers["transition"]["matrix"], numbers["emission"]["matrix"]
        covariance = roots["transition"] @ roots["transition"].T

        def tangent(change):
            """Returns d/dt of the params at T = exp(t · change)."""
            moved = jax.tree.map(np.zeros_like, numbers)
            for name, root in roots.items():
                seen = np.linalg.pinv(root) @ change @ root
                lower = np.tril(seen + seen.T, -1) + np.diag(np.diagonal(seen))
                moved[name]["scale"] = self._parts[name].noise.tangent(root, lower)
                if "offset" in moved[name]:
                    moved[name]["offset"] = change @ numbers[name]["offset"]
            moved["transition"]["matrix"] = change @ transition - transition @ change
            moved["emission"]["matrix"] = -emission @ change
            return moved

        def shifted(step):
            """Returns d/dt of the params of the state z + t · step."""
            moved = jax.tree.map(np.zeros_like, numbers)
            moved["initial"]["offset"] = step
            moved["transition"]["offset"] = step - transition @ step
            moved["emission"]["offset"] = -emission @ step
            return moved

        each = list(map(tangent, _changes(self.transition_noise, covariance)))
        if self.offsets:
            each += list(map(shifted, np.eye(self.dim)))
        return as_invariances(jax.tree.map(lambda *leaves: np.stack(leaves), *each), params)

    def num_observations(self, batch: PyTree) -> float:
        return num_observed(*all_steps(*rows(batch)))

    def summary(self) -> dict[str, Any]:
        return {"dim": self.dim, "structure": f"{self.transition_noise}, {self.emission_noise}"}


def check_prior(name: str, prior: Any, *kinds: type) -> None:
    """Raises `TypeError` for anything but the prior of a part."""
    kinds = (*kinds, Known)
    if prior is not None and not isinstance(prior, kinds):
        names = " or ".join(f"elbax.priors.{kind.__name__}" for kind in kinds)
        raise TypeError(
            f"LinearGaussianStateSpace: {name}_prior must be an {names}, got {prior!r}."
        )


def check_prior_of_rows(name: str, prior: Any, noise: Noise) -> None:
    """Raises `TypeError` for a prior of another kind, or for one that noise of this structure does not have."""
    check_prior(name, prior, NormalInverseGamma, Gamma)
    if noise == "full" and isinstance(prior, NormalInverseGamma | Gamma):
        turned = " The states have coordinates in which it is." if name == "transition" else ""
        raise TypeError(
            f"LinearGaussianStateSpace: the {name}_prior is of a variance for each row, but {name}_noise is "
            f'"full". Use {name}_noise="diagonal" or "isotropic".{turned} For full noise there is no belief in '
            "closed form: leave the priors out, and pass beliefs.GaussianBelief(prior=1.0) beside the model to "
            "Bayesian."
        )


@compiled
def _state_roots(model: LinearGaussianStateSpace, params: PyTree) -> dict[str, Array]:
    names = ("initial", "transition")
    return {name: model._parts[name].root(params[name], model.dim) for name in names}


def _changes(noise: Noise, covariance: np.ndarray) -> list[np.ndarray]:
    """Returns a basis of the matrices X for which X Q + Q Xᵀ has the structure of Q."""
    dim = len(covariance)
    eye = np.eye(dim)
    if noise == "full":
        return [np.outer(a, b) for a in eye for b in eye]
    pairs = [np.outer(eye[i], eye[j]) for i in range(dim) for j in range(i)]
    turns = [(pair - pair.T) @ np.diag(1 / np.diagonal(covariance)) for pair in pairs]
    return turns + ([np.diag(row) for row in eye] if noise == "diagonal" else [eye])


@compiled
def _start(
    model: LinearGaussianStateSpace, key: Key, x: PyTree, weight: Array, drawn: bool
) -> PyTree:
    values, observed = known_numbers(x)
    seen = observed.astype(values.dtype)
    weight = weight.astype(values.dtype)
    total = jnp.maximum(matmul(weight, seen), jnp.finfo(values.dtype).tiny)
    center = matmul(weight, seen * values) / total
    offset = center if model.offsets else jnp.zeros_like(center)
    covariance, variance = pooled_covariance(seen * (values - offset), seen, weight)
    scale = jnp.sqrt(positive_variance(variance))
    eigenvalues, vectors = eigh(covariance / jnp.outer(scale, scale))
    outputs, dim, dtype = len(center), model.dim, values.dtype
    found = min(dim, outputs)
    directions = (vectors * jnp.sqrt(jnp.maximum(eigenvalues, 0)))[:, ::-1][:, :found]
    key_emission, key_transition = jax.random.split(key)
    extra = 0.1 * jax.random.normal(key_emission, (outputs, dim - found), dtype)
    noise = jax.random.normal(key_transition, (dim, dim), dtype)
    matrix = 0.9 * jnp.eye(dim, dtype=dtype) + 0.05 * noise
    emission = jnp.concatenate([directions, extra], 1)
    if drawn:
        # The eigenvalues of such a matrix are not far outside of 0.7.
        matrix = 0.7 * noise / math.sqrt(dim)
        emission = jax.random.normal(key_emission, (outputs, dim), dtype) / math.sqrt(dim)
    params = model.from_description(
        initial_mean=jnp.zeros(dim),
        initial_covariance=jnp.eye(dim),
        transition=matrix,
        transition_covariance=0.2 * jnp.eye(dim),
        emission=scale[:, None] * emission,
        emission_covariance=jnp.diag(0.3 * scale**2),
        unit={"initial": 1.0, "transition": 1.0, "emission": scale},
        **({"emission_offset": offset} if model.offsets else {}),
    )
    return jax.tree.map(lambda leaf: leaf.astype(dtype), params)
