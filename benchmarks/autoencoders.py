"""A gradient step of a variational autoencoder beside the same step by hand, by numpyro and by PyTorch.

python benchmarks/autoencoders.py    prints the table, writes results/autoencoders.md

The model is that of Kingma and Welling (2014): binary images of 784 pixels, a standard normal latent, perceptrons
with tanh for q(z | x) and p(x | z), one reparameterized draw an image, the exact divergence to the prior, Adam.
"By hand" is a loss in equinox and an update in optax, a page of user code. A run is one jitted scan over twenty
batches; PyTorch, which is not compiled, loops. The contestants take turns in one process; ratios are of paired
rounds. It needs numpyro, and takes PyTorch where it is installed.

Then come fifty draws an image, some images at a time, with the memory of a step; and a chain of Gaussian latents
with what an encoder says of each state: the gradient of its bound and of one draw beside the bound alone.
"""

import functools
import importlib.util
import itertools
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import optax
from measuring import markdown, Row, seconds, setting, THREADS, write

import elbax


RESULTS = Path(__file__).parent / "results" / "autoencoders.md"
PIXELS, STEPS, ROUNDS, RATE = 784, 20, 60, 1e-3
# Latent numbers, hidden units, hidden layers, images in a batch.
SIZES = [(8, 64, 1, 50), (16, 200, 2, 100), (50, 200, 2, 128), (32, 500, 2, 100)]
# Coordinates of a state, steps, paths in a batch.
CHAINS = [(4, 20, 50), (4, 100, 50), (8, 50, 20)]

Contestant = tuple[
    Callable, Any
]  # A function from (state, batches) to (state, bounds), and the state.


def networks(latent: int, width: int, depth: int) -> tuple[eqx.nn.MLP, eqx.nn.MLP]:
    keys = jax.random.split(jax.random.key(0))
    mlp = functools.partial(eqx.nn.MLP, width_size=width, depth=depth, activation=jnp.tanh)
    return mlp(latent, PIXELS, key=keys[0]), mlp(PIXELS, 2 * latent, key=keys[1])


def vae(latent: int, estimator: Any = None) -> elbax.Model:
    return elbax.Model(
        likelihood=lambda decoder, x, z: elbax.families.Bernoulli()(decoder(z)).log_prob(x).sum(),
        prior=lambda decoder, x: (jnp.zeros(latent), jnp.ones(latent)),
        latent=elbax.DiagonalGaussian(latent),
        estimator=estimator,
    )


def by_elbax(latent: int, width: int, depth: int) -> Contestant:
    decoder, encoder = networks(latent, width, depth)
    model = vae(latent)
    update = elbax.JointGradientStep(model, optax.adam(RATE))
    posterior = elbax.Amortized(encoder, model.latent)
    state = update.init(elbax.Network(decoder), posterior, key=jax.random.key(1))

    def run(state, batches):
        state, info = jax.lax.scan(update, state, batches)
        return state, info.elbo

    return run, state


def by_hand(latent: int, width: int, depth: int) -> Contestant:
    model = networks(latent, width, depth)
    weights, static = eqx.partition(model, eqx.is_inexact_array)
    optimizer = optax.adam(RATE)

    def loss(weights, batch, key):
        decoder, encoder = eqx.combine(weights, static)

        def negative_bound(x, key):
            mean, log_deviation = jnp.split(encoder(x), 2)
            deviation = jnp.exp(log_deviation)
            z = mean + deviation * jax.random.normal(key, mean.shape)
            divergence = 0.5 * (deviation**2 + mean**2 - 1 - 2 * log_deviation).sum()
            logits = decoder(z)
            # log (1 + e^l) in its cheapest stable form: `jax.nn.softplus` takes longer.
            log_normalizer = jnp.maximum(logits, 0) + jnp.log1p(jnp.exp(-jnp.abs(logits)))
            return divergence - (x * logits - log_normalizer).sum()

        return jax.vmap(negative_bound)(batch, jax.random.split(key, len(batch))).mean()

    def step(carry, batch):
        weights, memory, key = carry
        key, now = jax.random.split(key)
        value, gradient = jax.value_and_grad(loss)(weights, batch, now)
        steps, memory = optimizer.update(gradient, memory)
        return (optax.apply_updates(weights, steps), memory, key), -value

    return functools.partial(jax.lax.scan, step), (
        weights,
        optimizer.init(weights),
        jax.random.key(1),
    )


