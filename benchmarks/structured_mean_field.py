"""A sweep of EM of a factorial hidden Markov model: exact chains as blocks, and all chains together.

python benchmarks/structured_mean_field.py    prints the table, writes results/structured_mean_field.md

Both are elbax's own; the exact program is the peer of the blocks. How it is measured stands in `measuring.py`.
"""

from collections.abc import Iterator
from pathlib import Path

import equinox as eqx
import jax
import numpy as np
from measuring import markdown, processor, seconds, write

import elbax


RESULTS = Path(__file__).parent / "results" / "structured_mean_field.md"
STATES, ROUNDS, SWEEPS = 3, 5, 5


@eqx.filter_jit
def sweeps(update, state, x):
    return jax.lax.scan(lambda state, _: update(state, x), state, length=SWEEPS)


def measured(num_chains: int) -> dict[str, str]:
    """One row: the times of a sweep."""
    model = elbax.FactorialHiddenMarkovModel(num_chains, STATES, limit=2**24)
    truth = model.init(jax.random.key(0), np.random.default_rng(0).normal(size=(8, 250, 6)))
    x, _ = model.sample(truth, jax.random.key(1), 8, 250)
    params = model.init(jax.random.key(2), x)
    table = elbax.posteriors.MeanField.init(model, params, x)
    closed, key = elbax.ClosedFormMStep(model), jax.random.key(3)
    blocks = elbax.Chain(elbax.MeanFieldEStep(model, 1), closed)
    exact = elbax.em(model)
    runs = {
        "blocks": (blocks, blocks.init(params, table, key=key)),
        "exact": (exact, exact.init(params, key=key)),
    }
    run = lambda update, state: jax.block_until_ready(sweeps(update, state, x))
    for given in runs.values():
        run(*given)
    times = {name: [] for name in runs}
    for _ in range(ROUNDS):
        for name, given in runs.items():
            times[name].append(1e3 * seconds(run, *given) / SWEEPS)
    middle, least = ({name: f(own) for name, own in times.items()} for f in (np.median, np.min))
    return {
        "chains": str(num_chains),
        "states together": str(STATES**num_chains),
        **{
            f"{name}, ms a sweep (least)": f"{middle[name]:.1f} ({least[name]:.1f})"
            for name in runs
        },
        "exact / blocks": f"{middle['exact'] / middle['blocks']:.1f}",
    }


def report() -> Iterator[str]:
    yield (
        "# Structured mean field\n\n"
        f"`python benchmarks/structured_mean_field.py`: a factorial hidden Markov model, {STATES} states a chain, "
        f"8 sequences of 250 steps and 6 columns, float32, {processor()}, which other programs used at the same "
        "time: read the figures as ratios. A sweep is an E-step (one round over all chains, or the exact program "
        f"over all states together) and an M-step; medians of {ROUNDS} alternating rounds."
    )
    yield markdown([measured(number) for number in (2, 4, 6)])


if __name__ == "__main__":
    write(RESULTS, report())
