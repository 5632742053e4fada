"""A model is a pure log-joint density; structure is what one can say in addition."""

import abc

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from ._algebra import dot, nodes_of, num_rows
from ._arguments import check_flag, check_tree
from ._batch import host_rows, rows
from ._check import check_no_nan, check_rows
from ._invariance import as_invariances, free_entries, Invariances, somewhere_near
from ._program import program
from ._sharding import automatic
from ._shortcut import Shortcut
from ._types import Any, Array, Callable, Float, Key, PyTree, Scalar
from .estimators import AbstractEstimator, Reparameterized, ScoreFunction
from .families import AbstractFamily, Distribution


class AbstractModel(eqx.Module):
    r"""A latent-variable model $p_\theta(x, z)$ of one datum x and its latent z.

    Updates call `elbo` only, posteriors `conditional`; both take `prepare(natural(params))`, computed
    once a pass. A model holds static numbers and functions only, and what is trained lives in `params`.
    """

    latent: eqx.AbstractVar[AbstractFamily]
    """The family that posteriors over z come from."""

    def __init_subclass__(cls, **kwargs: Any):
        super().__init_subclass__(**kwargs)
        for name in ("log_joint", "describe", "collapsed", "emptied"):
            if name in vars(cls):
                setattr(cls, name, program(vars(cls)[name]))
        if "init" in vars(cls):
            cls.init = automatic(vars(cls)["init"])

    @property
    def exact(self) -> bool:
        """Whether Bayes' rule is known: whether `conditional` answers."""
        return True

    @property
    def tight(self) -> bool:
        """Whether `elbo` at the model's own conditional is that one's log-normalizer, and a constant."""
        return True

    @abc.abstractmethod
    def log_joint(self, params: PyTree, x: PyTree, z: PyTree) -> Scalar:
        """log p(x, z; θ) of one datum, in nats, every constant kept."""

    @abc.abstractmethod
    def elbo(self, natural: PyTree, x: PyTree, q: Any, key: Key) -> Scalar:
        """E_q[log p(x, z)] + H(q) of one datum, in nats."""

    @abc.abstractmethod
    def conditional(self, natural: PyTree, x: PyTree) -> Distribution:
        """p(z | x) by Bayes' rule, or a `TypeError` that says why it is not known."""

    def log_joint_at(self, natural: PyTree, x: PyTree, z: PyTree) -> Scalar:
        """`log_joint` from the natural parameters, prepared as `elbo` and `conditional` take them."""
        return self.log_joint(natural, x, z)

    def natural(self, params: PyTree) -> PyTree:
        """η(θ): the coordinates in which the log-joint is linear; θ itself without such structure."""
        return params

    def prepare(self, natural: PyTree) -> PyTree:
        """What `elbo` and `conditional` need of η, linear in its coordinates: computed once a pass."""
        return natural

    def maximize(self, statistics: PyTree, params: PyTree, free: PyTree) -> PyTree:
        """argmax over θ of ⟨η(θ), statistics⟩ + log_prior(θ): the closed-form M-step.

        `params` are those at which the statistics were taken. `free` has their structure and says
        which may move (`True`, `False` or a mask); what the others come out as is not looked at, but the
        free ones must be the best given that the others stay.
        """
        raise TypeError(
            f"{type(self).__name__} has no closed-form M-step; use GradientMStep(model, optimizer)."
        )

    def moments_about(self, params: PyTree) -> Float[Array, " dim"]:
        """The point about which `maximize_evidence` takes the data's moments."""
        return jnp.zeros(1)

    def residuals(
        self, params: PyTree, deviations: Float[Array, "num_data dim"]
    ) -> Float[Array, "num_data dim"]:
        """What `maximize_evidence` takes second moments of: a linear function of deviations from that point."""
        return deviations

    def maximize_evidence(self, moments: PyTree, params: PyTree, free: PyTree) -> PyTree:
        """argmax of the evidence itself over a block of θ, from the data's moments about that point."""
        raise TypeError(
            f"{type(self).__name__} knows no closed-form maximum of its evidence in any block of params; "
            "FactorAnalysis and ProbabilisticPCA do. Use ClosedFormMStep or GradientMStep."
        )

    def is_linear(self, x: PyTree = None) -> bool:
        """Whether the log-joint (of data `x`) is linear in statistics of x and z alone, no latent being
        eliminated.

        Statistics of different params then add up, as online EM asks.
        """
        return False

    def describe(self, params: PyTree) -> Any:
        """What people want to read; the params themselves unless a model knows better."""
        return params

    def invariances(self, params: PyTree) -> Invariances | None:
        """The directions in the params that change nothing, or `None` where the model does not say.

        One number more on all logits of a softmax, a rotation of factors, other coordinates of a hidden state:
        the evidence is the same along them, so they are no numbers that a fit estimates, and no errors are
        theirs. What is no direction (components in another order, a factor's sign) does not count.
        """
        return None

    def at_boundary(self, params: PyTree, least: float) -> PyTree:
        """Which numbers, masks shaped as the params, have run to the end of their range.

        A probability below `least` (or a rate, a number of events per datum) is one that the fit sent to 0: its
        logit would fall for ever, and the likelihood has no curvature of its own there.
        """
        return jax.tree.map(lambda leaf: np.zeros(np.shape(leaf), bool), params)

    def num_free_params(self, params: PyTree, free: PyTree = True) -> int:
        """How many numbers a fit estimates: those that are free, less the directions in them that change nothing.

        `free` is what the fit's steps were given: `True` or `False` for each block of params, or a mask for each
        entry. The count is that at params in general, whatever these are.
        """
        moving = free_entries(free, params)
        found = self.invariances(somewhere_near(params, moving))
        if found is None:
            raise TypeError(
                f"{type(self).__name__} does not say how many numbers are estimated; pass num_free_params."
            )
        return int(moving.sum()) - found.dimension(moving)

    def num_observations(self, batch: PyTree) -> float:
        """n of BIC: the sum of weights; of sequences that of the steps in which something is observed."""
        return float(np.sum(np.asarray(rows(batch)[1])))

    def summary(self) -> dict[str, Any]:
        """What tells models of a grid apart, by column: first how large it is, then of which structure."""
        return {}

    def nests(self, other: "AbstractModel") -> bool:
        """Whether every density of `other` is one of this model's too: four components can do what three can."""
        return False

    def collapsed(self, params: PyTree) -> Array:
        """Which components have shrunk onto a few points, where the likelihood is unbounded."""
        return jnp.zeros((), bool)

    def emptied(self, params: PyTree) -> Array:
        """Which components have next to no data."""
        return jnp.zeros((), bool)

    def restart_components(
        self, params: PyTree, which: Array, x: PyTree, weight: Array, assignment: Array
    ) -> PyTree:
        """The components in `which` started anew from a partition of the data."""
        raise TypeError(
            f"{type(self).__name__} has no components that could start anew; a Mixture has."
        )

    @property
    def shapes(self) -> PyTree | None:
        """Shapes of the params, for `check_params`: a tree like theirs, dictionaries and lists, of shapes.

        A size that the data give stands by its name, `(3, "dim")`; `callable` means a function, `None` what is
        not looked at.
        """
        return None

    def check_params(self, params: PyTree, who: str = "check_params") -> None:
        """Raises `ValueError` or `TypeError` for params that are not this model's, or that hold NaN.

        Shapes are looked at under a trace too, values where they are known.
        """
        check_tree(
            params,
            self.shapes,
            who,
            f"The params of this {type(self).__name__} come from its init(key, x) or from_description(...).",
        )
        check_no_nan(params, who)

    def check(self, batch: PyTree, who: str = "fit") -> None:
        """Raises `ValueError` for data that the model cannot be fitted to. Called where values are known."""
        check_rows(*host_rows(batch), who)

    def log_prior(self, params: PyTree) -> Scalar | float:
        """The global term of the objective: log p(θ), counted once for all data."""
        return 0.0

    def latent_prior(self, params: PyTree) -> PyTree | None:
        """Natural parameters of p(z) where it lies in `latent`; lets `elbo_terms` split it off."""
        return None

    def shortcut(self, params: PyTree, x: PyTree) -> Shortcut | None:
        """A faster form for a pass over the rows `x`, or `None`."""
        return None


