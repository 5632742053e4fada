"""The table of docs/choose.md: pairs of E-steps and M-steps on three models, judged by their gain in evidence.

`python tests/matrix.py` runs every cell (about three minutes) and writes the marks into that page.
"""

import dataclasses
import functools
import pathlib
import sys
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from cases import sweeps

import elbax


PAGE = pathlib.Path(__file__).parent.parent / "docs" / "choose.md"


@dataclasses.dataclass(frozen=True)
class Setting:
    """A model, data and a start far below EM's result; `encoder(key)` makes an encoder for the family."""

    name: str
    model: Any
    x: Any
    params: Any
    encoder: Callable[[Any], Any]
    outputs: Any
    """A table of outputs, from which `Local` starts."""
    # With mean field on factor analysis, Adam ends in a poorer optimum that uses one factor of the two.
    optimizer: Any = dataclasses.field(default_factory=lambda: optax.sgd(0.05))
    num_steps: int = 1
    """Observations per datum, by which differences of 1e-6 nats are counted."""
    batch_size: int | None = None
    """Rows per minibatch of online steps; all, if None."""

    @property
    def num_data(self):
        return len(jax.tree.leaves(self.x)[0])

    @functools.cached_property
    def start(self) -> float:
        return self.evidence(self.params)

    @functools.cached_property
    def best(self) -> float:
        """The evidence at which EM ends: after 400 sweeps on any of these data."""
        em = elbax.em(self.model)
        state = em.init(self.params, key=jax.random.key(0))
        return self.evidence(sweeps(em, state, self.x, 600)[0].params)

    def evidence(self, params) -> float:
        return float(elbax.evidence(self.model, params, self.x))

    def share(self, params) -> float:
        """Returns the share of EM's gain in evidence."""
        return (self.evidence(params) - self.start) / (self.best - self.start)


@eqx.filter_jit
def stream(update, state, x, rows):
    """Runs updates on minibatches, with weight N / B for each row."""

    def body(state, rows):
        part = jax.tree.map(lambda leaf: leaf[rows], x)
        total = len(jax.tree.leaves(x)[0])
        return update(state, elbax.Batch(part, weight=total / len(rows), index=rows))

    return jax.lax.scan(body, state, rows)


def mixture() -> Setting:
    x = elbax.datasets.old_faithful()
    x = jnp.asarray((x - x.mean(0)) / x.std(0), float)
    model = elbax.GaussianMixture(2)
    params = model.from_description(
        weights=[0.5, 0.5],
        means=x[jnp.array([3, 50])] * 0.2,
        covariances=jnp.broadcast_to(jnp.eye(2), (2, 2, 2)),
    )
    network = lambda key: eqx.nn.MLP(2, 2, 16, 1, activation=jnp.tanh, key=key, dtype=float)
    encoder = lambda key: elbax.Amortized(network(key), model.latent)
    return Setting(
        "Gaussian mixture", model, x, params, encoder, jnp.zeros((len(x), 2)), batch_size=34
    )


def factors() -> Setting:
    from sklearn.datasets import load_wine

    x = jnp.asarray(load_wine().data)
    x = (x - x.mean(0)) / x.std(0)
    model = elbax.FactorAnalysis(2)
    loadings = 0.2 * jax.random.normal(jax.random.key(0), (13, 2))
    params = model.from_description(mean=jnp.zeros(13), loadings=loadings, noise=jnp.ones(13))
    linear = lambda key: eqx.nn.MLP(13, 4, 4, 0, key=key, dtype=float)
    encoder = lambda key: elbax.Amortized(linear(key), model.latent)
    return Setting(
        "factor analysis", model, x, params, encoder, jnp.zeros((len(x), 4)), batch_size=30
    )


class StepByStep(eqx.Module):
    """Maps each step to logits by a network, next to free potentials of the chain."""

    network: eqx.nn.MLP
    initial: Any
    transition: Any

    def __call__(self, x):
        unary = jax.vmap(self.network)(x / 20)
        return {"unary": unary, "initial": self.initial, "transition": self.transition}


