"""Structured autoencoders: arms of a pinwheel, films with missing frames, beside simpler models.

python benchmarks/structured_autoencoders.py [PART ...]    all parts: writes results/structured_autoencoders.md
"""

import argparse
import functools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from measuring import markdown, Row, setting, write
from sklearn.cluster import KMeans

import elbax
from elbax.posteriors import Recognition


RESULTS = Path(__file__).parent / "results" / "structured_autoencoders.md"
SEEDS = (1, 2, 3)
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


def log_joint(params: Any, datum: Any, label: jax.Array) -> jax.Array:
    return jax.nn.log_softmax(params["logits"])[label] + log_weight(params, *datum, label)


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
            return x[rows], jax.random.normal(noise, (100, 2))

        state, bounds = trained(update, params, elbax.Exact(model, params), draw, steps, keys[3])
        q = elbax.Exact(model, state.params)
        return bounds[-200:].mean(), jax.vmap(lambda x: q((x, jnp.zeros(2))).mode())(x)

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


PARTS = {"pinwheel": of_pinwheel, "films": of_films}


def report() -> Iterator[str]:
    yield (
        f"# Structured autoencoders\n\n{setting({})}. `python benchmarks/structured_autoencoders.py`: a mixture "
        "and a state space between two networks of one hidden layer of 32 units; Adam with a "
        f"rate that falls to 0 along a cosine; float32. Means and ranges of {len(SEEDS)} seeds."
    )
    yield (
        "## A pinwheel\n\nPurity: the share of points whose arm is the most frequent one of their label. 1000 "
        "points, 5 arms, 5 labels; 16 starts of 3000 steps, or 16 of EM and of k-means."
    )
    yield markdown(of_pinwheel())
    yield (
        "## Films with missing frames\n\nA dot runs between two walls; 20 frames of 10 pixels with noise of 0.05, "
        "the least error there is. Six frames in a row are missing, in training at random places, in 200 test "
        "films in the middle. 1000 steps of 10 films, of the VAEs of a whole film 4000."
    )
    yield markdown(of_films())


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("parts", nargs="*", choices=[*PARTS, []])
    asked = parser.parse_args().parts
    if asked:
        for part in asked:
            print(markdown(PARTS[part]()))
    else:
        write(RESULTS, report())
