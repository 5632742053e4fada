"""A model from functions: a log-joint, or a likelihood and a prior."""

import equinox as eqx
import jax
import jax.numpy as jnp

from .._arguments import check_flag, takes, takes_key
from .._invariance import as_invariances, Invariances
from .._math.algebra import dot, num_rows
from .._model import AbstractModel
from .._types import Any, Array, Callable, Key, PyTree, Scalar
from ..data._batch import rows
from ..estimators import AbstractEstimator, Reparameterized, ScoreFunction
from ..families import (
    AbstractFamily,
    AnyLatent,
    as_prior,
    Categorical,
    Distribution,
    exact_divergence,
    in_precision_of,
)
from ..programs._ancestral import Ancestral, Part


class Model(AbstractModel):
    r"""A model from a pure function `log_joint(params, x, z)` of one datum and one latent.

    Alternatively, it takes a likelihood and a prior, $\log p(x, z) = \log p(x \mid z) + \log p(z)$. The
    reconstruction and KL(q ‖ p(z)) are then known. The divergence is exact if q and the prior are of one family.

    The latent family, or `estimator`, determines how expectations under q are computed:

    - finite support (`Categorical`): exactly, by enumeration;
    - `conjugate=True`: exactly, by derivatives of `log_joint` in z, which must lie in the family's span (for a
      Gaussian: quadratic in z). `verify` tries to refute the claim;
    - otherwise: by one reparameterized draw per datum, or, if draws are not differentiable in the parameters of q,
      by two draws and their score.

    **Arguments:**

    - `log_joint`: `log_joint(params, x, z)`, log p(x, z; θ) in nats, with all constants. If it has an argument
        `key`, it is given a random key for dropout in a decoder, or `None` in evaluation. A function of two
        arguments, `log_density(params, x)`, is a model without a latent, such as a regression; its latent family
        is `Categorical(1)`.
    - `latent`: the family of z. Without one, the posterior determines what z is: an encoder of any distribution
        with `sample(key)` and `log_prob(z)`.
    - `likelihood`: `likelihood(params, x, z)`, log p(x | z; θ) in nats, in place of `log_joint`; `key` as there.
    - `prior`: `prior(params, x)`, which returns p(z; θ), or p(z | x; θ) if it depends on x. It returns natural
        parameters of the `latent` family, a distribution with `log_prob(z)` of any library, or a function
        `log_density(z)`.
    - `conjugate`: whether the log-joint, as a function of z, lies in the family's span.
    - `log_prior`: `log_prior(params)`, log p(θ) in nats, counted once for all data.
    - `invariances`: `invariances(params)`, the directions in the params that do not change the evidence, as a
        pytree like the params with one more leading axis; for standard errors and the number of free params. For
        logits it is `lambda params: {"logits": jnp.ones((1, 3)), "mean": jnp.zeros((1, 3))}`; for a model without
        any, arrays of length 0.
    - `estimator`: one of `elbax.estimators`, such as `StickingTheLanding(10)`, in place of the above. With one
        that draws, Bayes' rule counts as unknown.

    **Raises** `TypeError` for functions that do not go together, a function that holds arrays, a `latent` that is
    not a family, and an estimator that cannot serve it.

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

    A variational autoencoder whose KL is exact:

    ```python
    >>> def likelihood(decoder, x, z):
    ...     return jax.scipy.stats.norm.logpdf(x, decoder(z)).sum()
    >>> def prior(decoder, x):
    ...     return jnp.zeros(2), jnp.ones(2)  # linear term and precision: a standard normal
    >>> vae = elbax.Model(likelihood=likelihood, prior=prior, latent=elbax.DiagonalGaussian(2))

    ```

    A prior that is a learned mixture of normals:

    ```python
    >>> def mixture(params, x):
    ...     def log_density(z):
    ...         each = jax.scipy.stats.norm.logpdf(z, params["centers"]).sum(1)
    ...         return jax.nn.logsumexp(each) - jnp.log(len(each))
    ...     return log_density

    ```
    """

    function: Callable[..., Scalar] = eqx.field(static=True)
    without_latent: bool = eqx.field(static=True)
    latent: AbstractFamily
    conjugate: bool = eqx.field(static=True)
    prior: Callable[[PyTree, PyTree], Any] | None = eqx.field(static=True)
    log_prior_of_params: Callable[[PyTree], Scalar] | None = eqx.field(static=True)
    directions: Callable[[PyTree], PyTree] | None = eqx.field(static=True)
    estimator: AbstractEstimator | None

    def __init__(
        self,
        log_joint: Callable[..., Any] | None = None,
        latent: AbstractFamily | None = None,
        *,
        likelihood: Callable[..., Any] | None = None,
        prior: Callable[[Any, Any], Any] | None = None,
        conjugate: bool = False,
        log_prior: Callable[[Any], Any] | None = None,
        invariances: Callable[[Any], Any] | None = None,
        estimator: AbstractEstimator | None = None,
    ):
        for name, function in dict(
            log_joint=log_joint,
            likelihood=likelihood,
            prior=prior,
            log_prior=log_prior,
            invariances=invariances,
        ).items():
            _check_static(name, function)
        if (log_joint is None) == (likelihood is None) or (likelihood is None) != (prior is None):
            given = [
                name
                for name, value in dict(
                    log_joint=log_joint, likelihood=likelihood, prior=prior
                ).items()
                if value is not None
            ]
            raise TypeError(
                f"Model: got {' and '.join(given) or 'none of them'}; expected log_joint, or likelihood and "
                "prior together. Use Model(log_joint, latent) or Model(likelihood=..., prior=..., latent=...)."
            )
        if latent is not None and not isinstance(latent, AbstractFamily):
            raise TypeError(
                f"Model: latent must be a family such as elbax.Categorical(3) or elbax.Gaussian(2), "
                f"got {latent!r}."
            )
        if latent is None and conjugate:
            raise TypeError(
                "Model: got conjugate=True and no latent family. conjugate=True means that the log-joint lies "
                "in the span of a family. Pass the family, latent=elbax.Gaussian(2)."
            )
        if prior is not None and not takes(prior, 2):
            raise TypeError(
                "Model: prior must be a function prior(params, x) that returns the distribution of z: natural "
                "parameters of the latent family, an object with log_prob(z), or a function of z."
            )
        without_latent = log_joint is not None and takes(log_joint, 2) and not takes(log_joint, 3)
        if without_latent:
            if (latent, estimator, conjugate) != (None, None, False):
                raise TypeError(
                    "Model: log_joint takes two arguments (params, x), so the model has no latent. Pass it alone, "
                    "or a function log_joint(params, x, z) with the latent's family."
                )
            latent = Categorical(1)
        latent = AnyLatent() if latent is None else latent
        if estimator is not None:
            if not isinstance(estimator, AbstractEstimator):
                raise TypeError(
                    "Model: estimator must be one of elbax.estimators, such as Reparameterized(10); got "
                    f"{estimator!r}."
                )
            estimator.check(latent)
        check_flag("Model", conjugate=conjugate)
        function: Any = log_joint if likelihood is None else likelihood
        self.function = function
        self.without_latent = without_latent
        self.latent = latent
        self.conjugate = conjugate
        self.prior = prior
        self.log_prior_of_params = log_prior
        self.directions = invariances
        self.estimator = estimator

    @property
    def exact(self) -> bool:
        """Whether expectations and Bayes' rule are exact."""
        known = self.latent.finite or self.conjugate
        return known and (self.estimator is None or self.estimator.exact)

    def log_joint(self, params: PyTree, x: PyTree, z: PyTree) -> Scalar:
        return self._log_joint(params, x, None)(z)

    def _log_joint(self, params: PyTree, x: PyTree, key: Key | None) -> Callable[[Any], Scalar]:
        """Returns z ↦ log p(x, z)."""
        given = self._given(params, x, key)
        if self.prior is None:
            return given
        density = _density(self.latent_prior(params, x))

        def joint(z):
            likelihood = jnp.asarray(given(z))
            return likelihood + density(z).astype(likelihood.dtype)

        return joint

    def _given(self, params: PyTree, x: PyTree, key: Key | None) -> Callable[[Any], Scalar]:
        """Returns the user's function of z: log p(x | z) if the prior is separate, else log p(x, z)."""
        more = {"key": key} if takes_key(self.function) else {}

        def call(z):
            arguments = (params, x) if self.without_latent else (params, x, z)
            value = self.function(*arguments, **more)
            if jnp.shape(value) != ():
                name, what = (
                    ("log_joint", "p(x, z)") if self.prior is None else ("likelihood", "p(x | z)")
                )
                raise ValueError(
                    f"Model: {name} must return a single number, log {what} of one datum; got shape "
                    f"{jnp.shape(value)}. Sum over the entries of the datum and of its latent."
                )
            return value

        return call

    def log_prior(self, params: PyTree) -> Scalar | float:
        return 0.0 if self.log_prior_of_params is None else self.log_prior_of_params(params)

    @property
    def knows_prior(self) -> bool:
        return self.prior is not None

    def latent_prior(self, params: PyTree, x: PyTree) -> Any:
        if self.prior is None:
            return AbstractModel.latent_prior(self, params, x)
        prior = as_prior(self.prior(params, x), self.latent)
        if isinstance(prior, Distribution):
            # Fixed numbers come in the default precision, whatever that of the data.
            return prior.family(in_precision_of((params, x), prior.natural))
        return prior

    @property
    def splits(self) -> bool:
        # The bound of several draws is not reconstruction less KL.
        return self.knows_prior and not (self.estimator and self.estimator.tighter)

    @property
    def divergence_weight(self) -> float | None:
        return 1.0 if self.splits else None

    def invariances(self, params: PyTree) -> Invariances | None:
        return None if self.directions is None else as_invariances(self.directions(params), params)

    def _read(self, params: PyTree, x: PyTree) -> tuple[PyTree, Scalar]:
        numbers = [leaf for leaf in jax.tree.leaves((params, x)) if eqx.is_inexact_array(leaf)]
        dtype = numbers[0].dtype if numbers else float
        return self.latent.read(lambda z: self.log_joint(params, x, z), dtype)

    def _estimator(self, q: Any) -> AbstractEstimator | None:
        """Returns the estimator of expectations under q, or `None` if they are exact."""
        still = not self._moves(q)
        moved = self.estimator is not None and self.estimator.moves_draws and hasattr(q, "log_prob")
        if moved and still:
            raise TypeError(
                f"{type(self.estimator).__name__}: draws of this "
                f"{type(getattr(q, 'source', getattr(q, 'family', q))).__name__} are not reparameterized, but "
                "this estimator differentiates draws with respect to the parameters of q. Use Model(..., "
                "estimator=elbax.estimators.ScoreFunction()), or ImportanceWeightedScore(5) for a bound of "
                "several draws."
            )
        if self.exact or self.estimator is not None:
            return self.estimator
        return ScoreFunction() if still else Reparameterized()

    def _moves(self, q: Any) -> bool:
        """Returns whether draws of q move with its parameters; one that does not say is like the latent."""
        if hasattr(q, "moves"):
            return q.moves
        return not q.discrete if hasattr(q, "discrete") else self.latent.moves

    def _expected(
        self,
        function: Callable[[Any], Scalar],
        q: Any,
        key: Key,
        estimator: AbstractEstimator | None,
    ) -> Scalar:
        """Returns E_q[function(z)] + H(q)."""
        if estimator is not None and hasattr(q, "log_prob"):
            return estimator(function, q, key)
        # On a finite support, a point or weighted draws, the expectation is a sum.
        return q.expect(function, key) + q.entropy()

    def divergence(self, q: Any, prior: Any, key: Key) -> Scalar:
        exact = exact_divergence(q, prior)
        if exact is not None:
            return exact
        estimator: Any = self._estimator(q)
        if estimator is not None and estimator.tighter:
            # The bound of several draws is no expectation.
            estimator = Reparameterized(getattr(estimator, "num_samples", 1))
        ratio = _stepwise(estimator, prior, q)
        if estimator is not None and ratio is not None:
            return -estimator.average(ratio, q, key)
        return -self._expected(_density(prior), q, key, estimator)

    def elbo(self, natural: PyTree, x: PyTree, q: Any, key: Key) -> Scalar:
        estimator: Any = self._estimator(q)
        if estimator is None and hasattr(q, "bound"):
            potentials, constant = self._read(natural, x)
            return q.bound(potentials) + constant
        noise = jax.random.fold_in(key, 1) if takes_key(self.function) else None
        # Weighted draws and points are not sampled again.
        if self.prior is not None and estimator is not None and isinstance(q, Distribution):
            divergence = exact_divergence(q, self.latent_prior(natural, x))
            if divergence is not None:
                reconstruction = estimator.average(self._given(natural, x, noise), q, key)
                if reconstruction is not None:
                    return reconstruction - divergence.astype(reconstruction.dtype)
        ratio = self._log_ratio(estimator, natural, x, q, noise)
        if estimator is not None and ratio is not None:
            return estimator.average(ratio, q, key)
        return self._expected(self._log_joint(natural, x, noise), q, key, estimator)

    def _log_ratio(
        self, estimator: Any, params: PyTree, x: PyTree, q: Any, key: Key | None
    ) -> Callable[[Any], Scalar] | None:
        """Returns z ↦ log p(x, z) − log q(z) as `_stepwise` does."""
        if self.prior is None:
            return _stepwise(estimator, self.function, q, params, x, key=key)
        ratio = _stepwise(estimator, self.latent_prior(params, x), q)
        if ratio is None:
            return None
        given = self._given(params, x, key)

        def joint(z):
            likelihood = jnp.asarray(given(z))
            return likelihood + ratio(z).astype(likelihood.dtype)

        return joint

    def conditional(self, natural: PyTree, x: PyTree) -> Distribution:
        if not self.exact:
            family = type(self.latent).__name__
            if isinstance(self.latent, AnyLatent):
                raise TypeError(
                    "Model: Bayes' rule is not known for a Model without a latent family. Pass one, such as "
                    "Model(log_joint, elbax.Categorical(3)), or use Amortized(network, function) with "
                    "GradientEStep."
                )
            if self.latent.finite or self.conjugate:
                raise TypeError(
                    f"Model(..., estimator={type(self.estimator).__name__}(...)) samples, so Bayes' rule is not "
                    "available. For exact expectations leave out the estimator."
                )
            if self.latent.discrete:
                raise TypeError(
                    f"Model: Bayes' rule is not known for a plain log_joint over a {family} latent, because its "
                    "potentials cannot be read from log_joint. Use Amortized(network, model.latent) with "
                    "GradientEStep, or define the potentials in a subclass of "
                    "elbax.AbstractExponentialFamilyModel."
                )
            raise TypeError(
                f"Model: Bayes' rule is not known for a plain log_joint over a {family} latent. Use "
                "Amortized(network, model.latent) with GradientEStep. If the log-joint lies in the span of the "
                f"{family} as a function of z, use Model(..., conjugate=True) and check it with "
                "model.verify(params, x)."
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
                "Model.verify: got a model without conjugate=True, so there is no claim to check. Use "
                "Model(..., conjugate=True)."
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
                return jnp.abs(self.log_joint(params, x, z) - form - constant) / size

            return q.mode(), jax.vmap(compare)(jax.random.split(key, num_points))

        modes, residuals = jax.vmap(residual)(x, keys)
        if not all(bool(jnp.all(jnp.isfinite(leaf))) for leaf in jax.tree.leaves(modes)):
            raise ValueError(
                f"Model.verify: log_joint has no normalizable {family} conditional at these params, because its "
                "second derivatives in z are not those of a density. Check signs and the prior of z, or use "
                "Model(..., conjugate=False) with Amortized(network, latent), which samples."
            )
        worst = float(jnp.max(jnp.nan_to_num(residuals, nan=jnp.inf)))
        allowed = jnp.finfo(residuals.dtype).eps ** 0.5 if tolerance is None else tolerance
        if not worst <= allowed:
            raise ValueError(
                f"Model.verify: log_joint does not lie in the span of the {family} family as a function of z. It "
                f"differs from the form that its derivatives determine by {worst:.2g} (relative; tolerance "
                f"{allowed:.2g}). Use Model(..., conjugate=False) with Amortized(network, latent), which samples."
            )
        return self


def _density(prior: Any) -> Callable[[Any], Array]:
    """Returns z ↦ log p(z), which must be a single number."""

    def density(z):
        value = jnp.asarray(prior.log_prob(jax.tree.map(jnp.asarray, z)))
        if value.shape != ():
            raise ValueError(
                f"Model: prior must return the log-density of all of one latent, a single number; got shape "
                f"{value.shape}. Sum over the entries of the latent; in numpyro use .to_event(1)."
            )
        return value

    return density


def _stepwise(
    estimator: Any, p: Any, q: Any, *arguments: PyTree, **options: Any
) -> Callable[[Any], Scalar] | None:
    """Returns z ↦ log p(z) − log q(z) of two programs by divergences of their steps, where these are asked for."""
    source = getattr(q, "source", q)
    both = hasattr(p, "log_ratio") and isinstance(source, Ancestral | Part)
    if not (both and getattr(estimator, "stepwise", False)):
        return None
    return lambda z: p.log_ratio(*arguments, z, source, **options)


def _check_static(name: str, function: Any) -> None:
    """A model is static: a function with arrays inside could neither be hashed nor be trained."""
    if function is None:
        return
    if not callable(function):
        raise TypeError(f"Model: {name} must be a function, got {function!r}.")
    arrays = [leaf for leaf in jax.tree.leaves(function) if eqx.is_array(leaf)]
    if arrays:
        raise TypeError(
            f"Model: {name} holds {len(arrays)} arrays, but a model cannot hold arrays. Whatever is trained must "
            "be in params. Pass the network as params, elbax.Network(network), and call it there."
        )
