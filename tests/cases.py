"""The registry of models and updates on small data. To add one, add one row to it."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax

import elbax
from elbax._reference import split_coordinates


@eqx.filter_jit
def step(update, state, batch):
    return update(state, batch)


@eqx.filter_jit
def sweeps(update, state, batch, length):
    """Makes so many steps on one batch: a program for all data of the same shapes, as (last state, infos)."""
    return jax.lax.scan(lambda state, _: update(state, batch), state, length=length)


@dataclasses.dataclass(frozen=True)
class System:
    """A model with its params and data, which are created on first use.

    `linear` means that the log-density of each component is linear in its natural coordinates: no latent is
    eliminated except the component's number.
    """

    name: str
    model: Any
    make_params: Callable[[Any], Any]
    make_x: Callable[[], Any]
    linear: bool = False
    make_encoder: Callable[[], Any] | None = None

    # They are kept, so that a test whose program is the first to ask for them must not make them a part of it.
    @functools.cached_property
    def x(self):
        with jax.ensure_compile_time_eval():
            return self.make_x()

    @functools.cached_property
    def params(self):
        with jax.ensure_compile_time_eval():
            return self.make_params(self.x)

    @property
    def num_data(self):
        return len(jax.tree.leaves(self.x)[0])

    @property
    def other(self):
        """A second batch of the same kind: rows drawn with replacement."""
        rows = np.random.default_rng(21).integers(0, self.num_data, self.num_data)
        return jax.tree.map(lambda leaf: np.asarray(leaf)[rows], self.x)


def filled(leaf, where):
    """Returns an array with what padding may contain in some of its rows."""
    kind = {"b": False, "f": np.nan}.get(leaf.dtype.kind, -999)
    return np.where(where.reshape(-1, *[1] * (leaf.ndim - 1)), np.asarray(kind, leaf.dtype), leaf)


def padded(x, more=5):
    """Returns the rows, each with weight one and its index, and after them some rows of padding."""
    x = jax.tree.map(np.asarray, x)
    n = len(jax.tree.leaves(x)[0])
    index = np.arange(n + more)
    real = index < n
    x = jax.tree.map(lambda leaf: filled(leaf[index % n], ~real), x)
    return elbax.Batch(x, weight=np.ones(n + more), mask=real, index=np.where(real, index, 10**6))


@dataclasses.dataclass(frozen=True)
class Case:
    """An update on a system. `make(rate)` builds it; an update without a rate ignores it."""

    name: str
    system: System
    make: Callable[[Any], elbax.AbstractUpdate]
    make_posterior: Callable[[], Any]

    @functools.cached_property
    def posterior(self):
        with jax.ensure_compile_time_eval():
            return self.make_posterior()

    @functools.cached_property
    def update(self):
        return self.make(0.05)

    @functools.cached_property
    def state(self):
        return self.update.init(self.system.params, self.posterior, key=jax.random.key(7))

    @functools.cached_property
    def step(self):
        """Makes one step, compiled once for all laws."""
        return jax.jit(lambda state, batch: self.update(state, batch))

    @property
    def program(self):
        """One step on the padded data, as (its equations, the shapes that it returns)."""
        traced = self.step.trace(self.state, self.padded)
        return traced.jaxpr, traced.out_info

    @functools.cached_property
    def padded(self):
        """The system's data with padding, of the shapes on which the laws make their steps."""
        return padded(self.system.x)


def table(num_data=24, dim=2, num_clusters=3):
    key_center, key_noise = jax.random.split(jax.random.key(11))
    center = 3 * jax.random.normal(key_center, (num_clusters, dim))
    which = jnp.arange(num_data) % num_clusters
    return center[which] + jax.random.normal(key_noise, (num_data, dim))


def gaussian_mixture(covariance, form="auto", floor=0.01):
    model = elbax.GaussianMixture(3, covariance, form=form, floor=floor)
    return of(f"mixture-{covariance}-{form}", model, table)


def moved(params):
    """Returns params away from a symmetric start, so that every entry of every parameter matters."""
    coordinates, rest = split_coordinates(params)
    coordinates = jax.tree.map(
        lambda leaf: leaf + 0.3 * jax.random.normal(jax.random.key(leaf.size), leaf.shape),
        coordinates,
    )
    return eqx.combine(coordinates, rest)


