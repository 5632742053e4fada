"""Everything elbax has on this machine's default device: is it right, and how fast is it?

python benchmarks/accelerator.py [--small] [--only PART ...] [--write]

It needs jax, equinox, optax and numpy only. Its parts:

accuracy  Gaussian mixtures in float32 on the device beside float64 on the CPU, for every covariance, at an
          offset of 1e4 standard deviations and for clusters 1e3 apart.
families  Every family of models (`every_family.py`): the bound that the fourth step sees, in float32 on the
          device beside float64 on the CPU; the time of a step, and of compiling it. With JAX_PLATFORMS=cpu they
          are the CPU's: a CPU takes other forms and orders than an accelerator.
restarts  1, 16 and 128 restarts under one `vmap`.
orders    Chains run step by step and as a tree, by the number and the length of the sequences.
sweeps    Sweeps of EM with full covariances, beside the device's own rate: large float32 matrix products at the
          highest precision, as elbax takes them. Useful flops are those of the two products of N x F features
          with K columns, 4 N K F, with F = D + D (⌊D/2⌋ + 1): the columns and their products.
autoencoders  Gradient steps of variational autoencoders of 784 pixels and 50 latent numbers, with one draw an
          image and with 50 weighted draws, beside the same rate. Useful flops are those of the products with the
          weights, six for each weight and image (the decoder's for each draw).

Seconds are slopes between two numbers of calls, medians with the extremes of the rounds. A size that does
not fit the device's memory is skipped. The exit status is 1 if anything differs.

--small makes everything tiny and tries each kind of data and update once, to try the program on a CPU; --write
writes results/accelerator-<device kind>.md.
"""

import argparse
import datetime
import functools
import math
import re
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from every_family import chain as chain_of_states, FULL, Size, SMALL, state_space, SYSTEMS

import elbax


RESULTS = Path(__file__).parent / "results"
SIZES = [(10**7, 32, 64), (10**6, 32, 64), (10**6, 16, 16), (10**5, 16, 16)]
SMALL_SIZES = [(2000, 3, 4)]
SWEEPS = 10
CALLS = (1, 5)
STARTS = (1, 16, 128)
SEQUENCES = [(1, 32_768), (64, 512), (4096, 128)]
SMALL_SEQUENCES = [(2, 8)]
# Images, hidden units of two layers, draws of an image.
AUTOENCODERS = [(128, 200, 1), (128, 200, 50), (2048, 200, 50), (8192, 1024, 1)]
SMALL_AUTOENCODERS = [(8, 4, 2)]
COVARIANCES = ("full", "tied", "diagonal", "spherical")
# In small each kind of data and of update is tried once: the library's own tests have the others in float32.
ONCE = {"the same, columns missing", "categorical", "mixture of experts", "alignments"}
ONCE |= {"autoencoder, quadrature", "Bayesian network", "beliefs, mixture of normals"}
ONCE |= {"beliefs, factors with relevance", "beliefs, draws"}

Row = dict[str, Any]


def chain(model: elbax.Mixture, chunk_size: int | None = None) -> elbax.Chain:
    return elbax.Chain(elbax.ExactEStep(model), elbax.ClosedFormMStep(model, chunk_size))


def start(model: elbax.Mixture, params: Any) -> elbax.ELBOState:
    return chain(model).init(params, key=jax.random.key(1))


def seconds(function: Callable, *args: Any) -> float:
    begin = time.perf_counter()
    jax.block_until_ready(function(*args))
    return time.perf_counter() - begin


@eqx.filter_jit
def solve(model: elbax.Mixture, params: Any, x: jax.Array) -> tuple[jax.Array, dict]:
    """The evidence after 20 sweeps of EM, and the means and covariances."""
    em = chain(model)
    state, info = jax.lax.scan(lambda s, _: em(s, x), start(model, params), length=20)
    return info.elbo[-1], model.describe(state.params)


def relative(found: Any, reference: Any) -> float:
    found, reference = np.asarray(found, float), np.asarray(reference, float)
    return float(np.max(np.abs(found - reference)) / np.max(np.abs(reference)))


