"""Bits a pixel of held-out grey images: diffusion and an autoencoder of one size, and plainer codes.

`digits` are scikit-learn's, 8 × 8 pixels of 17 grey levels, 1500 for training and 297 for test. `mnist` has the
mean of 2 × 2 pixels of a folder of idx files, in 32 levels: 14 × 14 pixels, the first 10 000 of the one file
for training and the first 1000 of the other for test.

    python benchmarks/diffusion.py [--mnist FOLDER] [--kept rows.json]    writes results/diffusion.md

The autoencoder's images are also sent: by bits-back and the coder of `constriction`, and received.
"""

import argparse
import functools
import io
import lzma
import time
import zlib
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import constriction
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from measuring import Kept, markdown, Row, setting, write
from mnist import idx
from PIL import Image
from sklearn.datasets import load_digits

import elbax
from elbax import programs
from elbax.families import Copies


RESULTS = Path(__file__).parent / "results" / "diffusion.md"
BATCH, WIDTH, DIM, SEEDS = 100, 256, 32, (0, 1)
FIRST, LAST = -8.0, 5.0
entropy = constriction.stream.model


class Data(NamedTuple):
    train: jax.Array
    test: jax.Array
    levels: int
    steps: int
    numbers: int = (
        3  # What the network says of a pixel: as many numbers as levels are the logits themselves.
    )

    @property
    def pixels(self) -> int:
        return self.train.shape[1]

    @property
    def greys(self) -> jax.Array:
        return jnp.linspace(-1, 1, self.levels)

    def bits(self, nats: Any) -> float:
        return float(-nats / self.pixels / np.log(2))


def digits() -> Data:
    images = np.asarray(load_digits().data, np.int32)
    order = np.random.default_rng(0).permutation(len(images))
    train, test = jnp.asarray(images[order[:1500]]), jnp.asarray(images[order[1500:]])
    return Data(train, test, 17, 2000)


def mnist(folder: Path) -> Data:
    def read(name, number):
        every = idx(folder, name).reshape(-1, 14, 2, 14, 2)
        return jnp.asarray(every[:number].mean((2, 4)).reshape(number, -1) / 8, jnp.int32)

    train = read("train-images-idx3-ubyte", 10_000)
    return Data(train, read("t10k-images-idx3-ubyte", 1000), 32, 3000)


def mlp(inputs: int, outputs: int, key: jax.Array) -> elbax.Network:
    return elbax.Network(eqx.nn.MLP(inputs, outputs, WIDTH, 2, jax.nn.silu, key=key))


def levels_of(output: jax.Array, data: Data) -> jax.Array:
    """Logits of each pixel's level; three numbers are a mean, a precision, and a logit of level 0."""
    if data.numbers == data.levels:
        return output.reshape(data.pixels, data.levels)
    mean, log_precision, zero = output.reshape(3, data.pixels, 1)
    logits = -0.5 * ((data.greys - mean) * jnp.exp(log_precision)) ** 2
    return logits.at[:, 0].add(zero[:, 0])


def trained(update: Any, state: Any, rows_of: Callable, num_steps: int, seed: int) -> Any:
    """The state after the steps, and the average of its params over the last of them."""
    keys = jax.random.split(jax.random.key(seed), num_steps)
    run = jax.jit(lambda state: jax.lax.scan(lambda s, key: update(s, rows_of(key)), state, keys))
    state, _ = jax.block_until_ready(run(state))
    return state, update.averaged(state)


def optimizer(data: Data) -> Any:
    rate = optax.cosine_decay_schedule(2e-3, data.steps)
    return optax.chain(optax.clip_by_global_norm(1.0), optax.adam(rate))


