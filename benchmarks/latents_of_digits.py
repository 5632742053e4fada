"""Estimators, layers and ways to train an encoder on scikit-learn's digits, beside exact sums where there are.

python benchmarks/latents_of_digits.py [PART ...]    all parts: writes results/latents_of_digits.md

Images are black and white. Rows have the same sizes of networks, batches and optimizer; seeds differ in the start,
the batches and the draws. Eight switches have 256 values: there log p(x) is a sum, to train with and to judge by.
"""

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from measuring import markdown, Row, setting, write_or_print
from sklearn.datasets import load_digits

import elbax
from elbax import estimators, programs
from elbax.families import Bernoulli, Copies


RESULTS = Path(__file__).parent / "results" / "latents_of_digits.md"
SEEDS, STEPS, SIZE, DRAWS = (0, 1, 2), 2000, 8, 500
images = (load_digits().data > 7).astype(np.float32)
order = np.random.default_rng(0).permutation(len(images))
TRAIN, TEST = jnp.asarray(images[order[:1500]]), jnp.asarray(images[order[1500:]])


class System(NamedTuple):
    update: elbax.AbstractUpdate
    params: Any
    posterior: Any
    judge: elbax.AbstractModel  # The model with the estimator by which its ELBO is told.


def mlp(inputs: int, outputs: int, key: jax.Array) -> elbax.Network:
    return elbax.Network(eqx.nn.MLP(inputs, outputs, 100, 1, key=key))


def adam() -> optax.GradientTransformation:
    return optax.adam(optax.cosine_decay_schedule(2e-3, STEPS))


def trained(system: System, key: jax.Array) -> elbax.ELBOState:
    update, params, posterior, _ = system
    keys = jax.random.split(key)
    rows = jax.random.randint(keys[0], (STEPS, 100), 0, len(TRAIN))
    start = update.init(params, posterior, key=keys[1])
    state, _ = jax.lax.scan(lambda state, i: update(state, TRAIN[i]), start, rows)
    return update.settle(state, TEST)


def table(
    rows: dict[str, Callable[[jax.Array], System]],
    judge: Callable[[elbax.AbstractModel, elbax.ELBOState], dict[str, jax.Array]],
) -> list[Row]:
    """A row for each system; the seeds run side by side."""
    found = []
    for name, make in rows.items():

        @jax.jit
        @jax.vmap
        def run(seed, make=make):
            keys = jax.random.split(jax.random.key(seed))
            system = make(keys[0])
            return judge(system.judge, trained(system, keys[1]))

        program = run.lower(jnp.array(SEEDS)).compile()
        begin = time.perf_counter()
        values = jax.block_until_ready(program(jnp.array(SEEDS)))
        spent = time.perf_counter() - begin
        told = {head: spread(each.tolist()) for head, each in values.items()}
        found.append({"system": name} | told | {"s a seed": f"{spent / len(SEEDS):.0f}"})
        print(found[-1], flush=True)
    return found


def spread(values: list[float], digits: int = 2) -> str:
    return f"{np.mean(values):.{digits}f} ({min(values):.{digits}f} to {max(values):.{digits}f})"


# ---- eight numbers

NUMBERS, MANY = elbax.DiagonalGaussian(SIZE), estimators.Reparameterized(20)


def likelihood(decoder: Any, x: jax.Array, z: jax.Array) -> jax.Array:
    return Bernoulli()(decoder(z)).log_prob(x).sum()


def standard(decoder: Any, x: jax.Array) -> tuple[jax.Array, jax.Array]:
    return jnp.zeros(SIZE), jnp.ones(SIZE)  # A linear term and a precision.


def numbers(estimator: Any, local_steps: int = 0) -> Callable[[jax.Array], System]:
    """One layer of eight numbers; `local_steps` refine the encoder's output for each image."""

    def by(estimator):
        given = {"likelihood": likelihood, "prior": standard, "latent": NUMBERS}
        return elbax.Model(**given, estimator=estimator)

    def make(key):
        keys, model = jax.random.split(key), by(estimator)
        decoder = mlp(SIZE, 64, keys[0])
        encoder = elbax.Amortized(mlp(64, 2 * SIZE, keys[1]), NUMBERS)
        if local_steps:
            target = elbax.Exact(model, decoder)
            local = optax.sgd(0.1)
            encoder = elbax.posteriors.SemiAmortized(encoder, target, local, local_steps)
        return System(elbax.JointGradientStep(model, adam()), decoder, encoder, by(MANY))

    return make