def of(name, model, data, linear=True, **arguments):
    """Returns a system of a model with `init`, and of a function that makes data."""
    return System(
        name,
        model,
        lambda x: moved(model.init(jax.random.key(0), x)),
        functools.partial(data, **arguments),
        linear,
    )


def mixture(name, component, data, linear=True, *, prior=None, **arguments):
    model = elbax.Mixture(component, 3, prior=prior)
    return of(f"mixture-{name}", model, data, linear, **arguments)


def binary(num_data=24, dim=2):
    return (table(num_data, dim) > 0).astype(float)


def codes(num_data=24):
    """Returns integers in columns of 2, 3 and 4 values."""
    limit = jnp.array([1, 2, 3])
    return jnp.clip(jnp.floor(table(num_data, 3) / 2 + 1).astype(int), 0, limit)


def counts(num_data=24, dim=2):
    return jax.random.poisson(jax.random.key(1), jnp.exp(0.3 * table(num_data, dim))).astype(float)


def positive(num_data=24, dim=2):
    return jnp.exp(0.5 * table(num_data, dim))


def regression(num_data=24, response="normal"):
    """Returns inputs, and targets on three lines."""
    u = jnp.linspace(-2.0, 2.0, num_data)
    line = jnp.array([1.0, -1.0, 0.3])[jnp.arange(num_data) % 3] * u + 0.5
    noise = jax.random.normal(jax.random.key(2), (num_data,))
    target = {
        "normal": line + 0.4 * noise,
        "poisson": jax.random.poisson(jax.random.key(3), jnp.exp(line)).astype(float),
        "bernoulli": (line + noise > 0).astype(float),
    }[response]
    return u[:, None], target


def mixed():
    """Returns columns of three kinds."""
    return {"size": table(), "kind": codes()[:, 1:], "number": counts(dim=1)}


def product():
    components = elbax.components
    return components.Product(
        size=components.Normal("diagonal", floor=0.01),
        kind=components.Categorical((3, 4), prior=elbax.priors.Dirichlet(1.5)),
        number=components.Poisson(),
    )


PATTERN = ((True, False), (True, True), (False, True), (True, False))


def factor_analysis(name, noise="diagonal", **arguments):
    model = elbax.FactorAnalysis(2, noise, floor=0.01, **arguments)
    return of(f"factors-{name}", model, table, linear=False, dim=4)


def experts():
    model = elbax.MixtureOfExperts(elbax.components.LinearRegression(floor=0.01), 3)
    return of("experts", model, regression, linear=False)


def generalized(response):
    model = elbax.Mixture(elbax.components.GeneralizedLinear(response), 2)
    return of(f"mixture-{response}-regression", model, regression, False, response=response)


def plain_categorical():
    def likelihood(params, x, z):
        return jax.scipy.stats.norm.logpdf(x, params["mean"][z], 1.0).sum()

    def start(x):
        return {"logits": jnp.array([0.1, -0.2, 0.3]), "mean": x[:3]}

    model = elbax.Model(
        likelihood=likelihood,
        prior=lambda params, x: jax.nn.log_softmax(params["logits"]),
        latent=elbax.Categorical(3),
        log_prior=lambda params: -0.5 * jnp.sum(params["mean"] ** 2),
    )
    return System("plain-categorical", model, start, table)


def linear_gaussian_likelihood(params, x, z):
    noise = jnp.exp(params["log_noise"])
    return jax.scipy.stats.norm.logpdf(x, params["loadings"] @ z, noise).sum()


def linear_gaussian_log_joint(params, x, z):
    return jax.scipy.stats.norm.logpdf(z).sum() + linear_gaussian_likelihood(params, x, z)


def plain_gaussian():
    def start(x):
        return {
            "loadings": jnp.array([[1.0, 0.2], [0.5, -1.0], [0.3, 0.4]]),
            "log_noise": jnp.array(-0.5),
        }

    model = elbax.Model(
        likelihood=linear_gaussian_likelihood,
        prior=lambda params, x: (jnp.zeros(2), jnp.eye(2)),
        latent=elbax.Gaussian(2),
        conjugate=True,
    )
    return System("plain-gaussian", model, start, functools.partial(table, dim=3))