def accuracy(covariances: Sequence[str]) -> list[Row]:
    """float32 on the device beside float64 on the CPU, from the same params and the same data."""
    rng = np.random.default_rng(0)
    noise, which = rng.normal(size=(2000, 3)), rng.integers(4, size=2000)
    corners = np.array([[0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1]])
    # float32 spaces numbers near 1e4 by 1e-3: means are no better known than that, in sd.
    data = {
        "offset of 1e4 sd": (1e4 + 6 * corners[which] + noise).astype(np.float32),
        "offset of 1e4 sd, 1e3 sd apart": (1e4 + 1e3 * corners[which] + noise).astype(np.float32),
    }
    rows = []
    for covariance in covariances:
        model = elbax.GaussianMixture(4, covariance, floor=0.0)
        reference = elbax.GaussianMixture(4, covariance, floor=0.0, form="difference")
        for name, x in data.items():
            with jax.enable_x64(True), jax.default_device(jax.devices("cpu")[0]):
                exact = jnp.asarray(x, float)
                params = reference.init(jax.random.key(0), exact)
                evidence, right = jax.tree.map(np.asarray, solve(reference, params, exact))
                params = jax.tree.map(np.asarray, params)
            params = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32), params)
            ours, found = solve(model, params, jnp.asarray(x))
            errors = {
                "evidence": relative(ours, evidence),
                "means": relative(found["means"], right["means"]),
                "covariances": relative(found["covariances"], right["covariances"]),
            }
            passed = errors["evidence"] < 1e-4 and max(errors.values()) < 1e-3
            rows.append(
                {"data": name, "covariance": covariance}
                | {f"error of {what}": f"{error:.1e}" for what, error in errors.items()}
                | {"": "pass" if passed else "FAIL"}
            )
    return rows


def families(size: Size) -> list[Row]:
    """Every family: what the fourth step sees, and how long a step takes."""
    rows = []
    for system in SYSTEMS:
        if size == SMALL and system.name not in ONCE:
            continue
        model, x = system.make(size, np.random.default_rng(0))
        with jax.enable_x64(True), jax.default_device(jax.devices("cpu")[0]):
            exact = cast(x, float)
            start = system.state(model, system.params(model, exact))
            # Where a step draws, the draws differ.
            drawn, right = "draws" in system.name, math.nan
            if not drawn:
                _, step = compiled(system.update(model), start, exact)
                right = float(four_steps(step, start, exact))
        # The same start, on the device.
        state, x = jax.device_put(cast((start, x), np.float32), jax.devices()[0])
        compiling, step = compiled(system.update(model), state, x)
        found = float(four_steps(step, state, x))
        error = abs(found - right) / (1 + abs(right))
        passed = np.isfinite(found) if drawn else error < 1e-4
        row = {"family": system.name, "error of the bound": "drawn" if drawn else f"{error:.1e}"}
        row |= {"a step, ms": slope(step, state, x), "compiling, s": f"{compiling:.3g}"}
        rows.append(row | {"": "pass" if passed else "FAIL"})
        print(*rows[-1].values(), sep=" | ", flush=True)
    print()
    return rows


def four_steps(step: Callable, state: Any, x: Any) -> jax.Array:
    for _ in range(4):
        state, bound = step(state, x)
    return bound


def cast(tree: Any, dtype: Any) -> Any:
    """Real numbers as this dtype; whole ones as they are."""

    def one(leaf):
        real = isinstance(leaf, jax.Array | np.ndarray) and jnp.issubdtype(leaf.dtype, jnp.floating)
        return jnp.asarray(leaf, dtype) if real else leaf

    return jax.tree.map(one, tree)


def compiled(update: elbax.AbstractUpdate, state: Any, x: Any) -> tuple[float, Callable]:
    begin = time.perf_counter()

    def step(state, x):
        state, info = update(state, x)
        return state, info.elbo

    program = jax.jit(step).lower(state, x).compile()
    return time.perf_counter() - begin, program


def slope(step: Callable, state: Any, x: Any) -> str:
    """Milliseconds of a step: the median (and extremes) of what more calls take more."""

    def run(calls):
        now = state
        for _ in range(calls):
            now, _ = step(now, x)
        return now

    few, many = CALLS
    run(few)
    rounds = [(seconds(run, many) - seconds(run, few)) / (many - few) for _ in range(5)]
    median, least, most = (1e3 * float(f(rounds)) for f in (np.median, np.min, np.max))
    return f"{median:.4g} ({least:.4g} to {most:.4g})"