def chain() -> Setting:
    x = jnp.asarray(elbax.datasets.earthquakes(), float).reshape(1, -1, 1)
    model = elbax.HiddenMarkovModel(elbax.components.Poisson(), 2)
    params = model.from_description(
        initial=[0.5, 0.5], transition=[[0.6, 0.4], [0.4, 0.6]], rates=[[17.0], [22.0]]
    )

    def encoder(key):
        network = eqx.nn.MLP(1, 2, 8, 1, activation=jnp.tanh, key=key, dtype=float)
        return elbax.Amortized(StepByStep(network, jnp.zeros(2), jnp.zeros((2, 2))), model.latent)

    adam = optax.adam(optax.cosine_decay_schedule(0.1, 4000))
    return Setting(
        "hidden Markov model",
        model,
        x,
        params,
        encoder,
        jnp.zeros((1, x.shape[1], 2)),
        optimizer=adam,
        num_steps=x.shape[1],
    )


SETTINGS = {"mixture": mixture, "factors": factors, "chain": chain}


@functools.cache
def setting(name: str) -> Setting:
    return SETTINGS[name]()


def exact(s):
    return elbax.Exact(s.model, s.params)


def trained(s, make=None):
    """Returns an encoder that was trained alone first, since a fresh one ruins good params."""
    encoder = s.encoder(jax.random.key(1))
    posterior = encoder if make is None else make(encoder)
    step = elbax.GradientEStep(s.model, optax.adam(0.02))
    state = step.init(s.params, posterior, key=jax.random.key(2))
    return sweeps(step, state, s.x, 500)[0].posterior


def semi(s):
    return lambda encoder: elbax.posteriors.SemiAmortized(encoder, exact(s), optax.sgd(0.3), 3)


# Each E-step, with its first posterior.
E_STEPS: dict[str, Callable[[Setting], tuple]] = {
    "exact": lambda s: (elbax.ExactEStep(s.model), exact(s)),
    "hard": lambda s: (elbax.HardEStep(s.model), elbax.posteriors.Hard(exact(s))),
    "mean field": lambda s: (
        elbax.MeanFieldEStep(s.model),
        elbax.posteriors.MeanField.init(s.model, s.params, s.x),
    ),
    "local gradient": lambda s: (
        elbax.LocalGradientEStep(s.model, optax.sgd(1.0), num_steps=5),
        elbax.posteriors.Local(s.outputs, s.model.latent),
    ),
    "encoder": lambda s: (elbax.GradientEStep(s.model, optax.adam(0.01)), trained(s)),
    "semi-amortized": lambda s: (
        elbax.GradientEStep(s.model, optax.adam(0.01)),
        trained(s, semi(s)),
    ),
    "Monte Carlo": lambda s: (
        elbax.MonteCarloEStep(s.model),
        elbax.posteriors.MonteCarlo(exact(s), 20),
    ),
}


@functools.cache
def start_of(name: str, e: str) -> tuple:
    """Returns (E-step, its first posterior), which the cells of a row share: some train an encoder for it."""
    return E_STEPS[e](setting(name))


# Each M-step, with its number of steps.
M_STEPS: dict[str, Callable[[Setting], tuple]] = {
    "closed form": lambda s: (elbax.ClosedFormMStep(s.model), 600),
    "gradient": lambda s: (elbax.GradientMStep(s.model, s.optimizer), 4000),
    "online": lambda s: (
        elbax.OnlineMStep(s.model, rate=lambda t: (t + 2.0) ** -0.6, delay=2),
        600,
    ),
    "numerical": lambda s: (elbax.NumericalMStep(s.model, max_steps=20), 60),
}
# At most so many steps, and a third of those of other cells, where each is taken on 20 draws of every latent:
# these cells must reach 95 %.
MOST_ON_DRAWS = 800