def autoencoder():
    def log_joint(decoder, x, z):
        norm = jax.scipy.stats.norm
        return norm.logpdf(z).sum() + norm.logpdf(x, decoder(z)).sum()

    def start(x):
        return elbax.Network(
            eqx.nn.MLP(2, 3, 4, 1, activation=jnp.tanh, key=jax.random.key(5), dtype=float)
        )

    model = elbax.Model(
        log_joint, latent=elbax.DiagonalGaussian(2), estimator=elbax.estimators.Reparameterized(2)
    )
    return System("autoencoder", model, start, functools.partial(table, dim=3))


class Flat(eqx.Module):
    """A network on all numbers of a datum, whatever its structure."""

    network: eqx.nn.MLP

    def __call__(self, x):
        dtype = self.network.layers[0].weight.dtype
        return self.network(
            jnp.concatenate([jnp.ravel(leaf).astype(dtype) for leaf in jax.tree.leaves(x)])
        )


def random_weights(key, shapes):
    keys = jax.random.split(jax.random.key(key), len(shapes))
    return {name: 0.5 * jax.random.normal(k, s) for k, (name, s) in zip(keys, shapes.items())}


def normal(mean, log_deviation):
    return elbax.programs.Normal(mean, jnp.exp(log_deviation))


def two_layers(params, draw):
    top = elbax.programs.Normal(jnp.zeros_like(params["above"][0]), 1.0)
    z1 = draw("z1", normal(jnp.tanh(params["above"] @ draw("z2", top)), params["noise"]))
    draw("x", elbax.programs.Normal(params["below"] @ z1, 0.5))


DOWN = {"above": (2, 1), "below": (3, 2), "noise": (2,)}


def hierarchy():
    """Returns two layers of latents as ancestral programs, down for the model and up for its encoder."""

    def infer(weights, x, draw):
        z1 = draw("z1", normal(weights["below"] @ x, weights["noise"]))
        draw("z2", elbax.programs.Normal(jnp.tanh(weights["above"] @ z1), 0.7))

    up = {"below": (2, 3), "above": (1, 2), "noise": (2,)}
    return System(
        "hierarchy",
        elbax.Model(elbax.programs.log_joint(two_layers)),
        lambda x: random_weights(3, DOWN),
        functools.partial(table, dim=3),
        make_encoder=lambda: elbax.programs.encoder(infer, random_weights(4, up)),
    )


def reading(name, program, params, infer, weights, data, **options):
    """Returns a system of two programs, of which the encoder reads the model's params."""
    model = elbax.Model(elbax.programs.log_joint(program), **options)
    target = lambda: elbax.Exact(model, random_weights(3, params))
    return System(
        name,
        model,
        lambda x: random_weights(3, params),
        data,
        make_encoder=lambda: elbax.programs.encoder(
            infer, random_weights(4, weights), target=target()
        ),
    )


def ladder():
    """Returns the two layers with an encoder that corrects what the model says of the lower one."""

    def infer(weights, params, x, draw):
        z2 = draw("z2", elbax.programs.Normal(weights["top"] @ x, 0.7))
        above, says = jnp.exp(-2 * params["noise"]), jnp.exp(weights["precision"])
        mean = above * jnp.tanh(params["above"] @ z2) + says * (weights["up"] @ x)
        draw("z1", elbax.programs.Normal(mean / (above + says), (above + says) ** -0.5))

    weights = {"top": (1, 3), "up": (2, 3), "precision": (2,)}
    estimator = elbax.estimators.Reparameterized(stepwise=True)
    data = functools.partial(table, dim=3)
    return reading("ladder", two_layers, DOWN, infer, weights, data, estimator=estimator)


def recurrent():
    """Returns a variational recurrent network on sequences with padding."""

    def run(params, x, draw, step):
        inside = jnp.arange(len(x.values)) < x.length
        first = jnp.zeros_like(params["above"][0])
        draw.scan(step, first, x.values, where=inside)

    def remember(params, h, z, x):
        return jnp.tanh(params["memory"] @ jnp.concatenate([h, z, x]))

    def generate(params, x, draw):
        def step(h, seen, draw):
            z = draw("z", normal(params["above"] @ h, params["noise"]))
            draw("x", elbax.programs.Normal(params["below"] @ jnp.append(z, h), 0.5))
            return remember(params, h, z, seen), None

        run(params, x, draw, step)

    def infer(weights, params, x, draw):
        def step(h, seen, draw):
            z = draw("z", normal(weights["up"] @ jnp.append(seen, h), weights["noise"]))
            return remember(params, h, z, seen), None

        run(params, x, draw, step)

    params = {"above": (1, 2), "noise": (1,), "below": (2, 3), "memory": (2, 5)}
    return reading("recurrent", generate, params, infer, {"up": (1, 4), "noise": (1,)}, chains)