def models_of(tree: PyTree) -> list[AbstractModel]:
    """All models in an update, a posterior, …; of one within another the outer one."""
    return nodes_of(AbstractModel, tree)


class AbstractExponentialFamilyModel(AbstractModel):
    r"""$\log p(x, z; \theta) = \langle \lambda, t(z) \rangle + c$ with (λ, c) = potentials(η(θ), x).

    Both λ and c are linear in η, the log-normalizers being among its coordinates. So the gradient of
    the expected log-joint in η is the expected sufficient statistics, whatever the posterior,
    and nobody writes an accumulator.
    """

    @abc.abstractmethod
    def potentials(self, natural: PyTree, x: PyTree) -> tuple[PyTree, Scalar]:
        """(λ, c): the log-joint of x as natural parameters of z, and what does not depend on z."""

    def log_joint(self, params: PyTree, x: PyTree, z: PyTree) -> Scalar:
        return self.log_joint_at(self.prepare(self.natural(params)), x, z)

    def log_joint_at(self, natural: PyTree, x: PyTree, z: PyTree) -> Scalar:
        potentials, constant = self.potentials(natural, x)
        return self.latent.score(potentials, z) + constant

    def elbo(self, natural: PyTree, x: PyTree, q: Any, key: Key) -> Scalar:
        potentials, constant = self.potentials(natural, x)
        return q.bound(potentials) + constant

    def conditional(self, natural: PyTree, x: PyTree) -> Distribution:
        potentials, _ = self.potentials(natural, x)
        return self.latent(potentials)


