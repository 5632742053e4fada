"""The base classes of models: a pure log-joint density, and what is known of its structure."""

import abc

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from ._arguments import check_tree
from ._invariance import free_entries, Invariances, somewhere_near
from ._math.algebra import nodes_of
from ._program import program
from ._reference import without_reference
from ._sharding import automatic
from ._shortcut import Shortcut
from ._types import Any, Array, Key, PyTree, Scalar
from .data._batch import host_rows, rows
from .data._check import check_no_nan, check_rows
from .families import AbstractFamily, Distribution, exact_divergence, exact_divergences


class AbstractModel(eqx.Module):
    r"""A latent-variable model $p_\theta(x, z)$ of one datum x and its latent z.

    Updates call only `elbo`, and posteriors `conditional`. Both take `prepare(natural(params))`, computed once per
    pass. A model holds static numbers and functions only; everything that is trained is in `params`.
    """

    latent: eqx.AbstractVar[AbstractFamily]
    """The family of posteriors over z."""

    def __init_subclass__(cls, **kwargs: Any):
        super().__init_subclass__(**kwargs)
        for name in ("log_joint", "describe", "collapsed", "emptied"):
            if name in vars(cls):
                setattr(cls, name, program(vars(cls)[name]))
        if "init" in vars(cls):
            cls.init = automatic(vars(cls)["init"])

    @property
    def exact(self) -> bool:
        """Whether the conditional p(z | x) is known, so that `conditional` does not raise."""
        return True

    @property
    def tight(self) -> bool:
        """Whether `elbo` at the model's own conditional is its log-normalizer plus a term without z."""
        return True

    @abc.abstractmethod
    def log_joint(self, params: PyTree, x: PyTree, z: PyTree) -> Scalar:
        """Returns log p(x, z; θ) of one datum, in nats, with all constants."""

    @abc.abstractmethod
    def elbo(self, natural: PyTree, x: PyTree, q: Any, key: Key) -> Scalar:
        """Returns E_q[log p(x, z)] + H(q) of one datum, in nats."""

    @abc.abstractmethod
    def conditional(self, natural: PyTree, x: PyTree) -> Distribution:
        """Returns p(z | x), or raises a `TypeError` that says why it is not known."""

    def potentials_at(self, natural: PyTree, x: PyTree) -> PyTree:
        """Returns the potentials λ of one datum's log-joint, at which coordinate ascent improves q.

        `natural` are prepared as for `elbo`. Where Bayes' rule is known, they are the conditional's own.
        """
        return self.conditional(natural, x).natural

    def log_joint_at(self, natural: PyTree, x: PyTree, z: PyTree) -> Scalar:
        """Returns `log_joint` from natural parameters, prepared as for `elbo` and `conditional`."""
        return self.log_joint(natural, x, z)

    def params_at(self, natural: PyTree) -> PyTree:
        """Returns θ from natural parameters, prepared as for `elbo`, for an encoder that reads θ.

        The default is for a model whose natural parameters are the params themselves.

        **Raises** `TypeError` for another one.
        """
        own = type(self)
        if (own.natural, own.prepare) != (AbstractModel.natural, AbstractModel.prepare):
            raise TypeError(
                f"{own.__name__}: a pass over data sees its natural parameters, so an encoder cannot read its "
                "params. Write the model as elbax.Model(log_joint, latent), or add potentials to its own by "
                "elbax.posteriors.Recognition."
            )
        return natural

    def natural(self, params: PyTree) -> PyTree:
        """Returns η(θ), the coordinates in which the log-joint is linear, or θ itself without such structure."""
        return params

    def of_row(self, weight: Array) -> "AbstractModel":
        """Returns the model of a row of this weight; it differs where the objective holds means over rows."""
        return self

    def prepare(self, natural: PyTree) -> PyTree:
        """Returns the input of `elbo` and `conditional`, linear in the coordinates η; computed once per pass."""
        return natural

    def draw(self, natural: PyTree, key: Key) -> PyTree:
        """Returns the coordinates at a draw of what is random in them, before `prepare`; once per pass over data.

        By default nothing is. Of a `Bayesian` with a `GaussianBelief` these are the model's own at a draw of θ.
        """
        return natural

    def rebase(self, natural: PyTree, params: PyTree) -> PyTree:
        """Returns the coordinates about `params` of the same log-joint.

        `natural` are coordinates η (not prepared) about some other params. The change is affine. Its transpose
        takes expected statistics about `params` to those about the others, so that statistics of different steps
        can be added, as in online EM. Coordinates that are about no point (that hold no `Reference`) are
        returned unchanged.

        **Raises** `TypeError` if the coordinates are about a point and the model defines no change of it.
        """
        return without_reference(natural, type(self).__name__)

    def maximize(self, statistics: PyTree, params: PyTree, free: PyTree) -> PyTree:
        """Returns argmax over θ of ⟨η(θ), statistics⟩ + log_prior(θ): the closed-form M-step.

        `params` are those at which the statistics were taken. `free` has their structure and says which may move
        (`True`, `False` or a mask). The free params must be optimal given that the others are fixed; the returned
        values of the others are ignored.

        **Raises** `TypeError` for a model without a closed form.
        """
        raise TypeError(
            f"{type(self).__name__} has no closed-form M-step. Use GradientMStep(model, optimizer)."
        )

    def statistics_at(self, params: PyTree) -> PyTree:
        """Returns the statistics at which `maximize` returns these params, where `knows_statistics`.

        An online step then starts there. Otherwise its first step counts whole.
        """
        raise TypeError(f"{type(self).__name__} does not know the statistics of its params.")

    @property
    def knows_statistics(self) -> bool:
        """Whether `statistics_at` is known."""
        return False

    def impute(self, params: PyTree, x: PyTree, q: Any) -> tuple[PyTree, PyTree]:
        """Returns one datum with missing numbers replaced by their means, and their standard deviations.

        `q` is its posterior. See `elbax.imputed`.

        **Raises** `TypeError` for a model that does not impute.
        """
        raise TypeError(
            f"imputed: {type(self).__name__} does not impute missing numbers. Mixtures, hidden Markov models, "
            "factor analysis and state spaces do."
        )

    def describe(self, params: PyTree) -> Any:
        """Returns the params in readable form; by default unchanged."""
        return params

    def invariances(self, params: PyTree) -> Invariances | None:
        """Returns the directions in the params that leave the evidence unchanged, or `None` if they are not known.

        Examples are a shift of all logits of a softmax, a rotation of factors, or a change of a hidden state's
        coordinates. Data cannot determine the params along them, so they are not counted as estimated and have no
        standard errors. Discrete symmetries (the order of components, the sign of a factor) are not directions.
        """
        return None

    def at_boundary(self, params: PyTree, least: float) -> PyTree:
        """Returns which numbers have reached the end of their range, as masks in the shapes of the params.

        A probability (or a rate, in events per datum) below `least` is one that the fit sends to 0. Its logit
        would decrease without end, and the likelihood has no curvature in it.
        """
        return jax.tree.map(lambda leaf: np.zeros(np.shape(leaf), bool), params)

    def num_free_params(self, params: PyTree, free: PyTree = True) -> int:
        """Returns how many numbers a fit estimates: the free ones, less their directions that change nothing.

        `free` is as in the fit's steps: `True` or `False` for each block of params, or a mask for each entry. The
        count is that at generic params, whatever the values of these.

        **Raises** `TypeError` for a model that does not know its invariances.
        """
        moving = free_entries(free, params)
        found = self.invariances(somewhere_near(params, moving))
        if found is None:
            raise TypeError(
                f"{type(self).__name__} does not define how many free params it has. Pass num_free_params."
            )
        return int(moving.sum()) - found.dimension(moving)

    def num_observations(self, batch: PyTree) -> float:
        """Returns n of BIC: the sum of weights; for sequences, over the steps that have an observation."""
        return float(np.sum(np.asarray(rows(batch)[1])))

    def summary(self) -> dict[str, Any]:
        """Returns what distinguishes models in a grid, by column: first the size, then the structure."""
        return {}

    def nests(self, other: "AbstractModel") -> bool:
        """Returns whether this model contains every density of `other`, as four components contain three."""
        return False

    def collapsed(self, params: PyTree) -> Array:
        """Returns which components have shrunk onto a few points, where the likelihood is unbounded."""
        return jnp.zeros((), bool)

    def emptied(self, params: PyTree) -> Array:
        """Returns which components have almost no data."""
        return jnp.zeros((), bool)

    @property
    def shapes(self) -> PyTree | None:
        """The shapes of the params for `check_params`, as a tree of dictionaries and lists; `None` for no check.

        A size that the data determine has a name, as in `(3, "dim")`. `callable` stands for a function, and `None`
        for a part that is not checked.
        """
        return None

    def check_params(self, params: PyTree, who: str = "check_params") -> None:
        """Raises `ValueError` or `TypeError` for params of another model, or params that contain NaN.

        Shapes are checked under a trace too, values only if they are known.
        """
        check_tree(
            params,
            self.shapes,
            who,
            f"Make the params with init(key, x) or from_description(...) of this {type(self).__name__}.",
        )
        check_no_nan(params, who)

    def check(self, batch: PyTree, who: str = "fit") -> None:
        """Raises `ValueError` for data to which the model cannot be fitted; called only if values are known."""
        check_rows(*host_rows(batch), who)

    def log_prior(self, params: PyTree) -> Scalar | float:
        """Returns log p(θ), in nats: the global term of the objective, counted once for all data."""
        return 0.0

    def global_term(self, params: PyTree, key: Key) -> Scalar | float:
        """Returns the global term of one pass over data: `log_prior`, or an estimate of it with the key."""
        return self.log_prior(params)

    def global_terms(self, params: PyTree) -> dict[str, Scalar]:
        """Returns `log_prior` by block of the params, by name; nothing where it is not known so."""
        return {}

    @property
    def has_evidence(self) -> bool:
        """Whether log p(x; θ) is a function of the params. It is not where these are of a distribution over θ."""
        return True

    def check_evidence(self, who: str) -> None:
        """Raises `TypeError` for a model without an evidence at its params."""
        if not self.has_evidence:
            raise TypeError(
                f"{who}: the params of {type(self).__name__} are those of q(θ), so log p(x) is only bounded. For "
                "the bound use elbo(model, params, posterior, batch), for the density of new data "
                "model.predictive(params)."
            )

    @property
    def knows_prior(self) -> bool:
        """Whether the model says what p(z) is, by `latent_prior`."""
        return False

    @property
    def splits(self) -> bool:
        """Returns whether `elbo` is E_q[log p(x | z)] − KL(q ‖ p(z)) with a known p(z)."""
        return self.knows_prior

    def latent_prior(self, params: PyTree, x: PyTree) -> Any:
        """Returns the prior p(z; θ) of one datum's latent as a distribution; it may depend on x.

        The ELBO is then also known as reconstruction less KL(q ‖ p(z)). `elbo_terms` reports the two terms, and
        `Anneal(target="divergence")` weights the second.

        **Raises** `TypeError` if the model does not say what p(z) is.
        """
        raise TypeError(f"{type(self).__name__} does not define p(z), the prior of its latent.")

    def divergence(self, q: Any, prior: Any, key: Key) -> Scalar:
        """Returns KL(q ‖ p(z)) of one datum, in nats: exact within one family, else estimated as in `elbo`."""
        exact = exact_divergence(q, prior)
        return -(q.expect(prior.log_prob, key) + q.entropy()) if exact is None else exact

    def divergences(self, q: Any, prior: Any, key: Key) -> PyTree:
        """Returns KL(q ‖ p(z)) of one datum by part of z; all numbers of the tree add up to `divergence`.

        The parts are the coordinates of a `DiagonalGaussian`, factors of a `Product`, members of `Copies` and
        draws of a program (each given those before), where q and the prior are both such; else there is one part.
        """
        exact = exact_divergences(q, prior)
        if exact is not None:
            return exact
        ours, theirs = (getattr(one, "parts", {}) for one in (getattr(q, "source", q), prior))
        if not ours or set(ours) != set(theirs):
            return self.divergence(q, prior, key)
        return {name: self.divergence(ours[name], theirs[name], key) for name in ours}

    @property
    def divergence_weight(self) -> Array | float | None:
        """β if `elbo` is E_q[log p(x | z)] − β KL(q ‖ p(z)) and the two terms cost nothing extra; else `None`.

        Gradient steps then report both terms in their `Info`.
        """
        return None

    def prior_at(self, natural: PyTree, x: PyTree) -> Any:
        """Returns `latent_prior` from natural parameters, prepared as for `elbo`.

        The default is for a model whose natural parameters are the params themselves.
        """
        return self.latent_prior(natural, x)

    def shortcut(self, params: PyTree, x: PyTree) -> Shortcut | None:
        """Returns a faster form for a pass over the rows `x`, or `None`."""
        return None


def models_of(tree: PyTree) -> list[AbstractModel]:
    """Returns all models in an update, a posterior or another pytree; of nested ones, the outer one."""
    return nodes_of(AbstractModel, tree)


class AbstractExponentialFamilyModel(AbstractModel):
    r"""A model with $\log p(x, z; \theta) = \langle \lambda, t(z) \rangle + c$ and (λ, c) = potentials(η, x).

    Both λ and c are linear in η, whose coordinates include the log-normalizers. The gradient of the expected
    log-joint in η is therefore the expected sufficient statistics, under any posterior, and no code accumulates
    them.
    """

    @abc.abstractmethod
    def potentials(self, natural: PyTree, x: PyTree) -> tuple[PyTree, Scalar]:
        """Returns (λ, c): the log-joint of x as natural parameters of z, and a term that does not depend on z."""

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