def diffusion():
    """Returns a hierarchy whose q is known: the steps of the model, with the datum in place of a guess of it."""

    def descend(guess, start, draw):
        def step(z, share, draw):
            mean = (1 - share) * z + share * guess(z)
            return draw("z", elbax.programs.Normal(mean, 0.6)), None

        last = draw("last", elbax.programs.Normal(start, 1.0))
        return draw.scan(step, last, jnp.array([0.2, 0.3, 0.5], last.dtype))[0]

    def generate(params, draw):
        guess = lambda z: jnp.tanh(params["guess"] @ z)
        z = descend(guess, jnp.zeros_like(params["guess"][0]), draw)
        draw("x", elbax.programs.Normal(z, 0.4))

    def noise(_, x, draw):
        descend(lambda z: x, 0.1 * x, draw)

    return System(
        "diffusion",
        elbax.Model(elbax.programs.log_joint(generate)),
        lambda x: random_weights(3, {"guess": (2, 2)}),
        table,
        make_encoder=lambda: elbax.programs.encoder(noise, ()),
    )


def neural_chain():
    """Returns a hidden Markov model whose tables are functions of vectors of its states."""

    def tables(params):
        states = jnp.tanh(params["states"])
        return {
            "initial": states @ params["start"],
            "transition": states @ params["out"] @ states.T,
            "components": {"logits": (states @ params["emit"])[:, None]},
        }

    chain = elbax.HiddenMarkovModel(elbax.components.Categorical(3), 3)
    shapes = {"states": (3, 2), "start": (2,), "out": (2, 2), "emit": (2, 3)}
    return System(
        "neural-chain",
        elbax.Tied(chain, tables),
        lambda x: random_weights(3, shapes),
        lambda: eqx.tree_at(lambda x: x.values, sentences(), sentences().values[..., None]),
    )


def encoder(system, num_outputs):
    if system.make_encoder:
        return system.make_encoder()
    dim = sum(leaf[0].size for leaf in jax.tree.leaves(system.x))
    network = eqx.nn.MLP(
        dim, num_outputs, 4, 1, activation=jnp.tanh, key=jax.random.key(3), dtype=float
    )
    return elbax.Amortized(Flat(network), system.model.latent)


def recipes(system, num_outputs):
    """Returns {name: (function from a rate to an update, function that makes the first posterior)}."""
    model = system.model
    exact = lambda: elbax.Exact(model, system.params)
    amortized = lambda: encoder(system, num_outputs)

    def adam(step):
        return lambda rate: step(model, optax.adam(rate))

    def chain(e_step, m_step):
        return lambda rate: elbax.Chain(e_step(rate), m_step(rate))

    bayes = lambda rate: elbax.ExactEStep(model)
    closed = lambda rate: elbax.ClosedFormMStep(model)
    return {
        "exact/closed": (chain(bayes, closed), exact),
        "exact/gradient": (chain(bayes, adam(elbax.GradientMStep)), exact),
        "encoder/closed": (chain(adam(elbax.GradientEStep), closed), amortized),
        "encoder/gradient": (
            chain(adam(elbax.GradientEStep), adam(elbax.GradientMStep)),
            amortized,
        ),
        "joint": (adam(elbax.JointGradientStep), amortized),
        "through": (
            lambda rate: elbax.JointGradientStep(model, optax.adam(rate), through=True),
            amortized,
        ),
        "fixed/gradient": (adam(elbax.GradientMStep), amortized),
        "newton": (chain(bayes, lambda rate: elbax.NewtonMStep(model)), exact),
        "hard/closed": (
            chain(lambda rate: elbax.HardEStep(model), closed),
            lambda: elbax.posteriors.Hard(exact()),
        ),
        "experts": (
            lambda rate: elbax.Chain(
                elbax.ExactEStep(model),
                elbax.ClosedFormMStep(model, free={"gate": False, "experts": True}),
                elbax.NewtonMStep(model, free={"gate": True, "experts": False}),
            ),
            exact,
        ),
        **of_the_table(system, exact, amortized, num_outputs),
        **wrapped(model, exact, amortized),
        "merge": (
            lambda rate: elbax.Chain(
                elbax.ExactEStep(model),
                elbax.ClosedFormMStep(model),
                elbax.wrappers.Every(elbax.MergeStep(model, num_sweeps=2), 2),
            ),
            exact,
        ),
        "ecme": (
            lambda rate: elbax.Chain(
                elbax.ExactEStep(model), elbax.ClosedFormMStep(model), elbax.EvidenceMStep(model)
            ),
            exact,
        ),
    }


