"""What chains, alignments and grammars cost, beside hmmlearn, dynamax, optax and torch-struct.

python benchmarks/structured_latents.py    prints the tables, writes results/structured_latents.md
make benchmark                             the same functions, one pytest-benchmark each

hmmlearn, dynamax and torch-struct take part where they are installed; how it is measured stands in `measuring.py`.
"""

import functools
import importlib.util
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from measuring import (
    chain,
    heading,
    markdown,
    ratio,
    Row,
    Run,
    seconds,
    slopes,
    spread,
    start,
    sweeps,
    write,
)

import elbax


RESULTS = Path(__file__).parent / "results" / "structured_latents.md"
INSTALLED = {
    name: importlib.util.find_spec(name) is not None
    for name in ("hmmlearn", "dynamax", "torch_struct")
}
NORMAL = elbax.components.Normal("diagonal", floor=0.0)


@functools.cache
def switching(count: int = 64, length: int = 500, states: int = 8, dim: int = 4) -> np.ndarray:
    """Sequences from a sticky chain of normals."""
    rng = np.random.default_rng(0)
    transition = 0.3 * rng.dirichlet(np.ones(states) / 2, size=states) + 0.7 * np.eye(states)
    limits, means = np.cumsum(transition, -1), 2 * rng.normal(size=(states, dim))
    state, x = rng.integers(states, size=count), np.zeros((count, length, dim), np.float32)
    for t in range(length):
        x[:, t] = means[state] + rng.normal(size=(count, dim))
        state = (rng.random((count, 1)) > limits[state]).sum(-1).clip(max=states - 1)
    return x


