"""A model is a pure log-joint density; structure is what one can say in addition."""

import abc

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from ._algebra import nodes_of
from ._arguments import check_tree
from ._batch import host_rows, rows
from ._check import check_no_nan, check_rows
from ._invariance import free_entries, Invariances, somewhere_near
from ._program import program
from ._sharding import automatic
from ._shortcut import Shortcut
from ._types import Any, Array, Callable, Float, Key, PyTree, Scalar
from .families import AbstractFamily, Distribution, exact_divergence


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

    @property
    def knows_prior(self) -> bool:
        """Whether the model says what p(z) is, by `latent_prior`."""
        return False

    def latent_prior(self, params: PyTree, x: PyTree) -> Any:
        """p(z; θ) of one datum as a distribution, or p(z | x) where it depends on x.

        With it the ELBO is known as reconstruction less KL(q ‖ p(z)): `elbo_terms` reports the two, and
        `Anneal(target="divergence")` weighs them.

        **Raises** `TypeError` where the model does not say.
        """
        raise TypeError(f"{type(self).__name__} does not say what p(z) is.")

    def divergence(self, q: Any, prior: Any, key: Key) -> Scalar:
        """KL(q ‖ p(z)) of one datum, in nats: exact where both are of one family, else estimated as `elbo` is."""
        exact = exact_divergence(q, prior)
        return -self.expected(prior.log_prob, q, key) if exact is None else exact

    def expected(self, function: Callable[[Any], Scalar], q: Any, key: Key) -> Scalar:
        """E_q[function(z) − log q(z)], or its estimate."""
        return q.expect(function, key) + q.entropy()

    @property
    def divergence_weight(self) -> Array | float | None:
        """β if `elbo` is E_q[log p(x | z)] − β KL(q ‖ p(z)) and the two cost nothing more; `None` if not.

        Gradient steps then report both in their `Info`.
        """
        return None

    def prior_at(self, natural: PyTree, x: PyTree) -> Any:
        """`latent_prior` from the natural parameters, prepared as `elbo` takes them, where `divergence_weight` is
        known."""
        return self.latent_prior(natural, x)

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