def of_the_table(system, exact, amortized, num_outputs):
    """Returns the recipes of tables, of draws, and of online and numerical M-steps."""
    model = system.model
    bayes, closed = elbax.ExactEStep(model), elbax.ClosedFormMStep(model)

    def start():
        return elbax.posteriors.MeanField.init(model, system.params, system.x)

    def local():
        table = jax.random.normal(jax.random.key(12), (system.num_data, num_outputs))
        return elbax.posteriors.Local(table, model.latent)

    def semi():
        return elbax.posteriors.SemiAmortized(amortized(), exact(), optax.sgd(0.3), 2)

    def ascended():
        return elbax.posteriors.CoordinateAscent(exact(), 8)

    ascent = elbax.CoordinateAscentEStep(model, 8)
    return {
        "ascent/closed": (lambda rate: elbax.Chain(ascent, closed), ascended),
        "ascent/online": (
            lambda rate: elbax.Chain(ascent, elbax.OnlineMStep(model, rate)),
            ascended,
        ),
        "mean-field/closed": (lambda rate: elbax.Chain(elbax.MeanFieldEStep(model), closed), start),
        "local/closed": (
            lambda rate: elbax.Chain(elbax.LocalGradientEStep(model, optax.sgd(rate), 2), closed),
            local,
        ),
        "semi-amortized/closed": (
            lambda rate: elbax.Chain(elbax.GradientEStep(model, optax.adam(rate)), closed),
            semi,
        ),
        "draws/closed": (
            lambda rate: elbax.Chain(elbax.MonteCarloEStep(model), closed),
            lambda: elbax.posteriors.MonteCarlo(exact(), 3),
        ),
        "importance/gradient": (
            lambda rate: elbax.Chain(
                elbax.MonteCarloEStep(model), elbax.GradientMStep(model, optax.adam(rate))
            ),
            lambda: elbax.posteriors.Importance(amortized(), exact(), 3),
        ),
        "exact/online": (
            lambda rate: elbax.Chain(bayes, elbax.OnlineMStep(model, rate, delay=1)),
            exact,
        ),
        "exact/numerical": (
            lambda rate: elbax.Chain(bayes, elbax.NumericalMStep(model, max_steps=3)),
            exact,
        ),
    }


def wrapped(model, exact, amortized):
    """Returns the recipes of every wrapper, around EM or around an update for which it is made."""
    bayes, closed = elbax.ExactEStep(model), elbax.ClosedFormMStep(model)
    em = elbax.Chain(bayes, closed)

    def generalized(rate):
        return elbax.Chain(bayes, elbax.GradientMStep(model, optax.sgd(rate)))

    return {
        "repeat": (
            lambda rate: elbax.Chain(
                bayes, elbax.wrappers.Repeat(elbax.GradientMStep(model, optax.sgd(rate)), 3)
            ),
            exact,
        ),
        "every": (
            lambda rate: elbax.Chain(bayes, elbax.wrappers.Every(closed, 3, 1), closed),
            exact,
        ),
        "only": (
            lambda rate: elbax.wrappers.Only(em, params={"logits": True, "components": False}),
            exact,
        ),
        "anneal": (lambda rate: elbax.wrappers.Anneal(em, lambda step: 0.4 + rate * step), exact),
        "warm-up": (
            lambda rate: elbax.wrappers.Anneal(
                elbax.JointGradientStep(model, optax.adam(rate)),
                optax.linear_schedule(0.0, 1.0, 5),
                "divergence",
            ),
            amortized,
        ),
        "free-bits": (
            lambda rate: elbax.wrappers.Anneal(
                elbax.JointGradientStep(model, optax.adam(rate)), lambda step: 0.5, "free_bits"
            ),
            amortized,
        ),
        "averaged": (
            lambda rate: elbax.wrappers.Averaged(generalized(rate), decay=1 - rate),
            exact,
        ),
        "accelerate": (lambda rate: elbax.wrappers.Accelerate(em), exact),
        "guard": (lambda rate: elbax.wrappers.Guard(generalized(100 * rate), falling=True), exact),
        "certify": (lambda rate: elbax.wrappers.Certify(em, model), exact),
    }