def by_numpyro(latent: int, width: int, depth: int) -> Contestant:
    dist = numpyro.distributions
    (decoder, encoder) = networks(latent, width, depth)
    weights, static = eqx.partition((decoder, encoder), eqx.is_inexact_array)

    def model(x):
        decoder = eqx.combine(numpyro.param("decoder", lambda key: weights[0]), static[0])
        with numpyro.plate("images", len(x)):
            z = numpyro.sample("z", dist.Normal(jnp.zeros(latent), 1.0).to_event(1))
            logits = jax.vmap(decoder)(z)
            numpyro.sample("x", dist.Bernoulli(logits=logits).to_event(1), obs=x)

    def guide(x):
        encoder = eqx.combine(numpyro.param("encoder", lambda key: weights[1]), static[1])
        mean, log_deviation = jnp.split(jax.vmap(encoder)(x), 2, -1)
        with numpyro.plate("images", len(x)):
            numpyro.sample("z", dist.Normal(mean, jnp.exp(log_deviation)).to_event(1))

    optimizer = numpyro.optim.optax_to_numpyro(optax.adam(RATE))
    objective = numpyro.infer.TraceMeanField_ELBO()
    svi = numpyro.infer.SVI(model, guide, optimizer, objective)

    def step(state, batch):
        state, loss = svi.update(state, batch)
        return state, -loss / len(batch)

    return functools.partial(jax.lax.scan, step), svi.init(
        jax.random.key(1), jnp.zeros((2, PIXELS))
    )


def by_torch(latent: int, width: int, depth: int) -> Callable[[np.ndarray], Any]:
    import torch

    torch.set_num_threads(THREADS)

    def perceptron(inputs, outputs):
        sizes = [inputs, *[width] * depth]
        layers = [
            layer
            for pair in itertools.pairwise(sizes)
            for layer in (torch.nn.Linear(*pair), torch.nn.Tanh())
        ]
        return torch.nn.Sequential(*layers, torch.nn.Linear(width, outputs))

    decoder, encoder = perceptron(latent, PIXELS), perceptron(PIXELS, 2 * latent)
    optimizer = torch.optim.Adam([*decoder.parameters(), *encoder.parameters()], RATE)
    entropy = torch.nn.functional.binary_cross_entropy_with_logits

    def run(batches):
        for x in batches:
            mean, log_deviation = encoder(x).chunk(2, -1)
            deviation = log_deviation.exp()
            z = mean + deviation * torch.randn_like(mean)
            divergence = 0.5 * (deviation**2 + mean**2 - 1 - 2 * log_deviation).sum()
            loss = (divergence + entropy(decoder(z), x, reduction="sum")) / len(x)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()

    return lambda batches: run(torch.from_numpy(batches))


def measured(latent: int, width: int, depth: int, batch: int) -> tuple[Row, Row]:
    rng = np.random.default_rng(0)
    batches = (rng.random((STEPS, batch, PIXELS)) < 0.2).astype(np.float32)
    contestants = {"elbax": by_elbax, "by hand": by_hand, "numpyro": by_numpyro}
    runs, compiling = {}, {name: [] for name in contestants}
    # Compiled in turns, too.
    for turn in range(3):
        for name, make in list(contestants.items())[:: 1 if turn % 2 else -1]:
            jax.clear_caches()
            run, state = make(latent, width, depth)
            begin = time.perf_counter()
            program = jax.jit(run).lower(state, batches).compile()
            compiling[name].append(time.perf_counter() - begin)
            runs[name] = functools.partial(program, state, jnp.asarray(batches))
    waited = {
        name: functools.partial(lambda f: jax.block_until_ready(f()), f) for name, f in runs.items()
    }
    bounds = {name: np.asarray(f()[1]) for name, f in runs.items()}
    # One model and one optimizer: the bounds differ by what the draws do.
    assert all(abs(found[-1] / bounds["by hand"][-1] - 1) < 0.02 for found in bounds.values()), (
        bounds
    )
    if importlib.util.find_spec("torch"):
        waited["PyTorch"] = functools.partial(by_torch(latent, width, depth), batches)
    times = {name: own / STEPS for name, own in in_turns(waited, ROUNDS).items()}
    size = {"latent, hidden, batch": f"{latent}, {depth} × {width}, {batch}"}
    steps: Row = dict(size) | {"elbax, ms a step": f"{np.median(times['elbax']):.2f}"}
    steps |= {
        f"elbax / {name}": paired(times["elbax"], own)
        for name, own in times.items()
        if name != "elbax"
    }
    middle = {name: float(np.median(own)) for name, own in compiling.items()}
    compiles: Row = dict(size) | {f"{name}, s": f"{own:.2f}" for name, own in middle.items()}
    return steps, compiles | {"elbax / by hand": f"{middle['elbax'] / middle['by hand']:.2f}"}


def awaited(program: Callable, *arguments: Any) -> Callable[[], Any]:
    return lambda: jax.block_until_ready(program(*arguments))


def in_turns(runs: dict[Any, Callable[[], Any]], rounds: int) -> dict[Any, np.ndarray]:
    """Milliseconds of each run, after one round of warm-up; each round has another order."""
    times = {name: [] for name in runs}
    for round_ in range(1 + rounds):
        for place in np.random.default_rng(round_).permutation(len(runs)):
            name = list(runs)[place]
            times[name].append(1e3 * seconds(runs[name]))
    return {name: np.array(own[1:]) for name, own in times.items()}


