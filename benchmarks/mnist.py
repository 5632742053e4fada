"""The protocol of Burda et al. (2016) on MNIST, in full or shortened, beside the same in PyTorch.

python benchmarks/mnist.py FOLDER [--epochs 10] [--images 1000] [--samples 1000] [--seeds 0 1 2] [--only ROW ...]
                                  [--kept rows.json]

FOLDER holds the idx files, with or without `.gz`. Pixels are drawn anew for each epoch, with the grey level as
probability; 60 000 images train, test images are drawn once. Networks have two hidden layers of 200 tanh units
for 50 latent numbers; with two stochastic layers these have 100 and 50 numbers, and two layers of 100 units
between. Batches have 20 images in the original and 100 here, so the rate is 0.001 throughout (Adam, ε = 1e-4).
log p(x) of test images is estimated by importance sampling with the encoder. PyTorch, where it is installed,
trains the same models from starts of the same law on the same images.
"""

import argparse
import functools
import gzip
import importlib.util
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from measuring import Kept, markdown, Row, setting, THREADS, write

import elbax
from elbax import estimators, programs


RESULTS = Path(__file__).parent / "results" / "mnist.md"
PIXELS, BATCH, RATE, EPSILON = 784, 100, 1e-3, 1e-4
DRAWS = (1, 5, 50)


def idx(folder: Path, name: str) -> np.ndarray:
    """Grey levels from 0 to 255, a row for each image."""
    file = folder / name
    packed = folder / f"{name}.gz"
    data = file.read_bytes() if file.exists() else gzip.decompress(packed.read_bytes())
    return np.frombuffer(data, np.uint8, offset=16).reshape(-1, PIXELS)


def mlp(inputs: int, outputs: int, width: int, key: jax.Array) -> elbax.Network:
    return elbax.Network(eqx.nn.MLP(inputs, outputs, width, 2, activation=jnp.tanh, key=key))


def normal(output: jax.Array) -> programs.Normal:
    mean, log_deviation = jnp.split(output, 2)
    return programs.Normal(mean, jnp.exp(log_deviation))


def generate(params: Any, draw: programs.AbstractDraw) -> None:
    z = draw("z", programs.Normal(jnp.zeros(50), 1.0))
    if "above" in params:
        z = draw("below", normal(params["above"](z)))
    draw("x", elbax.families.Bernoulli()(params["pixels"](z)))


def infer(weights: Any, x: jax.Array, draw: programs.AbstractDraw) -> None:
    if "above" in weights:
        x = draw("below", normal(weights["below"](x)))
        draw("z", normal(weights["above"](x)))
    else:
        draw("z", normal(weights["below"](x)))


def networks(layers: int, key: jax.Array) -> tuple[Any, Any]:
    keys = jax.random.split(key, 4)
    if layers == 1:
        return {"pixels": mlp(50, PIXELS, 200, keys[0])}, {"below": mlp(PIXELS, 100, 200, keys[1])}
    params = {"pixels": mlp(100, PIXELS, 200, keys[0]), "above": mlp(50, 200, 100, keys[2])}
    weights = {"below": mlp(PIXELS, 200, 200, keys[1]), "above": mlp(100, 100, 100, keys[3])}
    return params, weights


class Told(NamedTuple):
    bound: float
    evidence: float
    active: tuple[
        int, ...
    ]  # Of each layer, the numbers whose mean varies by more than 0.01 over images.
    seconds: float  # An epoch.


def by_elbax(
    layers: int, draws: int, levels: np.ndarray, test: jax.Array, options: Any, seed: int
) -> Told:
    estimator = estimators.Reparameterized() if draws == 1 else estimators.ImportanceWeighted(draws)
    model = elbax.Model(programs.log_joint(generate), estimator=estimator)
    update = elbax.JointGradientStep(model, optax.adam(RATE, eps=EPSILON))
    params, weights = networks(layers, jax.random.key(seed))
    state = update.init(params, programs.encoder(infer, weights), key=jax.random.key(seed))

    @functools.partial(jax.jit, donate_argnums=0)
    def epoch(state, levels, key):
        order, noise = jax.random.split(key)
        rows = jax.random.permutation(order, len(levels)).reshape(-1, BATCH)

        def step(state, at):
            i, key = at
            pixels = jax.random.bernoulli(key, levels[i]).astype(jnp.float32)
            return update(state, pixels)

        return jax.lax.scan(step, state, (rows, jax.random.split(noise, len(rows))))

    begin, levels = time.perf_counter(), jnp.asarray(levels)
    for key in jax.random.split(jax.random.fold_in(jax.random.key(seed), 1), options.epochs):
        state, info = epoch(state, levels, key)
        jax.block_until_ready(info)
    spent = time.perf_counter() - begin
    bound = elbax.elbo(
        model, state.params, state.posterior, test, key=jax.random.key(2), chunk_size=100
    )
    found = elbax.diagnostics.importance_evidence(
        model,
        state.params,
        state.posterior,
        test,
        key=jax.random.key(3),
        num_samples=options.samples,
        chunk_size=100,
    )
    active = elbax.diagnostics.active_units(state.posterior, test)
    units = tuple(int((variance > 0.01).sum()) for variance in active.values())
    return Told(float(bound), float(found.evidence), units, spent / options.epochs)