def mixtures():
    """Returns mixtures of every kind of component."""
    components, priors = elbax.components, elbax.priors
    prior = priors.NormalInverseWishart([0.5, -0.5], 0.7, 4.0, [[1.0, 0.2], [0.2, 0.5]])
    dirichlet = priors.Dirichlet(2.5)
    normal = components.Normal(prior=prior)
    tied = components.Normal("tied", floor=0.01, prior=prior)
    return [
        mixture("with-priors", normal, table, prior=dirichlet),
        mixture("tied-with-priors", tied, table, prior=dirichlet),
        mixture("bernoulli", components.Bernoulli(prior=priors.Beta(1.5, 2.0)), binary),
        mixture("poisson", components.Poisson(prior=priors.Gamma(2.0, 0.5)), counts),
        mixture("gamma", components.Gamma(), positive),
        mixture("multinomial", components.Multinomial(prior=dirichlet), counts, dim=4),
        mixture("product", product(), mixed),
        mixture("factors", components.FactorAnalyzer(1, floor=0.01), table, False, dim=3),
        mixture("regression", components.LinearRegression(floor=0.01), regression),
    ]


def ragged(values, seed=4):
    """Returns sequences of lengths from 2, the shortest that all structures support, to the longest."""
    most = values.shape[1]
    return elbax.Sequence(
        values, jax.random.randint(jax.random.key(seed), (len(values),), 2, most + 1)
    )


def chains():
    """Returns 24 sequences of at most 4 steps."""
    return ragged(table(24 * 4).reshape(24, 4, 2))


def hidden_markov():
    model = elbax.HiddenMarkovModel(
        elbax.components.Normal("diagonal", floor=0.01),
        3,
        prior=elbax.priors.Dirichlet(1.5),
        transition_prior=elbax.priors.Dirichlet(1.2),
    )
    return of("hidden-markov", model, chains, linear=False)


def state_space():
    model = elbax.LinearGaussianStateSpace(2, floor=0.01, offsets=True)
    return of("state-space", model, lambda: table(24 * 3, 3).reshape(24, 3, 3), linear=False)


def factorial():
    model = elbax.FactorialHiddenMarkovModel(
        2, 2, floor=0.01, prior=elbax.priors.Dirichlet(1.5), noise="diagonal"
    )
    return of("factorial-hidden-markov", model, chains, linear=False)


def switching():
    regime = elbax.LinearGaussianStateSpace(1, floor=0.01, offsets=True)
    model = elbax.SwitchingStateSpace(
        regime, 2, switching="transition", transition_prior=elbax.priors.Dirichlet(1.5)
    )
    return of("switching", model, lambda: table(24 * 3, 1).reshape(24, 3, 1), linear=False)


def sentences():
    return ragged(jax.random.randint(jax.random.key(2), (24, 4), 0, 3))


def grammar():
    model = elbax.ContextFreeGrammar(2, 2, 3, prior=elbax.priors.Dirichlet(1.1))
    return of("grammar", model, sentences, linear=False)


def utterances():
    """Returns frames, at least 3, and at most two labels from a vocabulary of 3, for which 3 frames suffice."""
    frames = table(24 * 5).reshape(24, 5, 2)
    labels = jax.random.randint(jax.random.key(6), (24, 2), 1, 3)
    frames = elbax.Sequence(frames, jax.random.randint(jax.random.key(7), (24,), 3, 6))
    return frames, elbax.Sequence(labels, jnp.arange(24) % 2 + 1)


def linear_logits(weights, x):
    return x @ weights["matrix"] + weights["bias"]


def alignment():
    def start(x):
        weights = {"matrix": jnp.zeros((2, 3)), "bias": jnp.zeros(3)}
        return moved(elbax.Network(linear_logits, weights))

    return System("ctc", elbax.ConnectionistTemporalClassification(), start, utterances)


def causes():
    """Returns four variables: the first is never observed, the others are missing at random."""
    values = jnp.concatenate(
        [jnp.zeros((24, 1), int), codes()[:, :1], codes()[:, :1], codes()[:, 1:2]], 1
    )
    observed = jax.random.uniform(jax.random.key(8), values.shape) < 0.8
    return elbax.IncompleteRows(values.astype(float), observed.at[:, 0].set(False))


