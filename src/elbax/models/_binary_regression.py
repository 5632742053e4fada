"""Logistic and probit regression, whose latents make the log-joint quadratic in the coefficients."""

import abc
import math

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.scipy.special import ndtr, ndtri

from .._arguments import check_key, check_kind
from .._invariance import beside_by_name, Invariances, nothing
from .._math.algebra import matmul, vdot
from .._math.normal import log_normal_cdf
from .._model import AbstractExponentialFamilyModel
from .._program import compiled
from .._reference import Reference
from .._types import Any, Array, Float, Key, PyTree, Scalar
from ..components._linear import design
from ..components._linear_regression import (
    at_center,
    check_regression,
    check_target,
    regression_numbers,
    solve_masked,
)
from ..components._support import is_bit, log_indicator
from ..data._batch import host_rows, rows
from ..data._check import check_described, check_row, check_values, is_concrete
from ..families import PolyaGamma, TruncatedNormal
from ..priors import Normal


class AbstractBinaryRegression(AbstractExponentialFamilyModel):
    r"""A regression $p(y = 1 \mid u) = F(s)$ of a label y on the score $s = \beta_0 + \beta \cdot u$.

    With a latent z for each datum log p(y, z | β) is quadratic in s, so that the coordinates η are first and
    second moments of the coefficients. They are about the current coefficients: with β = b + d and ũ = (1, u − c),

        E[s] = b·ũ + first·ũ,    E[s²] = (b·ũ)² + 2 (b·ũ) first·ũ + ũᵀ second ũ

    at first = E[d] and second = E[d dᵀ], which are 0 for params, and a covariance for a belief. No digits are
    lost where scores are large.
    """

    prior: eqx.AbstractVar[Normal | None]

    def __check_init__(self):
        check_kind(type(self).__name__, Normal, prior=self.prior)

    @abc.abstractmethod
    def from_score(self, mean: Scalar, square: Scalar, sign: Scalar) -> tuple[PyTree, Scalar]:
        """Returns `potentials` from E[s], E[s²] and the label as ±1."""

    @abc.abstractmethod
    def highest_bound(self, mean: Scalar, variance: Scalar, sign: Scalar) -> Scalar:
        """Returns A(λ) + c without cancellation, from E[s] and the variance of s: log p(y | u) if this is 0."""

    @abc.abstractmethod
    def probability(self, score: Array) -> Array:
        """Returns F(s)."""

    @abc.abstractmethod
    def score_of(self, probability: Array) -> Array:
        """Returns the score with this probability."""

    def check(self, batch: PyTree, who: str = "fit") -> None:
        x, weight = host_rows(batch)
        check_regression(x, weight, who, False)
        bad = lambda y: (y != 0) & (y != 1)
        check_values(x[1], weight, f"{who}, labels", bad, "zeros and ones")

    def init(self, key: Key, x: PyTree) -> PyTree:
        """Returns params with slopes 0 and the intercept of the labels' mean.

        They are the same for every key: the log-likelihood is concave, so one start is enough.

        **Raises** `ValueError` for data that no fit could use.
        """
        who = f"{type(self).__name__}.init"
        check_key(key, who)
        if is_concrete(x):
            self.check(x, who)
        return _start(self, *rows(x))

    @property
    def shapes(self) -> PyTree:
        width = "num_inputs + 1"
        return {
            "coefficients": (width,),
            "center": Reference((lambda sizes: sizes[width] - 1,)),
        }

    def natural(self, params: PyTree) -> PyTree:
        coefficients = params["coefficients"]
        width, dtype = coefficients.size, coefficients.dtype
        about = {"coefficients": self.at_center(params), "center": center_of(params)}
        return {
            "first": jnp.zeros(width, dtype),
            "second": jnp.zeros((width, width), dtype),
            "about": Reference(about),
        }

    def rebase(self, natural: PyTree, params: PyTree) -> PyTree:
        """Inserts d = d' + gap, where the gap is that between the new coefficients and the old ones."""
        new = self.natural(params)["about"]
        gap = natural["about"].value["coefficients"] - new.value["coefficients"]
        mixed = jnp.outer(natural["first"], gap)
        second = natural["second"] + mixed + mixed.T + jnp.outer(gap, gap)
        return {"first": natural["first"] + gap, "second": second, "about": new}

    def _score(self, natural: PyTree, x: Any) -> tuple[Scalar, Scalar, Scalar, Scalar]:
        """Returns (E[s], E[s²], the variance of s, ±1 for the label), with −∞ in the mean's place of no label."""
        inputs, label = x
        check_target(label, type(self).__name__)
        about = natural["about"].value
        coefficients = about["coefficients"]
        check_row(inputs, coefficients.size - 1, f"{type(self).__name__}, inputs")
        u = design(inputs.astype(coefficients.dtype) - about["center"])
        score, change = vdot(coefficients, u), vdot(natural["first"], u)
        second = vdot(natural["second"], jnp.outer(u, u))
        square = score**2 + 2 * score * change + second
        sign = jnp.where(label.astype(u.dtype) > 0, 1, -1).astype(u.dtype)
        return score + change, square, second - change**2, sign

    def potentials(self, natural: PyTree, x: Any) -> tuple[PyTree, Scalar]:
        mean, square, _, sign = self._score(natural, x)
        potentials, constant = self.from_score(mean, square, sign)
        return potentials, constant + _possible(x[1], mean.dtype)

    def elbo(self, natural: PyTree, x: PyTree, q: Any, key: Key) -> Scalar:
        if getattr(q, "tight", False):
            mean, _, variance, sign = self._score(natural, x)
            return self.highest_bound(mean, variance, sign) + _possible(x[1], mean.dtype)
        return super().elbo(natural, x, q, key)

    def maximize(self, statistics: PyTree, params: PyTree, free: PyTree) -> PyTree:
        """Solves the weighted least squares of the latents, one step of reweighting."""
        gram, cross = -2 * statistics["second"], statistics["first"]
        if self.prior is not None:
            precisions = self.prior.precisions(cross.size, cross.dtype)
            gram = gram + jnp.diag(precisions)
            cross = cross - precisions * self.at_center(params)
        return params | {"coefficients": self.move(gram, cross, params, free["coefficients"])}

    def move(self, gram: Array, cross: Array, params: PyTree, free: Any) -> Array:
        """Returns the coefficients moved by the free d that maximizes cross·d − ½ dᵀ gram d, at the center."""
        old, center = params["coefficients"], center_of(params)
        moving = jnp.broadcast_to(free, cross.shape)
        if free is True:
            return old + at_center(solve_masked(gram, cross, moving), -center)
        # A frozen intercept is the one at u = 0.
        turn = jnp.eye(cross.size, dtype=cross.dtype).at[0, 1:].set(center)
        change = solve_masked(matmul(turn.T, matmul(gram, turn)), matmul(cross, turn), moving)
        return jnp.where(moving, old + change, old)

    def at_center(self, params: PyTree) -> Float[Array, " width"]:
        """Returns the coefficients with the intercept at the inputs' mean, where the prior is."""
        return at_center(params["coefficients"], center_of(params))

    def log_prior(self, params: PyTree) -> Scalar | float:
        return 0.0 if self.prior is None else self.prior.log_density(self.at_center(params))

    def describe(self, params: PyTree) -> dict[str, Array]:
        """Returns the coefficients `(num_inputs + 1,)`, the intercept first."""
        return {"coefficients": params["coefficients"]}

    def from_description(self, *, coefficients: Any, center: Any = None) -> PyTree:
        """Returns params from coefficients `(num_inputs + 1,)`, the intercept first.

        `center` are the inputs' means, by default 0: where the prior's intercept is, and about which sums are
        formed.

        **Raises** `ValueError` for a wrong shape or numbers that are not finite.
        """
        given: dict[str, Any] = {"coefficients": (coefficients, ("num_inputs + 1",), "finite")}
        if center is not None:
            given["center"] = (center, (lambda sizes: sizes["num_inputs + 1"] - 1,), "finite")
        check_described(type(self).__name__, **given)
        coefficients = jnp.asarray(coefficients, float)
        about = jnp.zeros_like(coefficients[1:]) if center is None else jnp.asarray(center, float)
        return {"coefficients": coefficients, "center": Reference(about)}

    def predict(self, params: PyTree, inputs: Float[Array, " P"]) -> Scalar:
        """Returns p(y = 1 | u) at the inputs of one datum; for a table `jax.vmap` over its rows."""
        coefficients = params["coefficients"]
        check_row(inputs, coefficients.size - 1, f"{type(self).__name__}.predict")
        score = vdot(coefficients, design(jnp.asarray(inputs, coefficients.dtype)))
        return self.probability(score)

    def invariances(self, params: PyTree) -> Invariances:
        return beside_by_name({name: nothing(leaf) for name, leaf in params.items()})