PAIRS = {
    "mixture": (list(E_STEPS), list(M_STEPS)),
    "factors": (
        ["exact", "mean field", "encoder", "Monte Carlo"],
        ["closed form", "gradient", "online"],
    ),
    "chain": (
        ["exact", "hard", "mean field", "encoder", "Monte Carlo"],
        ["closed form", "gradient", "online"],
    ),
}
CELLS = [(name, e, m) for name, (rows, columns) in PAIRS.items() for e in rows for m in columns]


def run(name: str, e: str, m: str):
    """Returns (setting, update, last state, trace of the bound) of one cell."""
    s = setting(name)
    e_step, posterior = start_of(name, e)
    m_step, length = M_STEPS[m](s)
    length = min(length // 3, MOST_ON_DRAWS) if e == "Monte Carlo" else length
    update = elbax.Chain(e_step, m_step)
    state = update.init(s.params, posterior, key=jax.random.key(3))
    if m == "online" and s.batch_size is not None:
        per_epoch = s.num_data // s.batch_size
        keys = jax.random.split(jax.random.key(4), -(-length // per_epoch))
        order = jax.vmap(lambda key: jax.random.permutation(key, s.num_data))(keys)
        rows = order[:, : per_epoch * s.batch_size].reshape(-1, s.batch_size)[:length]
        state, info = stream(update, state, s.x, rows)
    else:
        state, info = sweeps(update, state, s.x, length)
    return s, update, state, np.asarray(info.elbo)


def judge(name: str, e: str, m: str) -> float:
    """Returns the share of EM's gain in evidence that a cell reaches; raises `AssertionError` if it is too small.

    An exact E-step on full batches must end within 1e-6 nats per observation of EM; a sampled, learned or
    approximate q must reach 95 %. A hard E-step must raise its own bound. If the update promises to ascend, its
    bound must not fall.
    """
    s, update, state, trace = run(name, e, m)
    share = s.share(state.params)
    if update.ascends:
        assert (np.diff(trace) >= -1e-10 * (1 + np.abs(trace[1:]))).all(), "the bound fell"
    if e == "exact" and m != "online":
        # A faster M-step may end above EM, if EM itself has not converged.
        short = (s.best - s.evidence(state.params)) / s.num_steps
        assert short < 1e-6, f"{short} nats less than EM"
    elif e == "hard":
        assert np.isfinite(trace).all() and trace[-10:].mean() > trace[0], "nothing gained"
    else:
        assert share >= 0.95, f"{share:.3f} of EM's gain"
    return share


def rendered(marks: dict) -> str:
    """Returns the table."""
    lines = ["| E-step ↓ / M-step → | " + " | ".join(M_STEPS) + " |"]
    lines.append("|---" * (len(M_STEPS) + 1) + "|")
    letter = {"mixture": "G", "factors": "F", "chain": "H"}
    for e in E_STEPS:
        cells = []
        for m in M_STEPS:
            found = [letter[name] for name in PAIRS if marks.get((name, e, m))]
            cells.append(" ".join(found))
        lines.append(f"| {e} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


BEGIN, END = "<!-- matrix -->", "<!-- end of matrix -->"


def main() -> None:
    jax.config.update("jax_enable_x64", True)
    marks = {}
    for cell in CELLS:
        try:
            share = judge(*cell)
            marks[cell] = True
            print(f"{' × '.join(cell):50}{share:8.4f}", flush=True)
        except AssertionError as error:
            marks[cell] = False
            print(f"{' × '.join(cell):50}  {error}", flush=True)
    text = PAGE.read_text()
    before, rest = text.split(BEGIN)
    _, after = rest.split(END)
    PAGE.write_text(f"{before}{BEGIN}\n{rendered(marks)}\n{END}{after}")
    if not all(marks.values()):
        sys.exit("Some cells fell short.")


if __name__ == "__main__":
    main()