def restarts(size: Size) -> list[Row]:
    """Starts side by side: a sweep of all of them."""
    rows, x = [], clusters(jax.random.key(0), size.rows // 10, 8, 8)
    model = elbax.GaussianMixture(8)
    em = chain(model)
    for number in STARTS[1:2] if size == SMALL else STARTS:
        keys = jax.random.split(jax.random.key(1), number)
        states = jax.jit(jax.vmap(lambda key: start(model, model.init(key, x))))(keys)
        sweeps = jax.jit(jax.vmap(em, (0, None)))
        rows.append({"restarts": number, "a sweep of all, ms": slope(sweeps, states, x)})
    return rows


def orders(size: Size) -> list[Row]:
    """A sweep of a hidden Markov model and of a state space in either order."""
    kinds = {"hidden Markov": chain_of_states, "state space": state_space}
    ways = ("sequential", "pairwise")
    if size == SMALL:  # Compiling takes longest.
        kinds, ways = {"hidden Markov": chain_of_states}, ("pairwise",)
    rows = []
    for count, length in SMALL_SEQUENCES if size == SMALL else SEQUENCES:
        for name, kind in kinds.items():
            row: Row = {"sequences": count, "steps": length, "model": name}
            for order in ways:
                model, x = kind(order)(Size(1, count, length), np.random.default_rng(0))
                x = jnp.asarray(x, jnp.float32)
                update = elbax.em(model)
                state = update.init(
                    model.init(jax.random.key(0), x[:64, :512]), key=jax.random.key(1)
                )
                compiling, step = compiled(update, state, x)
                row[f"{order}, ms"] = slope(step, state, x)
                row[f"{order}, compiling, s"] = f"{compiling:.3g}"
            rows.append(row)
            print(*row.values(), sep=" | ", flush=True)
    print()
    return rows


def matmul_rate(size: int) -> float:
    """Flops a second of a square float32 product at the highest precision, the median of 10."""
    a, b = jax.random.normal(jax.random.key(0), (2, size, size), jnp.float32)
    multiply = jax.jit(functools.partial(jnp.matmul, precision=jax.lax.Precision.HIGHEST))
    multiply(a, b).block_until_ready()
    return 2 * size**3 / float(np.median([seconds(multiply, a, b) for _ in range(10)]))


@functools.partial(jax.jit, static_argnums=(1, 2, 3))
def clusters(key: jax.Array, n: int, dim: int, k: int) -> jax.Array:
    """n unit normals about k means of standard deviation 2, made on the device."""
    key_means, key_which, key_noise = jax.random.split(key, 3)
    means = 2 * jax.random.normal(key_means, (k, dim), jnp.float32)
    which = jax.random.randint(key_which, n, 0, k)
    return means[which] + jax.random.normal(key_noise, (n, dim), jnp.float32)


def sweep(n: int, dim: int, k: int, chunk_size: int | None, rate: float) -> Row:
    """Seconds and memory of a sweep, and its useful flops beside the device's rate."""
    flops = 4 * n * k * (dim + dim * (dim // 2 + 1))
    row = {
        "N": f"{n:.0e}",
        "D": dim,
        "K": k,
        "chunk_size": chunk_size,
        "Gflop": f"{flops / 1e9:.4g}",
    }
    model = elbax.GaussianMixture(k)
    em = chain(model, chunk_size)
    sample = clusters(jax.random.key(0), min(n, 100_000), dim, k)
    state = start(model, model.init(jax.random.key(1), sample))

    def some_sweeps(state, x):
        return jax.lax.scan(lambda s, _: em(s, x), state, length=SWEEPS)[0]

    # Compiled from shapes: nothing large is made before it is known to fit.
    shape = jax.ShapeDtypeStruct((n, dim), jnp.float32)
    try:
        program = jax.jit(some_sweeps).lower(state, shape).compile()
    except jax.errors.JaxRuntimeError as error:
        # Compilers that try several forms of a product run each of them.
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        return row | {
            "memory, GB": "",
            "ms": "not compiled: does not fit",
            "Tflop/s": "",
            "of matmul": "",
        }
    needed = program.memory_analysis()
    memory = needed.temp_size_in_bytes + needed.argument_size_in_bytes
    row["memory, GB"] = f"{memory / 1e9:.3g}"
    # Making the data takes a few arrays of its size.
    if max(memory, 4 * (4 * n * dim)) > bytes_limit():
        return row | {"ms": "skipped: does not fit", "Tflop/s": "", "of matmul": ""}
    x = clusters(jax.random.key(0), n, dim, k)

    def run(calls):
        now = state
        for _ in range(calls):
            now = program(now, x)
        return now

    few, many = CALLS
    run(few)
    rounds = [(seconds(run, many) - seconds(run, few)) / (many - few) / SWEEPS for _ in range(5)]
    median = float(np.median(rounds))
    return row | {
        "ms": f"{1e3 * median:.4g} ({1e3 * min(rounds):.4g} to {1e3 * max(rounds):.4g})",
        "Tflop/s": f"{flops / median / 1e12:.3g}",
        "of matmul": f"{flops / median / rate:.1%}",
    }


def autoencoder(batch: int, width: int, draws: int, rate: float) -> Row:
    """Milliseconds of a gradient step, and its useful flops beside the device's rate."""
    keys = jax.random.split(jax.random.key(0), 4)
    mlp = functools.partial(eqx.nn.MLP, width_size=width, depth=2, activation=jnp.tanh)
    decoder, encoder = mlp(50, 784, key=keys[0]), mlp(784, 100, key=keys[1])
    estimators = elbax.estimators
    one = draws == 1
    model = elbax.Model(
        likelihood=lambda decoder, x, z: elbax.families.Bernoulli()(decoder(z)).log_prob(x).sum(),
        prior=lambda decoder, x: (jnp.zeros(50), jnp.ones(50)),
        latent=elbax.DiagonalGaussian(50),
        estimator=estimators.Reparameterized() if one else estimators.ImportanceWeighted(draws),
    )
    update = elbax.JointGradientStep(model, optax.adam(1e-3))
    posterior = elbax.Amortized(encoder, model.latent)
    state = update.init(elbax.Network(decoder), posterior, key=keys[2])
    x = (jax.random.uniform(keys[3], (batch, 784)) < 0.2).astype(jnp.float32)

    @jax.jit
    def run(state, x):
        return jax.lax.scan(lambda s, _: update(s, x), state, length=SWEEPS)

    compiling = seconds(run, state, x)
    rounds = [seconds(run, state, x) / SWEEPS for _ in range(5)]
    median = float(np.median(rounds))
    weights = [width * (784 + width + outputs) for outputs in (100, 50)]
    flops = 6 * batch * (weights[0] + draws * weights[1])
    return {
        "images": batch,
        "hidden": f"2 x {width}",
        "draws": draws,
        "a step, ms": f"{1e3 * median:.4g} ({1e3 * min(rounds):.4g} to {1e3 * max(rounds):.4g})",
        "steps a second": f"{1 / median:.4g}",
        "of matmul": f"{flops / median / rate:.1%}",
        "first call, s": f"{compiling:.3g}",
    }


def bytes_limit() -> float:
    """What the device can hold; a CPU does not say."""
    return (jax.devices()[0].memory_stats() or {}).get("bytes_limit", math.inf)


def markdown(rows: list[Row]) -> str:
    head = ["| " + " | ".join(rows[0]) + " |", "|" + " --- |" * len(rows[0])]
    return "\n".join(head + ["| " + " | ".join(map(str, row.values())) + " |" for row in rows])


def accuracy_part(size: Size) -> Iterator[Any]:
    yield "## float32 on the device beside float64 on the CPU: relative errors"
    yield accuracy(COVARIANCES[: 1 if size == SMALL else None])


def families_part(size: Size) -> Iterator[Any]:
    shape = "in small" if size == SMALL else "1e5 rows, or 64 sequences of 512 steps"
    yield f"## Every family: {shape}"
    yield families(size)


def restarts_part(size: Size) -> Iterator[Any]:
    yield "## Restarts: Gaussian mixtures, 8 components, 8 columns, a tenth of the rows each"
    yield restarts(size)


def orders_part(size: Size) -> Iterator[Any]:
    yield "## Chains step by step and as a tree: 4 hidden states, or 2 of a state space; 3 columns"
    yield orders(size)


def sweeps_part(size: Size) -> Iterator[Any]:
    small = size == SMALL
    sizes, chunk_size, width = (SMALL_SIZES, 1000, 256) if small else (SIZES, 100_000, 8192)
    rate = matmul_rate(width)
    products = f"Matrix products of {width} x {width} at the highest precision"
    yield f"## Sweeps\n\n{products}: {rate / 1e12:.3g} Tflop/s."
    cases = [(*size, chunk) for size in sizes for chunk in (None, chunk_size) if chunk != size[0]]
    yield [sweep(*case, rate) for case in cases]


def autoencoders_part(size: Size) -> Iterator[Any]:
    small = size == SMALL
    rate = matmul_rate(256 if small else 8192)
    yield "## Variational autoencoders: gradient steps, ten in a scan"
    yield [autoencoder(*case, rate) for case in (SMALL_AUTOENCODERS if small else AUTOENCODERS)]


PARTS = {
    "accuracy": accuracy_part,
    "families": families_part,
    "restarts": restarts_part,
    "orders": orders_part,
    "sweeps": sweeps_part,
    "autoencoders": autoencoders_part,
}


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--small", action="store_true", help="tiny sizes, for a CPU")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS), metavar="PART")
    parser.add_argument("--write", action="store_true", help="write the results file")
    options = parser.parse_args(argv)
    said, failed = [], False

    def say(part):
        print(part, end="\n\n", flush=True)
        said.append(part)

    kind = jax.devices()[0].device_kind
    say(f"# elbax on {kind}\n\n{datetime.date.today()}, jax {jax.__version__}, one device, float32")
    for name in options.only:
        begin = time.perf_counter()
        for part in PARTS[name](SMALL if options.small else FULL):
            say(part if isinstance(part, str) else markdown(part))
            failed |= not isinstance(part, str) and any(row.get("") == "FAIL" for row in part)
        print(f"[{name}: {time.perf_counter() - begin:.0f} s]\n")
    if options.write:
        RESULTS.mkdir(exist_ok=True)
        name = re.sub("[^a-z0-9]+", "-", kind.lower()).strip("-")
        (RESULTS / f"accelerator-{name}.md").write_text("\n\n".join(said) + "\n")
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