def fifty_draws() -> list[Row]:
    """The memory of a step and its time, by the number of images at a time."""
    decoder, encoder = networks(50, 200, 2)
    images = jnp.asarray(np.random.default_rng(0).random((100, PIXELS)) < 0.2, jnp.float32)
    model = vae(50, elbax.estimators.DoublyReparameterized(50))
    runs, memory = {}, {}
    for at_once in (100, 50, 20, 10, 5):
        update = elbax.JointGradientStep(model, optax.adam(RATE), chunk_size=at_once)
        posterior = elbax.Amortized(encoder, model.latent)
        state = update.init(elbax.Network(decoder), posterior, key=jax.random.key(1))
        program = jax.jit(update).lower(state, images).compile()
        memory[at_once] = program.memory_analysis().temp_size_in_bytes / 2**20
        runs[at_once] = awaited(program, state, images)
    times = in_turns(runs, ROUNDS // 4)
    return [
        {
            "images at a time": at_once,
            "temporary memory, MiB": f"{memory[at_once]:.1f}",
            "ms a step": f"{np.median(own):.0f}",
            "/ all at once": paired(own, times[100]),
        }
        for at_once, own in times.items()
    ]


def chain(dim: int, num_steps: int, batch: int) -> Row:
    """The gradient of a chain's bound and of a draw, beside the bound."""
    family = elbax.GaussianChain(dim, order="sequential")
    params = {"matrix": 0.9 * jnp.eye(dim), "log_noise": jnp.full(dim, -0.5)}
    outputs = jax.random.normal(jax.random.key(0), (batch, num_steps, 2 * dim))
    keys = jax.random.split(jax.random.key(1), batch)

    def prior(params):
        noise = jnp.diag(jnp.exp(params["log_noise"]))
        unary = {"rows": jnp.zeros((1, dim)), "target": jnp.zeros((num_steps, 1))}
        return {
            "initial": {"mean": jnp.zeros(dim), "root": jnp.eye(dim)},
            "transition": {"matrix": params["matrix"], "offset": jnp.zeros(dim), "root": noise},
            "unary": unary,
            "length": jnp.asarray(num_steps),
        }

    def bound(params, output, key):
        natural = prior(params)
        q = family(family.tilted(natural, output))
        return q.bound(natural) - family.log_normalizer(natural)

    def with_draw(params, output, key):
        path = family(family.tilted(prior(params), output)).sample(key)
        return bound(params, output, key) - jnp.sum(path**2)

    def over_batch(function):
        return lambda *given: jnp.mean(jax.vmap(function, (None, 0, 0))(*given))

    gradient = jax.grad(over_batch(with_draw), argnums=(0, 1))
    runs, compiling = {}, {}
    for name, function in {"bound": over_batch(bound), "step": gradient}.items():
        begin = time.perf_counter()
        program = jax.jit(function).lower(params, outputs, keys).compile()
        compiling[name] = time.perf_counter() - begin
        runs[name] = awaited(program, params, outputs, keys)
    times = in_turns(runs, ROUNDS)
    return {
        "coordinates, steps, paths": f"{dim}, {num_steps}, {batch}",
        "bound, ms": f"{np.median(times['bound']):.1f}",
        "gradient with a draw / bound": paired(times["step"], times["bound"]),
        "compiling the bound, s": f"{compiling['bound']:.1f}",
        "compiling the gradient, s": f"{compiling['step']:.1f}",
    }


def paired(a: np.ndarray, b: np.ndarray) -> str:
    low, middle, high = np.quantile(a / b, [0.25, 0.5, 0.75])
    return f"{middle:.3f} ({low:.3f} to {high:.3f})"


def report() -> Iterator[str]:
    peers = {"numpyro": numpyro}
    if importlib.util.find_spec("torch"):
        import torch

        peers["torch"] = torch
    yield (
        f"# A step of the variational autoencoder\n\n{setting(peers)}. Binary images of {PIXELS} pixels, float32. "
        f"Medians of {ROUNDS} alternating rounds of {STEPS} steps; ratios of paired rounds, with quartiles. "
        "`python benchmarks/autoencoders.py`."
    )
    steps, compiles = [], []
    for size in SIZES:
        for rows, row in zip((steps, compiles), measured(*size), strict=True):
            print(row, flush=True)
            rows.append(row)
    yield markdown(steps)
    yield "## Compiling the scan"
    yield markdown(compiles)
    yield "## Fifty draws, images at a time"
    yield "100 images, 2 × 200 units, 50 latents, `DoublyReparameterized(50)`, `chunk_size`."
    yield markdown(fifty_draws())
    yield "## A chain of latents"
    yield markdown([chain(*size) for size in CHAINS])


if __name__ == "__main__":
    write(RESULTS, report())