class LogisticRegression(AbstractBinaryRegression):
    r"""Logistic regression, $p(y = 1 \mid u) = 1 / (1 + e^{-s})$ with $s = \beta_0 + \beta \cdot u$.

    A datum is `(inputs, label)`: u of shape `(num_inputs,)` and y, 0 or 1. The latent is a `PolyaGamma` number ω,
    with which the log-joint is quadratic in the coefficients (Polson, Scott and Windle 2013):

    $$\log p(y, \omega) = -\log 2 + (y - \tfrac12) s - \tfrac12 \omega s^2 + \log \mathrm{PG}(\omega \mid 1, 0)$$

    So EM has an exact E-step, $E[\omega] = \tanh(s / 2) / 2s$, and weighted least squares for an M-step. Under
    `Bayesian` it is coordinate ascent on the bound of Jaakkola and Jordan (2000), as Durante and Rigon (2019)
    show; an `OnlineMStep` makes it stochastic. `NewtonMStep` takes fewer steps where there are few inputs. The
    belief is narrower than the posterior, the more so the better the labels are separated; a `GaussianBelief` is
    less so.

    Params: `{"coefficients": (num_inputs + 1,)}`, the intercept first. They also hold `"center"`, a `Reference` to
    the inputs' means, about which sums are formed (0 if absent). Where a plane separates the labels, the
    likelihood has no maximum and the coefficients grow without end: pass a prior.

    **Arguments:**

    - `prior`: a `priors.Normal` on the coefficients, with the intercept at the inputs' mean.

    ```python
    >>> import elbax, jax, jax.numpy as jnp
    >>> u, y = jnp.array([[-2.0], [-1.0], [0.0], [1.0], [2.0]]), jnp.array([0, 0, 1, 0, 1])
    >>> model = elbax.LogisticRegression()
    >>> result = elbax.fit(elbax.em(model), (u, y), key=jax.random.key(0))
    >>> print(f"{model.predict(result.params, jnp.array([1.5])):.2f}")
    0.73

    ```

    With a distribution over the coefficients:

    ```python
    >>> bayesian = elbax.Bayesian(elbax.LogisticRegression(elbax.priors.Normal(2.0)))
    >>> result = elbax.fit(elbax.em(bayesian), (u, y), key=jax.random.key(0))
    >>> model, params = bayesian.predictive(result.params, key=jax.random.key(1))

    ```
    """

    prior: Normal | None = None

    @property
    def latent(self) -> PolyaGamma:
        """The family of ω, `families.PolyaGamma()`."""
        return PolyaGamma()

    def from_score(self, mean, square, sign):
        return -0.5 * square, 0.5 * sign * mean - math.log(2)

    def highest_bound(self, mean, variance, sign):
        # With c² = E[s²] it is ½ (± E[s] − c) − log(1 + e⁻ᶜ). Without a variance c is |s|, and this is log F(± s).
        square = mean**2 + variance
        tilt = jnp.sqrt(jnp.where(square > 1, square, 1))
        far = 0.5 * (sign * mean - tilt) - jnp.log1p(jnp.exp(-tilt))
        potentials, constant = self.from_score(mean, square, sign)
        near = constant + self.latent.log_normalizer(potentials)
        return jnp.where(square > 1, far, near)

    def probability(self, score):
        return jax.nn.sigmoid(score)

    def score_of(self, probability):
        return jnp.log(probability) - jnp.log1p(-probability)