def diffusion(data: Data, seed: int) -> dict[str, float]:
    """Continuous time (Kingma et al. 2021), one time a row, the log of noise over signal linear in time."""
    pixels, greys = Copies(elbax.Categorical(data.levels)), data.greys
    gamma = lambda t: FIRST + (LAST - FIRST) * t
    alpha = lambda t: jnp.sqrt(jax.nn.sigmoid(-gamma(t)))
    sigma = lambda t: jnp.sqrt(jax.nn.sigmoid(gamma(t)))
    fit_to = lambda z, t: -0.5 * ((z[:, None] - alpha(t) * greys) / sigma(t)) ** 2

    def guess(network, z, t):
        angles = gamma(t) * jnp.arange(1, 9) / 7
        output = network(jnp.concatenate([z, jnp.sin(angles), jnp.cos(angles)]))
        return jax.nn.softmax(levels_of(output, data) + fit_to(z, t)) @ greys

    def model_with(rate):
        def likelihood(network, datum, noises):
            x, t = datum
            y, first, last = greys[x], jnp.zeros(()), jnp.ones(())
            z0 = alpha(first) * y + sigma(first) * noises["first"]
            zt = alpha(t) * y + sigma(t) * noises["at t"]
            error = (y - guess(network, zt, t)) * alpha(t) / sigma(t)
            end = sigma(last)
            prior = 0.5 * jnp.sum((alpha(last) * y) ** 2 + end**2 - 1 - 2 * jnp.log(end))
            return pixels(fit_to(z0, first)).log_prob(x) - prior - rate * jnp.sum(error**2)

        return elbax.Model(likelihood=likelihood, prior=programs.prior(noises))

    def noises(_, datum, draw):
        draw("first", programs.Normal(jnp.zeros(data.pixels), 1.0))
        draw("at t", programs.Normal(jnp.zeros(data.pixels), 1.0))

    def times(key, number):
        return (jax.random.uniform(key) + jnp.arange(number) / number) % 1

    def rows_of(key):
        rows = jax.random.randint(key, (BATCH,), 0, len(data.train))
        return data.train[rows], times(key, BATCH)

    continuous, posterior = model_with(0.5 * (LAST - FIRST)), programs.encoder(noises, ())
    step = elbax.GradientMStep(continuous, optimizer(data))
    update = elbax.wrappers.Averaged(step, decay=0.998)
    network = mlp(data.pixels + 16, data.numbers * data.pixels, jax.random.key(seed))
    state = update.init(network, posterior, key=jax.random.key(seed + 10))
    state, average = trained(update, state, rows_of, data.steps, seed + 20)

    def judged(params, num_steps=None):
        model, values = continuous, []
        if num_steps is not None:
            model = model_with(0.5 * num_steps * np.expm1((LAST - FIRST) / num_steps))
        for key in jax.random.split(jax.random.key(30), 20):
            t = times(key, len(data.test))
            t = t if num_steps is None else jnp.ceil(num_steps * t) / num_steps
            values.append(elbax.elbo(model, params, posterior, (data.test, t), key=key))
        return data.bits(np.mean(values))

    return {
        "diffusion, continuous time": judged(average),
        "diffusion, 1000 steps": judged(average, 1000),
        "diffusion, 100 steps": judged(average, 100),
        "diffusion, last weights": judged(state.params),
    }


def autoencoder(data: Data, seed: int) -> dict[str, float]:
    pixels = Copies(elbax.Categorical(data.levels))

    def generate(decoder, draw):
        z = draw("z", programs.Normal(jnp.zeros(DIM), 1.0))
        draw("x", pixels(levels_of(decoder(z), data)))

    def infer(encoder, x, draw):
        mean, log_deviation = jnp.split(encoder(data.greys[x]), 2)
        draw("z", programs.Normal(mean, jnp.exp(log_deviation)))

    estimator = elbax.estimators.StickingTheLanding()
    model = elbax.Model(programs.log_joint(generate), estimator=estimator)
    update = elbax.wrappers.Averaged(elbax.JointGradientStep(model, optimizer(data)), decay=0.998)
    keys = jax.random.split(jax.random.key(seed), 3)
    posterior = programs.encoder(infer, mlp(data.pixels, 2 * DIM, keys[0]))
    state = update.init(mlp(DIM, data.numbers * data.pixels, keys[1]), posterior, key=keys[2])
    rows_of = lambda key: data.train[jax.random.randint(key, (BATCH,), 0, len(data.train))]
    state, _ = trained(update, state, rows_of, data.steps, seed + 20)
    values = [
        elbax.elbo(model, state.params, state.posterior, data.test, key=key)
        for key in jax.random.split(jax.random.key(31), 10)
    ]
    encoder = jax.jit(lambda x: state.posterior.network.weights(data.greys[x]))
    shares = jax.jit(lambda z: jax.nn.softmax(levels_of(state.params(z), data)))
    return {
        "autoencoder": data.bits(np.mean(values)),
        "autoencoder, sent by bits-back": sent(np.asarray(data.test), encoder, shares),
    }


def sent(images: np.ndarray, encoder: Callable, shares: Callable) -> float:
    """Bits a pixel on a stack of bits; the images and what was there before come back."""
    before = np.random.default_rng(0).integers(2**32, size=1000, dtype=np.uint32)
    coder, grid = constriction.stream.stack.AnsCoder(before), 1 / 64
    normal, table = entropy.QuantizedGaussian(-512, 512), entropy.Categorical(perfect=False)

    def q(x):
        mean, log_deviation = np.split(np.asarray(encoder(x), float), 2)
        return normal, mean / grid, np.exp(log_deviation) / grid

    prior = normal, np.zeros(DIM), np.full(DIM, 1 / grid)
    p = lambda symbols: (table, np.asarray(shares((symbols * grid).astype(np.float32))))
    empty = coder.num_valid_bits()
    for x in images:
        symbols = coder.decode(*q(x))
        coder.encode_reverse(x, *p(symbols))
        coder.encode_reverse(symbols, *prior)
    length = (coder.num_valid_bits() - empty) / images.size
    for x in images[::-1]:
        symbols = coder.decode(*prior)
        back = coder.decode(*p(symbols))
        assert (back == x).all()
        coder.encode_reverse(symbols, *q(back))
    assert (coder.get_compressed() == before).all()
    return length


