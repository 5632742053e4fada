"""Structured autoencoders: a pinwheel, digits, vowels, films with gaps, beside simpler models.

python benchmarks/structured_autoencoders.py [PART ...]    all parts: writes results/structured_autoencoders.md
"""

import functools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from measuring import markdown, Row, setting, write_or_print
from sklearn.cluster import KMeans
from sklearn.datasets import load_digits
from sklearn.decomposition import PCA

import elbax
from elbax.components import Normal
from elbax.posteriors import Recognition


RESULTS = Path(__file__).parent / "results" / "structured_autoencoders.md"
SEEDS, DRAWS = (1, 2, 3), 100
norm = jax.scipy.stats.norm


def mlp(inputs: int, outputs: int, key: jax.Array, width: int = 32) -> elbax.Network:
    return elbax.Network(eqx.nn.MLP(inputs, outputs, width, 1, jnp.tanh, key=key))


def trained(update: Any, params: Any, q: Any, draw: Callable, steps: int, key: jax.Array) -> Any:
    """The state after so many steps, each of the batch that `draw` makes of a key, and the bounds."""
    start = update.init(params, q, key=key)
    keys = jax.random.split(jax.random.fold_in(key, 1), steps)
    state, info = jax.lax.scan(lambda s, key: update(s, draw(key)), start, keys)
    return update.settle(state, draw(key)), info.elbo


def decaying(rate: float, steps: int) -> optax.GradientTransformation:
    return optax.adam(optax.cosine_decay_schedule(rate, steps))


def spread(values: list[float], digits: int = 3) -> str:
    low, high = min(values), max(values)
    return f"{np.mean(values):.{digits}f} ({low:.{digits}f} to {high:.{digits}f})"


# ---- a mixture


def log_weight(params: Any, x: jax.Array, noise: jax.Array, label: jax.Array) -> jax.Array:
    """The logarithm of p(x, c | label) / q(c) at a draw c of q."""
    codes = elbax.DiagonalGaussian(len(noise))
    prior = codes(codes.from_network(params["codes"][label]))
    q = codes(codes.tilted(prior.natural, params["encoder"](x)))
    c = q.mode() + noise / jnp.sqrt(q.natural[1])
    likelihood = norm.logpdf(x, params["decoder"](c), jnp.exp(params["log_scale"])).sum()
    return likelihood + prior.log_prob(c) - q.log_prob(c)


def log_mean_weight(params: Any, x: jax.Array, noise: jax.Array, label: jax.Array) -> jax.Array:
    """The logarithm of an unbiased estimate of p(x | label), by as many draws as there are rows of noise."""
    each = jax.vmap(log_weight, (None, None, 0, None))(params, x, noise, label)
    return jax.nn.logsumexp(each) - jnp.log(len(noise))


def log_joint(params: Any, datum: Any, label: jax.Array) -> jax.Array:
    return jax.nn.log_softmax(params["logits"])[label] + log_mean_weight(params, *datum, label)


def pinwheel(rng: np.random.Generator, number: int = 1000, arms: int = 5) -> tuple:
    arm = rng.integers(arms, size=number)
    along, across = rng.normal(size=(2, number)) * np.array([[0.3], [0.05]])
    angle = 2 * np.pi * arm / arms + 0.25 * np.exp(1 + along)
    turn = lambda a, b: np.cos(angle) * a + np.sin(angle) * b
    return jnp.asarray(2 * np.stack([turn(1 + along, -across), turn(across, 1 + along)], 1)), arm


def purity(labels: Any, truth: np.ndarray) -> float:
    labels = np.asarray(labels)
    return sum(np.bincount(truth[labels == k]).max() for k in set(labels.tolist())) / len(truth)


def beside_the_points(inner: elbax.Network, size: int) -> elbax.Network:
    """A network that begins near the identity, and near a deviation of 1 / e."""
    start = lambda x: jnp.concatenate([x, -jnp.ones(2)])[:size]
    return elbax.Network(lambda inner, x: start(x) + inner(x), inner)