class Model(AbstractModel):
    r"""A model from any pure function `log_joint(params, x, z)`, for one datum and one latent.

    How expectations under q are taken follows from the latent family, or is `estimator`'s say:

    - finite support (`Categorical`): exactly, by enumeration;
    - `conjugate=True`: exactly, by derivatives of `log_joint` in z, which must lie in the family's
      span (for a Gaussian: quadratic in z); `verify` refutes a false claim;
    - otherwise by one reparameterized draw a datum, or by two and their score for a discrete latent.

    **Arguments:**

    - `log_joint`: log p(x, z; θ) in nats, constants included.
    - `latent`: the family of z.
    - `conjugate`: the log-joint, as a function of z, lies in the family's span.
    - `log_prior`: `log_prior(params)`, a global term counted once for all data.
    - `latent_prior`: `latent_prior(params)`, the natural parameters of p(z), for reports.
    - `invariances`: `invariances(params)`, the directions in the params that change nothing, as a pytree like
        the params with one axis more in front; for standard errors and the count of params. For logits
        `lambda params: {"logits": jnp.ones((1, 3)), "mean": jnp.zeros((1, 3))}`; for a model without any
        arrays of length 0.
    - `estimator`: one of `elbax.estimators`, such as `StickingTheLanding(10)`, in place of the above. One that
        draws makes Bayes' rule count as unknown.

    ```python
    >>> import elbax, jax, jax.numpy as jnp
    >>> def log_joint(params, x, z):
    ...     return jax.scipy.stats.norm.logpdf(z) + jax.scipy.stats.norm.logpdf(x, params * z).sum()
    >>> model = elbax.Model(lambda p, x, z: log_joint(p, x, z[0]), elbax.Gaussian(1), conjugate=True)
    >>> model = model.verify(jnp.array(2.0), x=jnp.array([[1.0]]))
    >>> q = elbax.Exact(model, jnp.array(2.0))(jnp.array([1.0]))
    >>> print(f"{q.mode()[0]:.2f}")
    0.40

    ```
    """

    function: Callable[[PyTree, PyTree, PyTree], Scalar] = eqx.field(static=True)
    latent: AbstractFamily
    conjugate: bool = eqx.field(static=True)
    prior: Callable[[PyTree], Scalar] | None = eqx.field(static=True)
    prior_of_latent: Callable[[PyTree], PyTree] | None = eqx.field(static=True)
    directions: Callable[[PyTree], PyTree] | None = eqx.field(static=True)
    estimator: AbstractEstimator | None

    def __init__(
        self,
        log_joint: Callable[[Any, Any, Any], Any],
        latent: AbstractFamily,
        *,
        conjugate: bool = False,
        log_prior: Callable[[Any], Any] | None = None,
        latent_prior: Callable[[Any], Any] | None = None,
        invariances: Callable[[Any], Any] | None = None,
        estimator: AbstractEstimator | None = None,
    ):
        for name, function in dict(
            log_joint=log_joint,
            log_prior=log_prior,
            latent_prior=latent_prior,
            invariances=invariances,
        ).items():
            _check_static(name, function)
        if not isinstance(latent, AbstractFamily):
            raise TypeError(
                f"Model: latent must be a family such as elbax.Categorical(3) or elbax.Gaussian(2), "
                f"got {latent!r}."
            )
        if estimator is not None:
            if not isinstance(estimator, AbstractEstimator):
                raise TypeError(
                    "Model: estimator must be one of elbax.estimators, such as Reparameterized(10); got "
                    f"{estimator!r}."
                )
            estimator.check(latent)
        check_flag("Model", conjugate=conjugate)
        self.function = log_joint
        self.latent = latent
        self.conjugate = conjugate
        self.prior = log_prior
        self.prior_of_latent = latent_prior
        self.directions = invariances
        if estimator is None and not (latent.finite or conjugate):
            estimator = ScoreFunction() if latent.discrete else Reparameterized()
        self.estimator = estimator

    @property
    def exact(self) -> bool:
        """Whether expectations and Bayes' rule are exact."""
        known = self.latent.finite or self.conjugate
        return known and (self.estimator is None or self.estimator.exact)

    def log_joint(self, params: PyTree, x: PyTree, z: PyTree) -> Scalar:
        value = self.function(params, x, z)
        if jnp.shape(value) != ():
            raise ValueError(
                f"log_joint must return one number, log p(x, z) of one datum; got shape {jnp.shape(value)}. Sum "
                "over what the datum and its latent consist of."
            )
        return value

    def log_prior(self, params: PyTree) -> Scalar | float:
        return 0.0 if self.prior is None else self.prior(params)

    def latent_prior(self, params: PyTree) -> PyTree | None:
        return None if self.prior_of_latent is None else self.prior_of_latent(params)

    def invariances(self, params: PyTree) -> Invariances | None:
        return None if self.directions is None else as_invariances(self.directions(params), params)

    def _read(self, params: PyTree, x: PyTree) -> tuple[PyTree, Scalar]:
        numbers = [leaf for leaf in jax.tree.leaves((params, x)) if eqx.is_inexact_array(leaf)]
        dtype = numbers[0].dtype if numbers else float
        return self.latent.read(lambda z: self.log_joint(params, x, z), dtype)

    def elbo(self, natural: PyTree, x: PyTree, q: Any, key: Key) -> Scalar:
        log_joint = lambda z: self.log_joint(natural, x, z)
        if self.estimator is not None and hasattr(q, "log_prob"):
            return self.estimator(log_joint, q, key)
        if self.exact:
            potentials, constant = self._read(natural, x)
            return q.bound(potentials) + constant
        # A point, or draws: a sum over what they are.
        return q.expect(log_joint, key) + q.entropy()

    def conditional(self, natural: PyTree, x: PyTree) -> Distribution:
        if not self.exact:
            family = type(self.latent).__name__
            if self.latent.finite or self.conjugate:
                raise TypeError(
                    f"Model(..., estimator={type(self.estimator).__name__}(...)) draws, so Bayes' rule counts "
                    "as unknown. "
                    "Leave the estimator out for exact expectations."
                )
            if self.latent.discrete:
                raise TypeError(
                    f"Bayes' rule is not known for a plain log_joint over a {family} latent, whose potentials "
                    "cannot be read off it. Use Amortized(network, model.latent) with GradientEStep, or say the "
                    "potentials in a model of your own, an elbax.AbstractExponentialFamilyModel."
                )
            raise TypeError(
                f"Bayes' rule is not known for a plain log_joint over a {family} latent. Use "
                "Amortized(network, model.latent) with GradientEStep; or, if the log-joint lies in "
                f"the span of the {family} as a function of z, say Model(..., conjugate=True) and "
                "let model.verify(params, x) try it."
            )
        return self.latent(self._read(natural, x)[0])

    def verify(
        self,
        params: PyTree,
        x: PyTree,
        *,
        key: Key | None = None,
        num_points: int = 8,
        tolerance: float | None = None,
    ) -> "Model":
        """Tries the claim `conjugate=True` on a batch `x`, eagerly; returns the model.

        The log-joint is compared with the form that its derivatives span, ⟨λ, t(z)⟩ + c, at
        `num_points` draws of the exact posterior of each datum. Points can refute conjugacy, not
        prove it. The tolerance is relative to the size of the terms compared (by default the
        square root of the precision).

        **Raises** `ValueError` if the two differ, or if the form has no finite integral over z.
        """
        if not self.exact:
            raise TypeError(
                "verify tries the claim Model(..., conjugate=True), which this model does not make."
            )
        if self.latent.finite:
            return self
        x, _ = rows(x)
        keys = jax.random.split(jax.random.key(0) if key is None else key, num_rows(x))
        family = type(self.latent).__name__

        def residual(x, key):
            potentials, constant = self._read(params, x)
            q = self.latent(potentials)

            def compare(key):
                z = q.sample(key)
                form = dot(self.latent.statistics(z), potentials)
                size = jnp.abs(form) + jnp.abs(constant) + 1
                return jnp.abs(self.function(params, x, z) - form - constant) / size

            return q.mode(), jax.vmap(compare)(jax.random.split(key, num_points))

        modes, residuals = jax.vmap(residual)(x, keys)
        if not all(bool(jnp.all(jnp.isfinite(leaf))) for leaf in jax.tree.leaves(modes)):
            raise ValueError(
                f"log_joint has no normalizable {family} conditional at these params: its second "
                "derivatives in z are not those of a density. Check signs and the prior of z, or use "
                "Model(..., conjugate=False) with Amortized(network, latent), which samples."
            )
        worst = float(jnp.max(jnp.nan_to_num(residuals, nan=jnp.inf)))
        allowed = jnp.finfo(residuals.dtype).eps ** 0.5 if tolerance is None else tolerance
        if not worst <= allowed:
            raise ValueError(
                f"log_joint does not lie in the span of the {family} family as a function of z: the "
                f"form that its derivatives give differs from it by {worst:.2g} (relative; tolerance "
                f"{allowed:.2g}). Use Model(..., conjugate=False) with Amortized(network, latent), "
                "which samples."
            )
        return self


def _check_static(name: str, function: Any) -> None:
    """A model is static: a function with arrays inside could neither be hashed nor be trained."""
    if function is None:
        return
    if not callable(function):
        raise TypeError(f"Model: {name} must be a function, got {function!r}.")
    arrays = [leaf for leaf in jax.tree.leaves(function) if eqx.is_array(leaf)]
    if arrays:
        raise TypeError(
            f"Model: {name} holds {len(arrays)} arrays, which a model cannot: what is trained lives "
            "in params. Pass the network as params, elbax.Network(network), and call it there."
        )