class ProbitRegression(AbstractBinaryRegression):
    r"""Probit regression, $p(y = 1 \mid u) = \Phi(s)$ with $s = \beta_0 + \beta \cdot u$.

    A datum is `(inputs, label)`: u of shape `(num_inputs,)` and y, 0 or 1. The latent is z > 0, the size of a
    normal number ±z ~ N(s, 1) whose sign is the label (Albert and Chib 1993), a `TruncatedNormal`. EM regresses
    the mean of this number, s ± φ(s)/Φ(±s), on the inputs. Under `Bayesian` it is coordinate ascent (Consonni and
    Marin 2007), and `predictive` is a probit again, of the score's mean over $\sqrt{1 + \mathrm{var}(s)}$.

    Params: `{"coefficients": (num_inputs + 1,)}`, the intercept first. They also hold `"center"`, a `Reference` to
    the inputs' means, about which sums are formed (0 if absent). Where a plane separates the labels, the
    likelihood has no maximum and the coefficients grow without end: pass a prior.

    **Arguments:**

    - `prior`: a `priors.Normal` on the coefficients, with the intercept at the inputs' mean.

    ```python
    >>> import elbax, jax, jax.numpy as jnp
    >>> u, y = jnp.array([[-2.0], [-1.0], [0.0], [1.0], [2.0]]), jnp.array([0, 0, 1, 0, 1])
    >>> model = elbax.ProbitRegression(prior=elbax.priors.Normal(2.0))
    >>> bayesian = elbax.Bayesian(model)
    >>> result = elbax.fit(elbax.em(bayesian), (u, y), key=jax.random.key(0))
    >>> predictive, params = bayesian.predictive(result.params)
    >>> print(f"{elbax.evidence(predictive, params, (u, y)):.2f}")
    -0.50

    ```
    """

    prior: Normal | None = None

    @property
    def latent(self) -> TruncatedNormal:
        """The family of z, `families.TruncatedNormal()`."""
        return TruncatedNormal()

    def from_score(self, mean, square, sign):
        return (sign * mean, jnp.ones_like(mean)), -0.5 * (square + math.log(2 * math.pi))

    def highest_bound(self, mean, variance, sign):
        return log_normal_cdf(sign * mean) - 0.5 * variance

    def probability(self, score):
        return ndtr(score)

    def score_of(self, probability):
        return ndtri(probability)


def _possible(label: Array, dtype: Any) -> Array:
    """Returns 0, or −∞ for a label that is neither 0 nor 1."""
    return log_indicator(label, True, is_bit(label)).astype(dtype)


def center_of(params: PyTree) -> Array:
    """Returns the center that is subtracted from the inputs."""
    if "center" in params:
        return jax.lax.stop_gradient(params["center"].value)
    return jnp.zeros_like(params["coefficients"][1:])


@compiled
def _start(model: AbstractBinaryRegression, x: PyTree, weight: Array) -> PyTree:
    inputs, label = regression_numbers(x)
    weight = weight.astype(inputs.dtype)
    total = jnp.sum(weight)
    mean, share = matmul(weight, inputs) / total, vdot(weight, label) / total
    # Half a datum of each label, so that labels that are all alike have a finite start.
    intercept = model.score_of((total * share + 0.5) / (total + 1))
    coefficients = jnp.zeros(mean.size + 1, mean.dtype).at[0].set(intercept)
    return {"coefficients": coefficients, "center": Reference(mean)}