def normal(output: jax.Array) -> programs.Normal:
    mean, log_deviation = jnp.split(output, 2)
    return programs.Normal(mean, jnp.exp(log_deviation))


def generate(params: Any, draw: programs.AbstractDraw) -> None:
    above = draw("above", programs.Normal(jnp.zeros(SIZE // 2), 1.0))
    below = draw("below", normal(params["above"](above)))
    draw("x", Bernoulli()(params["below"](below)))


def bottom_up(weights: Any, x: jax.Array, draw: programs.AbstractDraw) -> None:
    below = draw("below", normal(weights["below"](x)))
    draw("above", normal(weights["above"](below)))


def top_down(weights: Any, x: jax.Array, draw: programs.AbstractDraw) -> None:
    above = draw("above", normal(weights["above"](x)))
    draw("below", normal(weights["below"](jnp.concatenate([x, above]))))


def ladder(weights: Any, params: Any, x: jax.Array, draw: programs.AbstractDraw) -> None:
    """What the image says of the lower layer, times what the model says of it (Sønderby et al. 2016)."""
    above = draw("above", normal(weights["above"](x)))
    prior, says = normal(params["above"](above)), normal(weights["below"](x))
    precision = prior.deviation**-2 + says.deviation**-2
    mean = (prior.mean * prior.deviation**-2 + says.mean * says.deviation**-2) / precision
    draw("below", programs.Normal(mean, precision**-0.5))


def layers(infer: Callable, estimator: Any) -> Callable[[jax.Array], System]:
    """Four numbers above eight."""

    def make(key):
        keys = jax.random.split(key, 4)
        half = SIZE // 2
        params = {"above": mlp(half, 2 * SIZE, keys[0]), "below": mlp(SIZE, 64, keys[1])}
        model, judge = (
            elbax.Model(programs.log_joint(generate), estimator=each) for each in (estimator, MANY)
        )
        above = {bottom_up: SIZE, top_down: 64, ladder: 64}[infer]
        below = {bottom_up: 64, top_down: 64 + half, ladder: 64}[infer]
        weights = {"above": mlp(above, 2 * half, keys[2]), "below": mlp(below, 2 * SIZE, keys[3])}
        target = elbax.Exact(model, params) if infer is ladder else None
        posterior = programs.encoder(infer, weights, target=target)
        update = elbax.JointGradientStep(model, adam(), through=infer is ladder)
        return System(update, params, posterior, judge)

    return make


def by_importance(model: Any, state: elbax.ELBOState) -> dict[str, jax.Array]:
    own, keys = (state.params, state.posterior, TEST), jax.random.split(jax.random.key(3))
    bound = elbax.elbo(model, *own, key=keys[0], chunk_size=50)
    many = elbax.diagnostics.importance_evidence(
        model, *own, key=keys[1], num_samples=DRAWS, chunk_size=50
    )
    return {"ELBO": bound, "log p(x)": many.evidence}


def of_numbers() -> list[Row]:
    one, landing = estimators.Reparameterized(), estimators.StickingTheLanding()
    rows = {
        "one draw": numbers(one),
        "one draw, sticking the landing": numbers(landing),
        "five draws, IWAE": numbers(estimators.ImportanceWeighted(5)),
        "five draws, DReG": numbers(estimators.DoublyReparameterized(5)),
        "fifty draws, IWAE": numbers(estimators.ImportanceWeighted(50)),
        "fifty draws, DReG": numbers(estimators.DoublyReparameterized(50)),
        "five draws, reweighted wake-sleep": numbers(estimators.ReweightedWakeSleep(5)),
        "semi-amortized, 5 local steps, one draw": numbers(one, 5),
        "two layers, bottom-up": layers(bottom_up, landing),
        "two layers, top-down": layers(top_down, landing),
        "two layers, ladder": layers(ladder, landing),
        "two layers, bottom-up, five draws, DReG": layers(
            bottom_up, estimators.DoublyReparameterized(5)
        ),
    }
    return table(rows, by_importance)


# ---- eight switches

SWITCHES = Copies(elbax.Categorical(2))


def switched(decoder: Any, x: jax.Array, z: jax.Array) -> jax.Array:
    on = z if z.ndim == 1 else z[:, 1]  # Relaxed draws are shares of both values.
    return Bernoulli()(decoder(on.astype(x.dtype))).log_prob(x).sum() - SIZE * jnp.log(2.0)


def summed(decoder: Any, x: jax.Array, number: jax.Array) -> jax.Array:
    return switched(decoder, x, (number >> jnp.arange(SIZE)) & 1)


def dreamt(decoder: Any, key: jax.Array) -> tuple[jax.Array, jax.Array]:
    keys = jax.random.split(key)
    z = jax.random.bernoulli(keys[0], 0.5, (SIZE,)).astype(int)
    return Bernoulli()(decoder(z.astype(jnp.float32))).sample(keys[1]).astype(jnp.float32), z


EXACT = elbax.Model(summed, elbax.Categorical(2**SIZE))


def bayes(key: jax.Array) -> System:
    """Bayes' rule over all 256 values."""
    decoder = mlp(SIZE, 64, jax.random.split(key)[0])
    update = elbax.Chain(elbax.ExactEStep(EXACT), elbax.GradientMStep(EXACT, adam()))
    return System(update, decoder, elbax.Exact(EXACT, decoder), EXACT)


def switches(estimator: Any, asleep: bool = False) -> Callable[[jax.Array], System]:
    def make(key):
        keys = jax.random.split(key)
        model = elbax.Model(switched, SWITCHES, estimator=estimator)
        to_pairs = elbax.Network(
            lambda inner, x: inner(x).reshape(SIZE, 2), mlp(64, 2 * SIZE, keys[1])
        )
        update = elbax.JointGradientStep(model, adam())
        if asleep:
            sleep = elbax.SleepEStep(model, adam(), dreamt)
            update = elbax.Chain(sleep, elbax.GradientMStep(model, adam()))
        posterior = elbax.Amortized(to_pairs, SWITCHES)
        judge = elbax.Model(switched, SWITCHES, estimator=estimators.Enumeration())
        return System(update, mlp(SIZE, 64, keys[0]), posterior, judge)

    return make


def by_sum(model: Any, state: elbax.ELBOState) -> dict[str, jax.Array]:
    bound = elbax.elbo(model, state.params, state.posterior, TEST, chunk_size=50)
    return {"ELBO": bound, "log p(x)": elbax.evidence(EXACT, state.params, TEST, chunk_size=50)}


def of_switches() -> list[Row]:
    rows = {
        "Bayes' rule, all 256 values": bayes,
        "encoder, all values summed": switches(estimators.Enumeration()),
        "encoder, one switch summed at a time": switches(estimators.LocalExpectation()),
        "score function, 2 draws": switches(estimators.ScoreFunction(2)),
        "relaxed (Gumbel-softmax), temperature 0.5": switches(
            estimators.GumbelSoftmax(temperature=0.5)
        ),
        "VIMCO, 2 draws": switches(estimators.ImportanceWeightedScore(2)),
        "VIMCO, 10 draws": switches(estimators.ImportanceWeightedScore(10)),
        "VIMCO, 50 draws": switches(estimators.ImportanceWeightedScore(50)),
        "reweighted wake-sleep, 10 draws": switches(estimators.ReweightedWakeSleep(10)),
        "reweighted wake-sleep, 50 draws": switches(estimators.ReweightedWakeSleep(50)),
        "wake-sleep": switches(estimators.ScoreFunction(2), asleep=True),
    }
    return table(rows, by_sum)


PARTS = {"numbers": of_numbers, "switches": of_switches}


def report() -> Iterator[str]:
    yield (
        f"# Latents of digits\n\n{setting({'optax': optax})}. `python benchmarks/latents_of_digits.py`: "
        f"scikit-learn's digits in black and white, {len(TRAIN)} for training and {len(TEST)} for the test. "
        f"Networks have one layer of 100 units; {STEPS} steps of 100 images, Adam with a rate that falls from "
        "0.002 to 0 along a cosine, no regularization and no early stopping. Nats a test image; means and ranges "
        f"of {len(SEEDS)} seeds, which run side by side on a machine that does other work too."
    )
    yield (
        "## Eight numbers\n\nA standard normal prior; rows of two layers have four numbers above the eight. The "
        f"ELBO is that of 20 draws with the encoder, log p(x) an estimate from below by {DRAWS} draws."
    )
    yield markdown(of_numbers())
    yield (
        "## Eight switches\n\nEach is on or off with probability one half. log p(x) is the sum over all 256 "
        "values, and so is the encoder's ELBO: neither is an estimate. Bayes' rule is the reference of the others."
    )
    yield markdown(of_switches())


if __name__ == "__main__":
    write_or_print(RESULTS, report, PARTS, __doc__)