def begin(states: int, dim: int) -> dict[str, Any]:
    x = switching()
    return {
        "initial": np.full(states, 1 / states),
        "transition": 0.5 * np.eye(states) + 0.5 / states,
        "means": x[0, :: len(x[0]) // states][:states],
        "covariances": np.broadcast_to(np.eye(dim), (states, dim, dim)),
    }


MODELS = {
    "auto": {},
    "log form": {"form": "log"},
    "one known zero a row": {"allowed": ~np.roll(np.eye(8, dtype=bool), 3, axis=1)},
}


def hidden_markov(name: str) -> Row:
    """A sweep of Baum and Welch, 64 x 500 x 4, 8 states, diagonal covariances."""
    x, described = switching(), begin(8, 4)
    model = elbax.HiddenMarkovModel(NORMAL, 8, **MODELS[name])
    params = model.from_description(**described)
    step, state, data = chain(model), start(model, params), jnp.asarray(x)
    compiling = seconds(jax.jit(lambda s, x: step(s, x)).lower(state, data).compile)
    runs: dict[str, Run] = {"elbax": sweeps(step, state, data)}
    if INSTALLED["hmmlearn"]:
        runs["hmmlearn"] = _hmmlearn(x, described)
    if INSTALLED["dynamax"]:
        runs["dynamax"] = _dynamax_hmm(x, described)
    found = slopes(runs, (5, 25), 5)
    row: Row = {"HMM, 64 x 500 x 4, 8 states": name, "compile, s": f"{compiling:.2g}"}
    row["elbax, ms"] = spread(found["elbax"], 1e-3)
    for peer in ("hmmlearn", "dynamax"):
        here = peer in runs
        row[f"{peer}, ms"] = spread(found[peer], 1e-3) if here else "none"
        row[f"{peer} / elbax"] = ratio(found[peer], found["elbax"]) if here else "none"
    return row


def _hmmlearn(x: np.ndarray, described: dict[str, Any]) -> Run:
    from hmmlearn.hmm import GaussianHMM

    count, length, dim = x.shape

    def run(n):
        peer = GaussianHMM(
            8,
            "diag",
            n_iter=n,
            tol=-1e9,
            init_params="",
            min_covar=1e-6,
            covars_prior=0,
            covars_weight=0,
        )
        peer.startprob_, peer.transmat_ = described["initial"], described["transition"]
        peer.means_, peer.covars_ = described["means"].astype(float), np.ones((8, dim))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return peer.fit(x.reshape(-1, dim).astype(float), [length] * count)

    return run


def _dynamax_hmm(x: np.ndarray, described: dict[str, Any]) -> Run:
    from dynamax.hidden_markov_model import DiagonalGaussianHMM

    peer = DiagonalGaussianHMM(8, x.shape[2])
    params, properties = peer.initialize(
        jax.random.PRNGKey(0),
        method="prior",
        initial_probs=jnp.asarray(described["initial"]),
        transition_matrix=jnp.asarray(described["transition"]),
        emission_means=jnp.asarray(described["means"]),
        emission_scale_diags=jnp.ones((8, x.shape[2])),
    )
    data = jnp.asarray(x)
    return lambda n: jax.block_until_ready(
        peer.fit_em(params, properties, data, num_iters=n, verbose=False)
    )


def state_space(count: int) -> Row:
    """A sweep of EM for all of a linear-Gaussian state space, `count` x 500 x 4, 4 states."""
    rng, dim = np.random.default_rng(0), 4
    emission = rng.normal(size=(dim, dim))
    model = elbax.LinearGaussianStateSpace(dim, emission_noise="full", floor=0.0)
    params = model.from_description(
        initial_mean=np.zeros(dim),
        initial_covariance=np.eye(dim),
        transition=0.95 * np.eye(dim),
        transition_covariance=0.1 * np.eye(dim),
        emission=emission,
        emission_covariance=0.3 * np.eye(dim),
    )
    x, _ = model.sample(params, jax.random.key(0), count, 500)
    step, state = chain(model), start(model, params)
    compiling = seconds(jax.jit(lambda s, x: step(s, x)).lower(state, x).compile)
    runs: dict[str, Run] = {"elbax": sweeps(step, state, x)}
    if INSTALLED["dynamax"]:
        from dynamax.linear_gaussian_ssm import LinearGaussianSSM

        peer = LinearGaussianSSM(dim, dim, has_dynamics_bias=False, has_emissions_bias=False)
        theirs, properties = peer.initialize(
            jax.random.PRNGKey(0),
            initial_mean=jnp.zeros(dim),
            initial_covariance=jnp.eye(dim),
            dynamics_weights=0.95 * jnp.eye(dim),
            dynamics_covariance=0.1 * jnp.eye(dim),
            emission_weights=jnp.asarray(emission),
            emission_covariance=0.3 * jnp.eye(dim),
        )
        # From the second step on it returns NaN for 64 sequences, which takes the same time.
        runs["dynamax"] = lambda n: jax.block_until_ready(
            peer.fit_em(theirs, properties, x, num_iters=n, verbose=False)
        )
    found = slopes(runs, (10, 110), 5)
    here = "dynamax" in runs
    return {
        "state space, T = 500, 4 states, 4 columns": f"{count} sequences",
        "compile, s": f"{compiling:.2g}",
        "elbax, ms": spread(found["elbax"], 1e-3),
        "dynamax, ms": spread(found["dynamax"], 1e-3) if here else "none",
        "dynamax / elbax": ratio(found["dynamax"], found["elbax"]) if here else "none",
    }


def alignments(width: int) -> Row:
    """A gradient step of CTC training: a convolutional network of that width, 32 x 200 frames, 20 labels of 30."""
    rng = np.random.default_rng(0)
    inputs = jnp.asarray(rng.normal(size=(32, 200, 40)).astype(np.float32))
    labels = jnp.asarray(rng.integers(1, 30, (32, 20)))
    keys = jax.random.split(jax.random.key(0), 3)
    layers = [
        eqx.nn.Conv1d(a, b, 5, padding=2, key=key)
        for a, b, key in zip((40, width, width), (width, width, 30), keys, strict=True)
    ]

    def apply(layers, x):
        hidden = x.T
        for layer in layers[:-1]:
            hidden = jax.nn.relu(layer(hidden))
        return layers[-1](hidden).T

    model, optimizer = elbax.ConnectionistTemporalClassification(), optax.adam(1e-3)
    arrays, rest = eqx.partition(layers, eqx.is_array)
    network = elbax.Network(lambda arrays, x: apply(eqx.combine(arrays, rest), x), arrays)
    ours = elbax.Chain(elbax.ExactEStep(model), elbax.GradientMStep(model, optimizer))
    state = ours.init(network, elbax.Exact(model, network), key=jax.random.key(1))
    data = (inputs, labels)

    def loss(arrays, data):
        inputs, labels = data
        logits = jax.vmap(lambda x: apply(eqx.combine(arrays, rest), x))(inputs)
        nothing = jnp.zeros(logits.shape[:2]), jnp.zeros(labels.shape)
        return jnp.mean(optax.ctc_loss(logits, nothing[0], labels, nothing[1]))

    def theirs(carry, data):
        arrays, memory = carry
        value, slope = jax.value_and_grad(loss)(arrays, data)
        steps, memory = optimizer.update(slope, memory, arrays)
        return (optax.apply_updates(arrays, steps), memory), value

    begun = (arrays, optimizer.init(arrays))
    compiling = seconds(jax.jit(lambda s, x: ours(s, x)).lower(state, data).compile)
    runs = {"elbax": sweeps(ours, state, data), "optax": sweeps(theirs, begun, data)}
    found = slopes(runs, (2, 10), 7)
    first = float(-runs["elbax"](3)[1].elbo[-1]), float(runs["optax"](3)[1][-1])
    return {
        "CTC step, 32 x 200 frames, 20 of 29 labels": f"convolutions of width {width}",
        "compile, s": f"{compiling:.2g}",
        "elbax, ms": spread(found["elbax"], 1e-3),
        "optax.ctc_loss, ms": spread(found["optax"], 1e-3),
        "optax / elbax": ratio(found["optax"], found["elbax"]),
        "third loss, elbax and optax": "{:.5g}, {:.5g}".format(*first),
    }


def grammars(length: int) -> Row:
    """Inside and outside: log-normalizer and rule marginals of 16 sentences, 8 nonterminals, 8 preterminals."""
    rng = np.random.default_rng(0)
    size, count = 16, 16
    root = rng.normal(size=8).astype(np.float32)
    binary = rng.normal(size=(8, size, size)).astype(np.float32)
    unary = rng.normal(size=(count, length, 8)).astype(np.float32)
    family = elbax.families.ParseTree(8, 8)

    def total(binary, unary):
        def one(unary):
            return family.log_normalizer(
                {
                    "root": jnp.asarray(root),
                    "binary": binary,
                    "unary": unary,
                    "length": jnp.asarray(length),
                }
            )

        return jnp.sum(jax.vmap(one)(unary))

    both = jax.jit(jax.value_and_grad(total))
    arguments = jnp.asarray(binary), jnp.asarray(unary)
    compiling = seconds(both.lower(*arguments).compile)
    value = float(both(*arguments)[0])
    runs: dict[str, Run] = {
        "elbax": lambda n: [jax.block_until_ready(both(*arguments)) for _ in range(n)]
    }
    row: Row = {"grammar, 16 sentences": f"{length} words", "compile, s": f"{compiling:.2g}"}
    if INSTALLED["torch_struct"]:
        import torch
        from torch_struct import SentCFG

        torch.set_num_threads(2)
        device = "cpu" if jax.default_backend() == "cpu" else "cuda"
        rules = np.broadcast_to(binary, (count, 8, size, size)).copy()
        rules, terms = torch.tensor(rules, device=device), torch.tensor(unary, device=device)
        roots = torch.tensor(np.broadcast_to(root, (count, 8)).copy(), device=device)

        def run(n):
            for _ in range(n):
                leaf = rules.clone().requires_grad_(True)
                score = SentCFG((terms, leaf, roots)).partition.sum()
                score.backward()
            return float(score.detach())

        runs["torch-struct"] = run
        row["difference of log Z"] = f"{value - run(1):.1g}"
    found = slopes(runs, (1, 4), 5)
    row["elbax, ms"] = spread(found["elbax"], 1e-3)
    if "torch-struct" in runs:
        row["torch-struct, ms"] = spread(found["torch-struct"], 1e-3)
        row["torch-struct / elbax"] = ratio(found["torch-struct"], found["elbax"])
    return row


def report() -> Iterator[str]:
    """The results file, part by part as it is measured."""
    peers: dict[str, Any] = {"optax": optax}
    for name, here in INSTALLED.items():
        if here and name != "torch_struct":
            peers[name] = __import__(name)
    yield heading(
        "Structured latents",
        "python benchmarks/structured_latents.py",
        peers,
        "float32; hmmlearn float64.",
    )
    yield "## A sweep of EM, hidden Markov model"
    yield markdown([hidden_markov(name) for name in MODELS])
    yield "## A sweep of EM, linear-Gaussian state space"
    yield markdown([state_space(count) for count in (1, 64)])
    yield "## A gradient step of CTC training"
    yield markdown([alignments(width) for width in (32, 128)])
    yield "## Inside and outside"
    yield markdown([grammars(length) for length in (10, 20, 30)])


if __name__ == "__main__":
    write(RESULTS, report())