def bayesian_network():
    model = elbax.BayesianNetwork(
        (2, 2, 2, 3), ((), (0,), (0, 1), (0,)), prior=elbax.priors.Dirichlet(1.3)
    )
    return of("bayesian-network", model, causes, linear=False)


def believed():
    """Returns beliefs over the params, of several kinds of blocks each; test_beliefs.py has all others."""
    components, priors = elbax.components, elbax.priors
    dirichlet = priors.Dirichlet(0.7)
    normal = priors.NormalInverseWishart([0.5, -0.5], 0.7, 4.0, [[1.0, 0.2], [0.2, 0.5]])
    columns = components.Product(
        size=components.Normal("diagonal", prior=normal),
        kind=components.Categorical((3, 4), prior=dirichlet),
        number=components.Poisson(prior=priors.Gamma(2.0, 0.5)),
    )
    chain = elbax.HiddenMarkovModel(
        components.Normal("tied_spherical", prior=normal),
        3,
        allowed=np.triu(np.ones((3, 3), bool)),
        prior=dirichlet,
        transition_prior=dirichlet,
    )
    heavy = components.StudentT("tied", prior=normal)
    models = {
        "full": (elbax.GaussianMixture(3, prior=normal, weights_prior=dirichlet), table),
        "product": (elbax.Mixture(columns, 3, prior=dirichlet), mixed),
        "student": (elbax.Mixture(heavy, 3, prior=dirichlet), table),
        "hidden-markov": (chain, chains),
    }
    learned = {"product": ("components/kind/logits",)}
    return {
        name: of(
            f"bayesian-{name}",
            elbax.Bayesian(model, learned=learned.get(name, ())),
            data,
            name in {"full", "product"},
        )
        for name, (model, data) in models.items()
    }


def state_space_in_belief():
    """Returns a belief over a state space of which numbers are missing."""
    priors = elbax.priors
    rows = priors.NormalInverseGamma(0.5, 2.0, 1.0, intercept_precision=0.1)
    model = elbax.LinearGaussianStateSpace(
        2,
        transition_noise="isotropic",
        offsets=True,
        initial_prior=priors.NormalInverseWishart(0.3, 0.7, 4.0, 1.5),
        transition_prior=rows,
        emission_prior=rows,
    )

    def steps():
        values = table(24 * 3, 3).reshape(24, 3, 3)
        missing = jax.random.bernoulli(jax.random.key(13), 0.1, values.shape)
        return elbax.sequences(list(np.where(missing, np.nan, values)))

    return of("bayesian-state-space", elbax.Bayesian(model), steps, linear=False)


def drawn():
    """Returns a Gaussian belief over the params of a logistic regression, part of it with a full covariance."""
    gaussian = elbax.beliefs.GaussianBelief(
        2.0,
        full=lambda params: params["slopes"],
        draws="datum",
        num_samples=2,
        antithetic=True,
    )

    def log_density(params, x):
        inputs, label = x
        score = params["intercept"] + params["slopes"] @ inputs
        return -jax.nn.softplus(jnp.where(label > 0, -score, score))

    bayesian = elbax.Bayesian(elbax.Model(log_density), gaussian)
    params = {"intercept": jnp.array(0.1), "slopes": jnp.array([0.5, -0.5])}
    return System(
        "bayesian-drawn",
        bayesian,
        lambda x: moved(bayesian.start(params, x)),
        labeled,
    )


def labeled():
    """Returns inputs, and labels that no plane separates."""
    return table(), jnp.arange(24) % 2


def binary_regressions():
    """Returns both regressions of a label, and a belief over the coefficients of one."""
    prior = elbax.priors.Normal(2.0)
    models = {
        "logistic": elbax.LogisticRegression(prior),
        "probit": elbax.ProbitRegression(prior),
        "bayesian-logistic": elbax.Bayesian(elbax.LogisticRegression(prior)),
    }
    return {name: of(name, model, labeled, False) for name, model in models.items()}


def documents():
    """Returns 24 documents of 5 words from a vocabulary of 6, some of them twice, some of them padding."""
    words = jax.random.randint(jax.random.key(9), (24, 5), 0, 6)
    counts = jax.random.poisson(jax.random.key(10), 1.5, (24, 5)).astype(float)
    return {"words": words, "counts": counts.at[:, 0].add(1)}