def of_pinwheel(starts: int = 16, steps: int = 3000) -> list[Row]:
    rows = []
    model = elbax.Model(log_joint, elbax.Categorical(5))
    gradient = elbax.GradientMStep(model, decaying(1e-2, steps))
    update = elbax.Chain(elbax.ExactEStep(model), gradient)

    @jax.jit
    @functools.partial(jax.vmap, in_axes=(None, 0))
    def run(x, key):
        keys = jax.random.split(key, 4)
        means = 1.5 * jax.random.normal(keys[0], (5, 2))
        params = {
            "logits": jnp.zeros(5),
            "codes": jnp.concatenate([means, jnp.full((5, 2), -0.7)], 1),
            "encoder": beside_the_points(mlp(2, 4, keys[1]), 4),
            "decoder": beside_the_points(mlp(2, 2, keys[2]), 2),
            "log_scale": jnp.array(-1.0),
        }

        def draw(key):
            rows, noise = jax.random.split(key)
            rows = jax.random.randint(rows, (100,), 0, len(x))
            return x[rows], jax.random.normal(noise, (100, 1, 2))

        state, bounds = trained(update, params, elbax.Exact(model, params), draw, steps, keys[3])
        q = elbax.Exact(model, state.params)
        return bounds[-200:].mean(), jax.vmap(lambda x: q((x, jnp.zeros((1, 2)))).mode())(x)

    for seed in SEEDS:
        x, arm = pinwheel(np.random.default_rng(seed))
        bounds, labels = run(x, jax.random.split(jax.random.key(seed), starts))
        each = [purity(one, arm) for one in labels]
        mixture = elbax.GaussianMixture(5)
        key = jax.random.key(seed)
        fitted = elbax.fit(elbax.em(mixture), x, key=key, restarts=16)
        means = KMeans(5, n_init=16, random_state=seed).fit_predict(np.asarray(x))
        rows.append(
            {
                "data, seed": seed,
                "best by the bound": f"{each[int(jnp.argmax(bounds))]:.3f}",
                "median start": f"{np.median(each):.3f}",
                "starts above 0.95": f"{sum(one > 0.95 for one in each)} of {starts}",
                "Gaussian mixture": f"{purity(elbax.labels(mixture, fitted.params, x), arm):.3f}",
                "k-means": f"{purity(means, arm):.3f}",
            }
        )
    return rows


# ---- digits


class Coded(NamedTuple):
    evidence: jax.Array  # Of held-out images, nats.
    labels: jax.Array
    codes: jax.Array


def coding(labels: int, size: int, seed: jax.Array) -> dict[str, Any]:
    """A mixture between two networks; with one label it is the plain autoencoder, of independent codes."""
    keys = jax.random.split(jax.random.key(seed), 3)
    means = (labels > 1) * jax.random.normal(keys[0], (labels, size))
    return {
        "logits": jnp.zeros(labels),
        "codes": jnp.concatenate([means, jnp.zeros((labels, size))], 1),
        "encoder": mlp(64, 2 * size, keys[1], 64),
        "decoder": mlp(size, 64, keys[2], 64),
        "log_scale": jnp.array(-1.0),
    }


@functools.partial(jax.jit, static_argnames="steps")
@functools.partial(jax.vmap, in_axes=(0, None, None, 0, None))
def coded(params: Any, x: jax.Array, held: jax.Array, seed: jax.Array, steps: int) -> Any:
    """The params after training, and what they say of all images."""
    labels, size = params["codes"].shape[0], params["codes"].shape[1] // 2
    codes, model = elbax.DiagonalGaussian(size), elbax.Model(log_joint, elbax.Categorical(labels))
    gradient = elbax.GradientMStep(model, decaying(3e-3, steps))
    update = elbax.Chain(elbax.ExactEStep(model), gradient)
    keys = jax.random.split(jax.random.fold_in(jax.random.key(seed), labels))

    def draw(key):
        rows, noise = jax.random.split(key)
        rows = jax.random.randint(rows, (100,), 0, len(x))
        return x[rows], jax.random.normal(noise, (100, 1, size))

    state, _ = trained(update, params, elbax.Exact(model, params), draw, steps, keys[0])
    params = state.params

    def told(x):
        q = elbax.Exact(model, params)((x, jnp.zeros((1, size))))
        says = params["encoder"](x)
        tilt = lambda prior: codes.mode(codes.tilted(codes.from_network(prior), says))
        return q.mode(), q.mean() @ jax.vmap(tilt)(params["codes"])

    noise = jax.random.normal(keys[1], (len(held), DRAWS, size))
    evidence = elbax.evidence(model, params, (held, noise), chunk_size=20)
    return params, Coded(evidence, *jax.vmap(told)(jnp.concatenate([x, held])))