def by_torch(
    layers: int, draws: int, levels: np.ndarray, test: jax.Array, options: Any, seed: int
) -> Told:
    import torch

    torch.set_num_threads(THREADS)
    torch.manual_seed(seed)
    entropy = torch.nn.functional.binary_cross_entropy_with_logits

    def perceptron(inputs, outputs, width=200):
        first = [torch.nn.Linear(inputs, width), torch.nn.Tanh(), torch.nn.Linear(width, width)]
        return torch.nn.Sequential(*first, torch.nn.Tanh(), torch.nn.Linear(width, outputs))

    lowest = 50 if layers == 1 else 100
    decoder, encoder = perceptron(lowest, PIXELS), perceptron(PIXELS, 2 * lowest)
    upper = [perceptron(50, 200, 100), perceptron(100, 100, 100)] if layers == 2 else []
    weights = torch.nn.ModuleList([decoder, encoder, *upper]).parameters()
    adam = torch.optim.Adam(weights, RATE, eps=EPSILON)
    standard = torch.distributions.Normal(0.0, 1.0)

    def normal(output):
        mean, log_deviation = output.chunk(2, -1)
        return torch.distributions.Normal(mean, log_deviation.exp())

    def log_weights(x, number):
        q = normal(encoder(x))
        z = q.rsample((number,))
        pixels = -entropy(decoder(z), x.expand(number, *x.shape), reduction="none").sum(-1)
        if layers == 1:
            return pixels + (standard.log_prob(z) - q.log_prob(z)).sum(-1)
        down, up = upper
        above = normal(up(z))
        top = above.rsample()
        pixels = pixels + (normal(down(top)).log_prob(z) - q.log_prob(z)).sum(-1)
        return pixels + (standard.log_prob(top) - above.log_prob(top)).sum(-1)

    def bound(x, number):
        return torch.logsumexp(log_weights(x, number), 0).mean() - np.log(number)

    levels = torch.from_numpy(np.array(levels))
    begin = time.perf_counter()
    for _ in range(options.epochs):
        for i in torch.randperm(len(levels)).split(BATCH):
            adam.zero_grad()
            (-bound(torch.bernoulli(levels[i]), draws)).backward()
            adam.step()
    spent = time.perf_counter() - begin
    with torch.no_grad():
        x = torch.from_numpy(np.array(test))
        own = np.mean([float(bound(some, draws)) for some in x.split(100)])
        found = np.mean([float(bound(some, options.samples)) for some in x.split(10)])
        means = torch.cat([encoder(some).chunk(2, -1)[0] for some in x.split(100)])
    units = int((means.var(0) > 0.01).sum())
    return Told(float(own), float(found), (units,), spent / options.epochs)


def spread(values: list[float], digits: int = 2) -> str:
    several = f" ({min(values):.{digits}f} to {max(values):.{digits}f})" * (len(values) > 1)
    return f"{np.mean(values):.{digits}f}{several}"


def row(name: str, told: list[Told]) -> Row:
    bounds, evidences, active, spent = zip(*told, strict=True)
    return {
        "layers, draws": name,
        "bound, test": spread(bounds),
        "log p(x), test": spread(evidences),
        "active units": "; ".join(", ".join(map(str, units)) for units in active),
        "s an epoch": f"{np.median(spent):.1f}",
    }


def report(options: argparse.Namespace) -> Iterator[str]:
    shares = lambda name: idx(options.folder, name) / np.float32(255)
    levels = shares("train-images-idx3-ubyte")
    test = shares("t10k-images-idx3-ubyte")[: options.images]
    test = jax.random.bernoulli(jax.random.key(9), jnp.asarray(test)).astype(jnp.float32)
    runs: dict[str, Callable[[int], Told]] = {}
    peers = {"optax": optax}
    for layers in (1, 2):
        for draws in DRAWS:
            make = functools.partial(by_elbax, layers, draws, levels, test, options)
            runs[f"elbax, {layers} layer{'s' * (layers > 1)}, {draws}"] = make
    if importlib.util.find_spec("torch"):
        import torch

        peers["torch"] = torch
        for layers in (1, 2):
            for draws in DRAWS:
                make = functools.partial(by_torch, layers, draws, levels, test, options)
                runs[f"PyTorch, {layers} layer{'s' * (layers > 1)}, {draws}"] = make
    if options.only:
        runs = {name: runs[name] for name in options.only}
    yield (
        f"# Importance-weighted autoencoders of MNIST\n\n{setting(peers)}. The protocol of Burda et al. (2016), "
        f"{options.epochs} epochs of {len(levels)} images in batches of {BATCH} (theirs has 3280, batches of 20), "
        f"pixels drawn anew for each epoch; {len(test)} test images, pixels drawn once; log p(x) in nats an image "
        f"by {options.samples} draws; means and ranges of seeds {', '.join(map(str, options.seeds))}. "
        f"`python benchmarks/mnist.py FOLDER --epochs {options.epochs}`. "
        "By 3280 epochs Burda et al. have −86.76, −85.54, −84.78 for 1, 5 and 50 draws with one layer, and "
        "−85.33, −83.89, −82.90 with two."
    )
    rows, kept = [], Kept(options.kept)
    for name, run in runs.items():
        told = []
        for seed in options.seeds:
            told.append(Told(*kept(f"{name}, {seed}", functools.partial(run, seed))))
        rows.append(row(name, told))
    yield markdown(rows)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--samples", type=int, default=1000)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--only", nargs="+", metavar="ROW")
    parser.add_argument("--kept", type=Path, help="a file for figures, which are not found again")
    given = parser.parse_args()
    write(RESULTS, report(given))