def topics():
    model = elbax.LatentDirichletAllocation(4, 6, prior=elbax.priors.Dirichlet(1.2))
    return of("topics", model, documents, linear=False)


def topics_in_belief():
    model = elbax.LatentDirichletAllocation(4, 6, prior=elbax.priors.Dirichlet(0.3))
    return of("bayesian-topics", elbax.Bayesian(model), documents, linear=False)


def build():
    full, labels = gaussian_mixture("full"), binary_regressions()
    components, both = elbax.components, ["exact/closed", "exact/gradient"]
    rows = [
        (
            full,
            3,
            [
                "exact/closed",
                "exact/gradient",
                "encoder/closed",
                "encoder/gradient",
                "joint",
                "hard/closed",
                "mean-field/closed",
                "local/closed",
                "semi-amortized/closed",
                "importance/gradient",
                "exact/online",
                "exact/numerical",
                "repeat",
                "every",
                "only",
                "anneal",
                "warm-up",
                "averaged",
                "accelerate",
                "guard",
                "certify",
            ],
        ),
        (gaussian_mixture("full", "difference"), 3, ["exact/closed", "exact/gradient"]),
        (gaussian_mixture("tied"), 3, ["exact/closed"]),
        (gaussian_mixture("tied", "difference"), 3, ["exact/closed"]),
        (gaussian_mixture("diagonal"), 3, ["exact/closed"]),
        (gaussian_mixture("spherical"), 3, ["exact/closed"]),
        (gaussian_mixture("tied_diagonal"), 3, ["exact/closed"]),
        (plain_categorical(), 3, ["exact/gradient", "joint"]),
        (plain_gaussian(), 4, ["exact/gradient", "joint", "warm-up", "free-bits"]),
        (autoencoder(), 4, ["encoder/gradient", "joint", "importance/gradient"]),
        (hierarchy(), 0, ["encoder/gradient", "joint"]),
        (ladder(), 0, ["through"]),
        (recurrent(), 0, ["through"]),
        (diffusion(), 0, ["fixed/gradient"]),
        (neural_chain(), 0, ["exact/gradient"]),
        *((system, 3, ["exact/closed"]) for system in mixtures()),
        (
            mixture("categorical", components.Categorical((2, 3, 4)), codes),
            3,
            [*both, "draws/closed"],
        ),
        (mixture("student", components.StudentT(floor=0.01), table, False), 3, ["exact/closed"]),
        (generalized("poisson"), 2, ["newton"]),
        (experts(), 3, ["experts"]),
        (
            factor_analysis("diagonal"),
            4,
            ["exact/closed", "ecme", "mean-field/closed", "draws/closed"],
        ),
        (factor_analysis("isotropic", "isotropic"), 4, ["exact/closed"]),
        (factor_analysis("pattern", pattern=np.array(PATTERN)), 4, ["ecme"]),
        (hidden_markov(), 0, ["exact/closed", "hard/closed", "mean-field/closed", "draws/closed"]),
        (state_space(), 0, ["exact/closed"]),
        (state_space_in_belief(), 0, ["exact/closed"]),
        (factorial(), 0, ["mean-field/closed"]),
        (switching(), 0, ["mean-field/closed"]),
        (grammar(), 0, ["exact/closed"]),
        (alignment(), 0, ["exact/gradient"]),
        (bayesian_network(), 0, ["exact/closed"]),
        *((system, 3, ["exact/closed"]) for name, system in believed().items() if name != "full"),
        (believed()["full"], 3, ["exact/closed", "exact/online", "merge"]),
        (drawn(), 1, ["exact/gradient", "exact/online"]),
        (labels["logistic"], 1, ["exact/closed"]),
        (labels["probit"], 2, ["exact/closed"]),
        (labels["bayesian-logistic"], 1, ["exact/closed", "exact/online"]),
        (topics(), 4, ["mean-field/closed", "ascent/closed", "ascent/online"]),
        (topics_in_belief(), 4, ["mean-field/closed", "ascent/online"]),
    ]
    cases = []
    for system, num_outputs, names in rows:
        table_of_recipes = recipes(system, num_outputs)
        for name in names:
            make, posterior = table_of_recipes[name]
            cases.append(Case(f"{system.name}:{name}", system, make, posterior))
    return cases


CASES = build()
SYSTEMS = list({case.system.name: case.system for case in CASES}.values())


def find(name):
    return next(case for case in CASES if case.name == name)