def with_labels(params: Any, codes: jax.Array, labels: int) -> Any:
    """The plain autoencoders of all seeds, with Gaussian mixtures of their codes as priors (Jiang et al. 2017)."""
    model, found = elbax.GaussianMixture(labels, "diagonal"), []
    for seed, own in zip(SEEDS, codes, strict=True):
        fitted = elbax.fit(elbax.em(model), own, key=jax.random.key(seed), restarts=10)
        told = model.describe(fitted.params)
        deviations = jnp.sqrt(jnp.stack([jnp.diag(each) for each in told["covariances"]]))
        prior = jnp.concatenate([told["means"], jnp.log(deviations)], 1)
        found.append({"logits": jnp.log(told["weights"]), "codes": prior.astype(jnp.float32)})
    return params | jax.tree.map(lambda *leaves: jnp.stack(leaves), *found)


def of_digits(size: int = 8, steps: int = 6000) -> list[Row]:
    images, truth = load_digits(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(images))
    x, truth = jnp.asarray(images[order] / 16, jnp.float32), truth[order]
    data, seeds, rows = (x[:1437], x[1437:]), jnp.array(SEEDS), []
    starts = lambda labels: jax.vmap(lambda seed: coding(labels, size, seed))(seeds)
    first, begun = coded(starts(1), *data, seeds, steps // 2)
    _, plain = coded(starts(1), *data, seeds, steps)
    linear = PCA(size).fit_transform(np.asarray(x))

    def pure(of_seed):
        return spread([purity(found, truth) for found in map(of_seed, range(len(SEEDS)))])

    for labels in (10, 20):

        def by_means(codes, labels=labels):
            means = lambda i: KMeans(labels, n_init=10, random_state=SEEDS[i])
            return pure(lambda i: means(i).fit_predict(np.asarray(codes[i])))

        def by_mixture(i, labels=labels):
            model, codes = elbax.GaussianMixture(labels), jnp.asarray(linear)
            fitted = elbax.fit(elbax.em(model), codes, key=jax.random.key(SEEDS[i]), restarts=10)
            return np.asarray(elbax.labels(model, fitted.params, codes))

        def add(name, own, codes, evidence="", labels=labels, by_means=by_means):
            row = {"codes": name, "labels": labels, "purity of the mixture's labels": own}
            row |= {"purity of k-means of the codes": by_means(codes)}
            rows.append(row | {"log p(x), held out": evidence})

        later = with_labels(first, begun.codes[:, :1437], labels)
        for name, start, number in (
            ("mixture between networks", starts(labels), steps),
            ("the same, started at a plain autoencoder's codes", later, steps // 2),
        ):
            _, mixture = coded(start, *data, seeds, number)
            evidence = spread(mixture.evidence.tolist(), 1)
            add(name, pure(mixture.labels.__getitem__), mixture.codes, evidence)
        add("independent codes", "", plain.codes, spread(plain.evidence.tolist(), 1))
        add("principal components", pure(by_mixture), [linear] * len(SEEDS))
        add("pixels", "", [x] * len(SEEDS))
    return rows


# ---- a chain of labels


class Frames(elbax.AbstractExponentialFamilyModel):
    """Labels along a chain, a code given each label, a frame given each code. A datum: (frames, noise)."""

    latent: elbax.MarkovChain

    def potentials(self, params: Any, datum: Any) -> tuple:
        frames, noise = datum
        of_labels = jax.vmap(log_mean_weight, (None, None, None, 0))
        of_frames = jax.vmap(of_labels, (None, 0, 0, None))
        unary = of_frames(params, frames.values, noise, jnp.arange(self.latent.num_states))
        chain = {name: jax.nn.log_softmax(params[name]) for name in ("initial", "transition")}
        return chain | {"unary": unary, "length": frames.length}, 0.0


def vowels_by_networks(
    train: elbax.Sequence, test: elbax.Sequence, states: int, size: int, steps: int, seed: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """The bound and the estimate of log p(x) of held-out utterances, nats an utterance."""
    model = Frames(elbax.MarkovChain(states))
    gradient = elbax.GradientMStep(model, decaying(5e-3, steps))
    update = elbax.Chain(elbax.ExactEStep(model), gradient)
    keys = jax.random.split(jax.random.key(seed), 5)
    means = (states > 1) * 2 * jax.random.normal(keys[0], (states, size))
    params = {
        "initial": jnp.zeros(states),
        "transition": 2 * jnp.eye(states),
        "codes": jnp.concatenate([means, jnp.full((states, size), -0.7)], 1),
        "encoder": mlp(12, 2 * size, keys[1]),
        "decoder": mlp(size, 12, keys[2]),
        "log_scale": jnp.zeros(12),
    }

    def draw(key):
        rows, noise = jax.random.split(key)
        rows = jax.random.randint(rows, (30,), 0, len(train.length))
        some = jax.tree.map(lambda leaf: leaf[rows], train)
        return some, jax.random.normal(noise, (*some.values.shape[:2], 1, size))

    state, _ = trained(update, params, elbax.Exact(model, params), draw, steps, keys[3])

    def told(draws):
        noise = jax.random.normal(keys[4], (*test.values.shape[:2], draws, size))
        return elbax.evidence(model, state.params, (test, noise), chunk_size=10)

    return told(1), told(DRAWS)


def of_vowels(sizes: tuple[int, ...] = (4, 8), steps: int = 3000) -> list[Row]:
    spoken, _ = elbax.datasets.japanese_vowels()
    every = np.concatenate(spoken[:270])
    frames = elbax.sequences([(each - every.mean(0)) / every.std(0) for each in spoken])
    train = jax.tree.map(lambda leaf: leaf[:270], frames)
    test = jax.tree.map(lambda leaf: leaf[270:], frames)
    a_frame = len(test.length) / float(test.length.sum())
    by_networks = functools.partial(vowels_by_networks, train, test, steps=steps)
    rows = []

    def add(name, states, bounds, evidences):
        bound = spread([a_frame * each for each in bounds], 2) if bounds else "exact"
        evidence = spread([a_frame * each for each in evidences], 2)
        rows.append(
            {"nats a frame, held out": name, "states": states, "bound": bound, "log p(x)": evidence}
        )

    for states in (1, 6, 12):
        for size in sizes:
            run = functools.partial(by_networks, states=states, size=size)
            found = jax.jit(jax.vmap(lambda seed, run=run: run(seed=seed)))(jnp.array(SEEDS))
            name = "HMM-VAE" if states > 1 else "independent codes (VAE of a frame)"
            add(f"{name}, codes of {size}", states, *(each.tolist() for each in found))
        for covariance in ("diagonal", "full"):
            model = elbax.HiddenMarkovModel(Normal(covariance), states)
            em = elbax.em(model)
            fits = [elbax.fit(em, train, key=jax.random.key(seed), restarts=4) for seed in SEEDS]
            evidences = [float(elbax.evidence(model, fit.params, test)) for fit in fits]
            name = "hidden Markov model" if states > 1 else "one Gaussian"
            add(f"{name}, {covariance} covariance", states, [], evidences)
    return rows


# ---- a state space


STEPS, WIDTH, MISSING = 20, 10, 6


def dots(rng: np.random.Generator, number: int) -> jax.Array:
    place = (rng.uniform(0, 18, (number, 1)) + 1.5 * np.arange(STEPS)) % 18
    place = 9 - np.abs(place - 9)
    image = np.exp(-0.5 * ((np.arange(WIDTH) - place[..., None]) / 0.9) ** 2)
    return jnp.asarray(image + 0.05 * rng.normal(size=image.shape))


def state_prior(params: Any, datum: Any) -> Any:
    return {
        "initial": {"mean": jnp.zeros(2), "root": jnp.eye(2)},
        "transition": {
            "matrix": params["matrix"],
            "offset": jnp.zeros(2),
            "root": jnp.diag(jnp.exp(params["log_noise"])),
        },
        "unary": {"rows": jnp.zeros((1, 2)), "target": jnp.zeros((STEPS, 1))},
        "length": jnp.array(STEPS),
    }


def decoded(params: Any, z: jax.Array) -> jax.Array:
    if z.ndim == 1:
        return params["decoder"](z).reshape(STEPS, WIDTH)
    return jax.vmap(params["decoder"])(z)


def likelihood(params: Any, datum: Any, z: jax.Array) -> jax.Array:
    each = norm.logpdf(datum["frames"], decoded(params, z), jnp.exp(params["log_scale"])).sum(1)
    return jnp.sum(jnp.where(datum["seen"], each, 0))


def says(network: Any, datum: Any) -> dict:
    mean, log_deviation = jnp.split(jax.vmap(network)(datum["frames"]), 2, 1)
    precision = jnp.where(datum["seen"][:, None], jnp.exp(-2 * log_deviation), 0)
    return {"linear": precision * mean, "precision": precision[:, :, None] * jnp.eye(2)}


def flat(network: Any, datum: Any) -> jax.Array:
    frames = jnp.where(datum["seen"][:, None], datum["frames"], 0)
    return network(jnp.concatenate([frames.ravel(), datum["seen"].astype(frames.dtype)]))


def structured(key: jax.Array, angle: float) -> tuple:
    keys = jax.random.split(key)
    turn = jnp.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    model = elbax.Model(likelihood=likelihood, prior=state_prior, latent=elbax.GaussianChain(2))
    params = {
        "matrix": 0.95 * turn,
        "log_noise": jnp.full(2, -1.0),
        "decoder": mlp(2, WIDTH, keys[0]),
        "log_scale": jnp.array(-1.0),
    }
    network = elbax.Network(says, mlp(WIDTH, 4, keys[1]))
    return model, params, Recognition(network, elbax.Exact(model, params))


def without_dynamics(params: Any, datum: Any) -> Any:
    return state_prior({"matrix": jnp.zeros((2, 2)), "log_noise": jnp.zeros(2)}, datum)


def independent(key: jax.Array) -> tuple:
    """The same two networks, with a code of each frame by itself."""
    _, params, q = structured(key, 0.0)
    model = elbax.Model(
        likelihood=likelihood, prior=without_dynamics, latent=elbax.GaussianChain(2)
    )
    params = {name: params[name] for name in ("decoder", "log_scale")}
    return model, params, Recognition(q.network, elbax.Exact(model, params))


def unstructured(key: jax.Array, width: int) -> tuple:
    keys = jax.random.split(key)
    standard = lambda params, datum: (jnp.zeros(2), jnp.ones(2))
    latent = elbax.DiagonalGaussian(2)
    model = elbax.Model(likelihood=likelihood, prior=standard, latent=latent)
    params = {
        "decoder": mlp(2, STEPS * WIDTH, keys[0], width),
        "log_scale": jnp.array(-1.0),
    }
    network = elbax.Network(flat, mlp(STEPS * (WIDTH + 1), 4, keys[1], width))
    return model, params, elbax.Amortized(network, latent)


SYSTEMS = {
    "LDS-VAE": (functools.partial(structured, angle=0.4), 1000),
    "the same from dynamics of twice the speed": (
        functools.partial(structured, angle=1.0),
        1000,
    ),
    "VAE of a frame (independent codes)": (independent, 1000),
    "VAE of a film, as many weights": (functools.partial(unstructured, width=2), 4000),
    "VAE of a film, as many hidden units": (functools.partial(unstructured, width=32), 4000),
}
NUMBERS = (20, 50, 300)


def of_films() -> list[Row]:
    rng = np.random.default_rng(0)
    films, held = dots(rng, max(NUMBERS)), dots(rng, 200)
    gap = (jnp.arange(STEPS) >= 7) & (jnp.arange(STEPS) < 7 + MISSING)
    test = {"frames": jnp.where(gap[:, None], 0, held), "seen": jnp.tile(~gap, (len(held), 1))}
    error = lambda filled: jnp.sqrt(jnp.mean((filled - held)[:, gap] ** 2))
    rows = []
    for name, (make, steps) in SYSTEMS.items():

        @jax.jit
        @jax.vmap
        def run(number, seed, make=make, steps=steps):
            key = jax.random.key(seed)
            model, params, q = make(key)
            through = isinstance(q, Recognition)
            update = elbax.JointGradientStep(model, decaying(1e-2, steps), through=through)

            def draw(key):
                rows, first = jax.random.split(key)
                first = jax.random.randint(first, (10, 1), 0, STEPS - MISSING)
                seen = (jnp.arange(STEPS) < first) | (jnp.arange(STEPS) >= first + MISSING)
                return {"frames": films[jax.random.randint(rows, (10,), 0, number)], "seen": seen}

            state, _ = trained(update, params, q, draw, steps, key)
            filled = jax.vmap(lambda x: decoded(state.params, state.posterior(x).mode()))(test)
            return error(filled)

        _, params, q = make(jax.random.key(0))
        weights = sum(leaf.size for leaf in jax.tree.leaves((params, q.weights())))
        row = {"error of a missing pixel": name, "weights": f"{weights:,}"}
        numbers, seeds = jnp.repeat(jnp.array(NUMBERS), len(SEEDS)), jnp.tile(jnp.array(SEEDS), 3)
        for number, errors in zip(NUMBERS, run(numbers, seeds).reshape(3, -1), strict=True):
            row[f"{number} films"] = spread(errors.tolist())
        rows.append(row)
    row = {"error of a missing pixel": "mean image", "weights": ""}
    for number in NUMBERS:
        row[f"{number} films"] = f"{float(error(films[:number].mean((0, 1)))):.3f}"
    return [*rows, row]


PARTS = {
    "pinwheel": of_pinwheel,
    "digits": of_digits,
    "vowels": of_vowels,
    "films": of_films,
}


def report() -> Iterator[str]:
    yield (
        f"# Structured autoencoders\n\n{setting({})}. `python benchmarks/structured_autoencoders.py`: a mixture, "
        "a chain of labels and a state space between two networks of one hidden layer of 32 units, for digits 64; "
        f"Adam with a rate that falls to 0 along a cosine; float32. Means and ranges of {len(SEEDS)} seeds."
    )
    yield (
        "## A pinwheel\n\nPurity: the share of points whose arm is the most frequent one of their label. 1000 "
        "points, 5 arms, 5 labels; 16 starts of 3000 steps, or 16 of EM and of k-means."
    )
    yield markdown(of_pinwheel())
    yield (
        "## Digits\n\nscikit-learn's digits, grey levels between 0 and 1, codes of 8 numbers, 6000 steps of 100 "
        "images. Purity of all 1797 images; k-means takes the best of ten starts, of the means of q. log p(x) of "
        "360 images that are held out is a density of 64 grey levels, nats an image: the sum over labels of "
        f"estimates by {DRAWS} draws. The second row has 3000 steps without labels and, from a Gaussian mixture "
        "of those codes, 3000 more (Jiang et al. 2017)."
    )
    yield markdown(of_digits())
    yield (
        "## Japanese vowels\n\n270 utterances for training and 370 for the test, as published; columns of unit "
        "variance; codes of 4 or 8 numbers, 3000 steps of 30 utterances. All paths of labels are summed. log p(x) "
        f"of autoencoders is an estimate by {DRAWS} draws of the code of each frame and label, from below on "
        "average; the bound has one draw. Gaussian hidden Markov models have the best of four starts of EM."
    )
    yield markdown(of_vowels())
    yield (
        "## Films with missing frames\n\nA dot runs between two walls; 20 frames of 10 pixels with noise of 0.05, "
        "the least error there is. Six frames in a row are missing, in training at random places, in 200 test "
        "films in the middle. 1000 steps of 10 films, of the VAEs of a whole film 4000. Independent codes say "
        "nothing of a missing frame."
    )
    yield markdown(of_films())


if __name__ == "__main__":
    write_or_print(RESULTS, report, PARTS, __doc__)