def mixture(data: Data, seed: int) -> dict[str, float]:
    prior = elbax.priors.Dirichlet(1.1)
    model = elbax.Mixture(elbax.components.Categorical(data.levels, prior=prior), 20)
    em, key = elbax.em(model), jax.random.key(seed)
    state = em.init(model.init(key, data.train), key=key)
    run = jax.jit(lambda s: jax.lax.scan(lambda s, _: em(s, data.train), s, length=40)[0])
    found = elbax.evidence(model, run(state).params, data.test)
    return {"mixture of 20, evidence": data.bits(found)}


def plain(data: Data) -> list[Row]:
    """Independent pixels, and general compressors of all test images in one file."""
    train, test = np.asarray(data.train), np.asarray(data.test, np.uint8)
    share = np.stack([(train == level).mean(0) for level in range(data.levels)]) + 1e-4
    alone = np.take_along_axis(share / share.sum(0), test.astype(int), 0)
    raw, picture = test.tobytes(), io.BytesIO()
    width = round(data.pixels**0.5)
    Image.fromarray(test.reshape(-1, width)).save(picture, "png", optimize=True)
    per_pixel = lambda code: 8 * len(code) / test.size
    found = {
        "independent pixels": float(-np.log2(alone).mean()),
        "PNG, images below each other": per_pixel(picture.getvalue()),
        "zlib": per_pixel(zlib.compress(raw, 9)),
        "LZMA": per_pixel(lzma.compress(raw, preset=9 | lzma.PRESET_EXTREME)),
        "one length for all levels": float(np.log2(data.levels)),
    }
    return [
        {"code": name, "bits a pixel": f"{value:.3f}", "seconds a seed": ""}
        for name, value in found.items()
    ]


def table(
    data: Data, kept: Kept, systems: Any = (diffusion, autoencoder, mixture), seeds: Any = SEEDS
) -> list[Row]:
    def timed(system, seed):
        begin, found = time.perf_counter(), system(data, seed)
        return {name: float(bits) for name, bits in found.items()}, time.perf_counter() - begin

    rows = []
    for system in systems:
        name = f"{system.__name__}, {data.pixels} pixels, {data.numbers} numbers"
        each = [kept(f"{name}, {s}", functools.partial(timed, system, s)) for s in seeds]
        seconds = np.mean([spent for _, spent in each])
        for name in each[0][0]:
            values = sorted(found[name] for found, _ in each)
            told = f"{np.mean(values):.3f} ({values[0]:.3f} to {values[-1]:.3f})"
            rows.append({"code": name, "bits a pixel": told, "seconds a seed": f"{seconds:.0f}"})
    return rows


def report(folder: Path | None, kept: Kept) -> Iterator[str]:
    yield (
        f"# Diffusion and compression\n\n{setting({})}, constriction {version('constriction')}. "
        "`python benchmarks/diffusion.py --mnist FOLDER`: bits a pixel of held-out images, means (and range) of "
        f"{len(SEEDS)} seeds. Networks have two layers of {WIDTH} units; batches of {BATCH}, Adam with a rate "
        "that falls from 0.002 to 0 along a cosine, no regularization and no early stopping. Diffusion takes the "
        'average of its weights; "last weights" does not. The coder gives each level at least 2⁻²⁴, so that an '
        "autoencoder that calls a level less probable is sent in fewer bits than its bound. "
        "Seconds are of a machine that does other work too, "
        "judging included."
    )
    yield f"## Digits, 8 × 8, 17 levels\n\n1500 for training, 297 for test; {digits().steps} steps."
    yield markdown(table(digits(), kept) + plain(digits()))
    if folder is not None:
        data = mnist(folder)
        yield (
            f"## MNIST, 14 × 14, 32 levels\n\n10 000 for training, 1000 for test; {data.steps} steps."
        )
        yield markdown(table(data, kept) + plain(data))
        yield "The same with a logit for each level, in place of three numbers a pixel."
        systems = (diffusion, autoencoder)
        yield markdown(table(data._replace(numbers=data.levels), kept, systems))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--mnist", type=Path)
    parser.add_argument("--kept", type=Path, help="a file for figures, which are not found again")
    given = parser.parse_args()
    write(RESULTS, report(given.mnist, Kept(given.kept)))
