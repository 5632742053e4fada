"""Every family of models with made data and an update: what `accelerator.py` tries on a device.

A system is made at a size: rows (or sequences), and steps of a sequence. Data are NumPy's, in float64.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax

import elbax


components = elbax.components
Made = tuple[Any, Any]


@dataclasses.dataclass(frozen=True)
class Size:
    rows: int
    sequences: int
    length: int


SMALL = Size(rows=200, sequences=4, length=8)
FULL = Size(rows=100_000, sequences=64, length=512)


@dataclasses.dataclass(frozen=True)
class System:
    """`make(size, rng)` is (model, data); the rest has what most models have."""

    name: str
    make: Callable[[Size, np.random.Generator], Made]
    params: Callable[[Any, Any], Any] = lambda model, x: model.init(jax.random.key(0), x)
    update: Callable[[Any], elbax.AbstractUpdate] = lambda model: elbax.em(model)
    posterior: Callable[[Any, Any], Any] = elbax.Exact

    def state(self, model: Any, params: Any) -> elbax.ELBOState:
        return self.update(model).init(params, self.posterior(model, params), key=jax.random.key(1))


def clusters(rng: np.random.Generator, rows: int, dim: int = 4, number: int = 4) -> np.ndarray:
    """Unit normals about means of standard deviation 2."""
    means = 2 * rng.normal(size=(number, dim))
    return means[rng.integers(number, size=rows)] + rng.normal(size=(rows, dim))


def mixture(name: str, component: Any, data: Callable, number: int = 4, **given: Any) -> System:
    """A mixture; `data(rng, rows)`."""
    model = elbax.Mixture(component, number)
    return System(name, lambda size, rng: (model, data(rng, size.rows)), **given)


def lines(response: str = "normal") -> Callable:
    """Inputs, and targets about two lines."""

    def make(rng: np.random.Generator, rows: int) -> tuple[np.ndarray, np.ndarray]:
        inputs = rng.uniform(-2, 2, size=(rows, 1))
        line = np.where(rng.random(rows) < 0.5, 1.0, -1.0) * inputs[:, 0] + 0.3
        if response == "poisson":
            return inputs, rng.poisson(np.exp(line)).astype(float)
        return inputs, line + 0.3 * rng.normal(size=rows)

    return make


def factors(rng: np.random.Generator, rows: int, dim: int = 8, number: int = 2) -> np.ndarray:
    loadings = rng.normal(size=(dim, number))
    return rng.normal(size=(rows, number)) @ loadings.T + 0.5 * rng.normal(size=(rows, dim))


def with_gaps(rng: np.random.Generator, rows: int) -> elbax.Batch:
    x = clusters(rng, rows)
    missing = rng.random(x.shape) < 0.1
    missing[:, 0] = False  # A row without any number is refused.
    return elbax.incomplete(np.where(missing, np.nan, x))


def chain(order: str, component: Any = None) -> Callable:
    """A hidden Markov model on sticky states."""

    def make(size: Size, rng: np.random.Generator) -> Made:
        part = components.Normal("diagonal") if component is None else component
        model = elbax.HiddenMarkovModel(part, 4, order=order)
        means = 2 * rng.normal(size=(4, 3))
        jumps = rng.random((size.sequences, size.length)) < 0.1
        state = np.cumsum(jumps * rng.integers(1, 4, size=jumps.shape), axis=1) % 4
        if component is not None:
            return model, rng.poisson(2.0 + 5 * state)[..., None].astype(float)
        return model, means[state] + rng.normal(size=(*state.shape, 3))

    return make


def state_space(order: str) -> Callable:
    def make(size: Size, rng: np.random.Generator) -> Made:
        steps = rng.normal(size=(size.sequences, size.length, 2))
        loadings = rng.normal(size=(2, 3))
        x = 0.3 * np.cumsum(steps, 1) @ loadings + rng.normal(size=(*steps.shape[:2], 3))
        return elbax.LinearGaussianStateSpace(2, order=order), x

    return make


def sentences(size: Size, rng: np.random.Generator) -> Made:
    return elbax.ContextFreeGrammar(3, 3, 5), rng.integers(5, size=(size.sequences, 12))


def utterances(size: Size, rng: np.random.Generator) -> Made:
    """Frames of 8 numbers, and a fifth as many labels."""
    labels = rng.integers(1, 6, size=(size.sequences, max(size.length // 5, 2)))
    frames = rng.normal(size=(size.sequences, size.length, 8))
    return elbax.ConnectionistTemporalClassification(), (frames, labels)


def causes(size: Size, rng: np.random.Generator) -> Made:
    """A hidden cause of three symptoms."""
    cause = rng.random(size.rows) < 0.4
    symptoms = rng.random((size.rows, 3)) < np.where(cause, 0.8, 0.2)[:, None]
    hidden = np.full((size.rows, 1), np.nan)
    model = elbax.BayesianNetwork((2, 2, 2, 2), ((), (0,), (0,), (0,)))
    return model, elbax.incomplete(np.concatenate([hidden, symptoms], 1))


def decoded(decoder: Any, x: Any, z: Any) -> Any:
    norm = jax.scipy.stats.norm
    return norm.logpdf(z).sum() + norm.logpdf(x, decoder(z)).sum()


def autoencoder(estimator: Any, latent: int) -> Callable:
    def make(size: Size, rng: np.random.Generator) -> Made:
        x = factors(rng, min(size.rows, 4096))
        return elbax.Model(decoded, elbax.DiagonalGaussian(latent), estimator=estimator), x

    return make


def perceptron(inputs: int, outputs: int) -> elbax.Network:
    key = jax.random.key(3)
    return elbax.Network(eqx.nn.MLP(inputs, outputs, 32, 1, activation=jnp.tanh, key=key))


def by_gradient(step: Callable) -> Callable:
    return lambda model: elbax.Chain(elbax.ExactEStep(model), step(model, optax.adam(1e-2)))


def network_logits(weights: Any, frames: Any) -> Any:
    return frames @ weights


AUTOENCODER = {
    "params": lambda model, x: perceptron(model.latent.dim, x.shape[1]),
    "update": lambda model: elbax.JointGradientStep(model, optax.adam(1e-3)),
    "posterior": lambda model, params: elbax.Amortized(
        perceptron(8, 2 * model.latent.dim), model.latent
    ),
}

SYSTEMS = [
    mixture("mixture of normals", components.Normal(), clusters),
    mixture("the same, columns missing", components.Normal(), with_gaps),
    mixture("Student t", components.StudentT(), clusters),
    mixture(
        "Bernoulli", components.Bernoulli(), lambda rng, n: (clusters(rng, n) > 0).astype(float)
    ),
    mixture(
        "categorical",
        components.Categorical((3, 3, 3, 3)),
        lambda rng, n: np.digitize(clusters(rng, n), [-1.0, 1.0]),
    ),
    mixture(
        "multinomial",
        components.Multinomial(),
        lambda rng, n: rng.poisson(np.exp(0.4 * clusters(rng, n))).astype(float),
    ),
    mixture(
        "Poisson, rates to 1e4",
        components.Poisson(),
        lambda rng, n: rng.poisson(np.exp(4 + clusters(rng, n))).astype(float),
    ),
    mixture("gamma", components.Gamma(), lambda rng, n: np.exp(0.5 * clusters(rng, n))),
    mixture("factor analyzers", components.FactorAnalyzer(2), factors, 2),
    mixture("regressions", components.LinearRegression(), lines(), 2),
    mixture(
        "Poisson regressions, Newton",
        components.GeneralizedLinear("poisson"),
        lines("poisson"),
        2,
        update=lambda model: elbax.Chain(elbax.ExactEStep(model), elbax.NewtonMStep(model)),
    ),
    System(
        "mixture of experts",
        lambda size, rng: (
            elbax.MixtureOfExperts(components.LinearRegression(), 2),
            lines()(rng, size.rows),
        ),
        update=lambda model: elbax.Chain(
            elbax.ExactEStep(model),
            elbax.ClosedFormMStep(model, free={"gate": False, "experts": True}),
            elbax.NewtonMStep(model, free={"gate": True, "experts": False}),
        ),
    ),
    System(
        "factor analysis",
        lambda size, rng: (elbax.FactorAnalysis(2), factors(rng, size.rows)),
    ),
    System(
        "probabilistic PCA",
        lambda size, rng: (elbax.ProbabilisticPCA(2), factors(rng, size.rows)),
    ),
    System("hidden Markov, sequential", chain("sequential")),
    System("hidden Markov, pairwise", chain("pairwise")),
    System("hidden Markov, Poisson", chain("auto", components.Poisson())),
    System("state space, sequential", state_space("sequential")),
    System("state space, pairwise", state_space("pairwise")),
    System("grammar", sentences),
    System(
        "alignments",
        utterances,
        params=lambda model, x: elbax.Network(
            network_logits, 0.1 * jax.random.normal(jax.random.key(4), (8, 6))
        ),
        update=by_gradient(elbax.GradientMStep),
    ),
    System("Bayesian network", causes),
    # By quadrature, which draws nothing, a step in float32 has a reference; by draws it has its speed.
    System(
        "autoencoder, quadrature", autoencoder(elbax.estimators.Quadrature(8), 2), **AUTOENCODER
    ),
    System("autoencoder, draws", autoencoder(None, 8), **AUTOENCODER),
]


def believed(component: str) -> Callable:
    """Variational Bayes, of a model with priors on all params."""
    priors = elbax.priors
    flat = priors.Dirichlet(1.0)

    def make(size: Size, rng: np.random.Generator) -> Made:
        if component == "factors":
            relevance = priors.Gamma(0.1, 0.1)
            rows = priors.NormalInverseGamma(relevance, 1.0, 1.0)
            return elbax.Bayesian(elbax.FactorAnalysis(2, prior=rows)), factors(rng, size.rows)
        if component == "Poisson":
            rates = components.Poisson(prior=priors.Gamma(1.0, 0.1))
            x = rng.poisson(np.exp(1 + 0.5 * clusters(rng, size.rows))).astype(float)
            return elbax.Bayesian(elbax.Mixture(rates, 4, prior=flat)), x
        prior = priors.NormalInverseWishart(0.0, 1.0, 6.0, 1.0)
        model = elbax.GaussianMixture(4, prior=prior, weights_prior=flat)
        return elbax.Bayesian(model), clusters(rng, size.rows)

    return make


def drawn(size: Size, rng: np.random.Generator) -> Made:
    """A logistic regression with a Gaussian belief by draws of each datum."""

    def log_density(params, x):
        score = jnp.dot(x[0], params)
        return -jax.nn.softplus(jnp.where(x[1] > 0, -score, score))

    belief = elbax.beliefs.GaussianBelief(1.0, draws="datum", num_samples=2, antithetic=True)
    inputs = clusters(rng, size.rows)
    return elbax.Bayesian(elbax.Model(log_density), belief), (inputs, inputs[:, 0] > 0)


# The first edition of the core, to which others are compared, has no beliefs.
if hasattr(elbax, "Bayesian"):
    SYSTEMS += [
        System("beliefs, mixture of normals", believed("normals")),
        System("beliefs, mixture of Poissons", believed("Poisson")),
        System("beliefs, factors with relevance", believed("factors")),
        System(
            "beliefs, draws",
            drawn,
            params=lambda model, x: model.start(jnp.zeros(x[0].shape[1], x[0].dtype), x),
            update=lambda model: elbax.Chain(
                elbax.ExactEStep(model), elbax.GradientMStep(model, optax.adam(1e-3))
            ),
        ),
    ]
