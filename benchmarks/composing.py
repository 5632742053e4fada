"""Compositions of models, posteriors, steps and wrappers, drawn at random for `compositions.py`."""

import dataclasses
import functools
import importlib.util
import pathlib
import sys
from collections.abc import Callable, Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax

import elbax


CASES = pathlib.Path(__file__).parent.parent / "tests" / "cases.py"
ROWS, PADDING = 24, 3
GAPS = ("none",) * 9 + ("rows", "blocks") * 3 + ("raw",)


def pick(rng: np.random.Generator, options: Sequence[Any]) -> Any:
    return options[rng.integers(len(options))]


@functools.cache
def registry(x64: bool) -> dict[str, Any]:
    """The systems of the registry and some more by name, made anew for a precision: they keep their data."""
    spec = importlib.util.spec_from_file_location(f"cases_{x64}", CASES)
    assert spec and spec.loader
    cases = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = cases  # Where its dataclasses look for their types.
    spec.loader.exec_module(cases)

    def counted(params, x, z):
        rate = params["rate"] + z[0]
        return (x * rate - jnp.exp(rate)).sum()

    def standard(params, x):
        return jnp.zeros(1), jnp.eye(1)

    def doubled(params):
        rates = params["rate"] + jnp.log(jnp.array([1.0, 2.0], params["rate"].dtype))
        return {"logits": params["logits"], "components": {"log_rates": rates[:, None]}}

    counts = functools.partial(cases.counts, dim=1)
    poisson = elbax.Mixture(elbax.components.Poisson(), 2)
    tied = lambda x: {"logits": jnp.zeros(2), "rate": jnp.zeros(())}
    mixed = elbax.Model(likelihood=counted, prior=standard, latent=elbax.Gaussian(1))
    more = [
        cases.generalized("bernoulli"),
        cases.of("ppca", elbax.ProbabilisticPCA(1), cases.table, dim=3),
        cases.System("tied", elbax.Tied(poisson, doubled), tied, counts),
        cases.System("plain-counts", mixed, lambda x: {"rate": jnp.zeros(1)}, counts),
    ]
    return {system.name: system for system in [*cases.SYSTEMS, *more]}


class Pooled(eqx.Module):
    """A network on all numbers of a row, 0 where one is missing."""

    network: eqx.nn.MLP

    def __call__(self, x: Any) -> jax.Array:
        return self.network(numbers(x).astype(self.network.layers[0].weight.dtype))


def numbers(x: Any) -> jax.Array:
    missing = lambda node: isinstance(node, elbax.IncompleteRows)
    known = lambda node: jnp.where(node.observed, node.values, 0) if missing(node) else node
    leaves = jax.tree.leaves(jax.tree.map(known, x, is_leaf=missing))
    return jnp.concatenate([jnp.ravel(leaf).astype(float) for leaf in leaves])


def metropolis(key: Any, z: Any, log_density: Callable) -> Any:
    """A walk where z is numbers; where it is labels it stays."""

    def moved(leaf):
        real = jnp.issubdtype(leaf.dtype, jnp.floating)
        return leaf + 0.1 * jax.random.normal(key, leaf.shape, leaf.dtype) if real else leaf

    other = jax.tree.map(moved, z)
    rises = log_density(other) > log_density(z)
    return jax.tree.map(lambda new, old: jnp.where(rises, new, old), other, z)


def posteriors(system: Any) -> dict[str, Callable[[], Any]]:
    """Posteriors for the system by name, nearly all of them such as its latent can have."""
    model, params, x = system.model, system.params, system.x
    row = jax.tree.map(lambda leaf: leaf[0], x)
    latent = model.latent
    exact = lambda: elbax.Exact(model, params)

    def stand():
        keys = jax.random.split(jax.random.key(1), (ROWS, 2))
        draw = lambda x, keys: jax.vmap(elbax.Exact(model, params)(x).sample)(keys)
        return elbax.posteriors.PersistentChains(jax.jit(jax.vmap(draw))(x, keys), latent)

    found: dict[str, Callable[[], Any]] = {"Exact": exact}
    if model.exact:
        found["MonteCarlo"] = lambda: elbax.posteriors.MonteCarlo(exact(), 2)
        found["MeanField"] = lambda: elbax.posteriors.MeanField.init(model, params, x)
        found["PersistentChains"] = stand
    if latent.discrete:
        found["Hard"] = lambda: elbax.posteriors.Hard(exact())
    else:
        found["Laplace"] = lambda: elbax.posteriors.Laplace(exact())
    if not isinstance(latent, elbax.Categorical | elbax.Gaussian | elbax.DiagonalGaussian):
        return found
    size = latent.num_values if latent.discrete else 2 * latent.dim
    network = lambda: eqx.nn.MLP(
        numbers(row).size, size, 4, 1, activation=jnp.tanh, key=jax.random.key(3), dtype=float
    )
    encoder = lambda: elbax.Amortized(Pooled(network()), latent)
    table = lambda: jax.random.normal(jax.random.key(12), (ROWS, size))
    return found | {
        "Amortized": encoder,
        "SemiAmortized": lambda: elbax.posteriors.SemiAmortized(
            encoder(), exact(), optax.sgd(0.1), 2
        ),
        "Recognition": lambda: elbax.posteriors.Recognition(Pooled(network()), exact()),
        "Importance": lambda: elbax.posteriors.Importance(encoder(), exact(), 2),
        "Local": lambda: elbax.posteriors.Local(table(), latent),
    }


LEARNED = ("GradientEStep", "SleepEStep", "JointGradientStep")
E_STEPS = {
    "Exact": ("ExactEStep",),
    "Hard": ("HardEStep",),
    "MonteCarlo": ("MonteCarloEStep",),
    "MeanField": ("MeanFieldEStep",),
    "PersistentChains": ("MarkovChainMonteCarloEStep",),
    "Laplace": ("LaplaceEStep",),
    "Amortized": LEARNED,
    "SemiAmortized": LEARNED,
    "Recognition": LEARNED,
    "Importance": ("MonteCarloEStep", *LEARNED),
    "Local": ("LocalGradientEStep", "GradientEStep", "JointGradientStep"),
}
CLOSED = ("ClosedFormMStep", "ClosedFormMStep")
STATISTICS = ("OnlineMStep", "IncrementalMStep")
SEARCHES = ("GradientMStep", "GradientMStep", "NewtonMStep", "NumericalMStep")
RARE = ("EvidenceMStep", "ReseedStep")
ALL_STEPS = tuple(
    dict.fromkeys([*sum(E_STEPS.values(), ()), *CLOSED, *STATISTICS, *SEARCHES, *RARE])
)
WRAPPERS = ("Repeat", "Every", "Only", "Anneal", "Averaged", "Accelerate", "Guard", "Certify")


@dataclasses.dataclass(frozen=True)
class Plan:
    """An update that is not made yet: to refuse its making counts as to refuse the composition."""

    make: Callable[..., Any]
    inner: tuple["Plan", ...] = ()
    given: dict[str, Any] = dataclasses.field(default_factory=dict)

    def build(self) -> Any:
        return self.make(*(plan.build() for plan in self.inner), **self.given)

    def __str__(self) -> str:
        def word(value):
            flags = jax.tree.map(lambda leaf: "mask" if hasattr(leaf, "shape") else leaf, value)
            short = bool | int | float | str | dict | None
            return str(flags) if isinstance(value, short) else "masks"

        untold = ("model", "optimizer", "sample", "kernel", "schedule")
        given = [f"{key}={word(value)}" for key, value in self.given.items() if key not in untold]
        return f"{self.make.__name__}({', '.join([*map(str, self.inner), *given])})"


@dataclasses.dataclass
class Draw:
    """One composition, drawn from the random numbers of its own number alone."""

    rng: np.random.Generator
    system: Any
    kind: str

    def flags(self) -> Any:
        """Which params are free: a prefix of their tree, or a mask for each."""
        params, coin = self.system.params, lambda _: bool(self.rng.integers(2))
        if isinstance(params, dict) and coin(0):
            return {name: coin(0) for name in params}
        return jax.tree.map(lambda leaf: jnp.asarray(self.rng.random(leaf.shape) < 0.5), params)

    def step(self, usual: Sequence[str]) -> Plan:
        name = pick(self.rng, usual if self.rng.random() < 0.93 else ALL_STEPS)
        model = self.system.model
        row = jax.tree.map(lambda leaf: leaf[0], self.system.x)
        dream = lambda params, key: (row, elbax.Exact(model, params)(row).sample(key))
        rate = pick(self.rng, (optax.sgd(0.05), optax.adam(0.02), optax.adam(0.5)))
        # L-BFGS, the default, takes ten times as long to compile.
        climb = optax.chain(optax.sgd(1.0), optax.scale_by_backtracking_linesearch(5))
        search = pick(self.rng, (climb,) * 7 + (None,))
        given: dict[str, Any] = {
            "LocalGradientEStep": {"optimizer": rate, "num_steps": 2},
            "MarkovChainMonteCarloEStep": {"kernel": metropolis},
            "SleepEStep": {"optimizer": rate, "sample": dream, "num_samples": 5},
            "GradientEStep": {"optimizer": rate},
            "JointGradientStep": {"optimizer": rate, "through": bool(self.rng.integers(2))},
            "GradientMStep": {"optimizer": rate},
            "OnlineMStep": {"rate": 0.5, "delay": int(self.rng.integers(2))},
            "IncrementalMStep": {"num_batches": 2},
            "NumericalMStep": {"optimizer": search, "max_steps": 2},
        }.get(name, {})
        fields = getattr(elbax, name).__dataclass_fields__
        if "chunk_size" in fields and self.rng.random() < 0.3:
            given["chunk_size"] = 5
        if "free" in fields and name != "GradientEStep" and self.rng.random() < 0.25:
            given["free"] = self.flags()
        return Plan(getattr(elbax, name), given={"model": model} | given)

    def wrap(self, plan: Plan) -> Plan:
        rng, chain = self.rng, plan.make is elbax.Chain
        map_of_params = chain and plan.inner[0].make in (elbax.ExactEStep, elbax.HardEStep)
        fits = {"Certify": chain, "Accelerate": map_of_params}
        likely = [name for name in WRAPPERS if fits.get(name, True)]
        name = pick(rng, likely if rng.random() < 0.95 else WRAPPERS)
        some = {"params": self.flags()} if rng.integers(2) else {"posterior": False}
        known = self.system.model.knows_prior
        targets = ("entropy", "divergence") if known else ("entropy",)
        schedule = pick(rng, (optax.linear_schedule(0.5, 1.0, 3), lambda step: 0.5 + 0.1 * step))
        given: dict[str, Any] = {
            "Repeat": {"num_times": 2},
            "Every": {"period": 2, "offset": int(rng.integers(2))},
            "Only": some,
            "Anneal": {"schedule": schedule, "target": pick(rng, targets)},
            "Averaged": {"decay": pick(rng, (None, 0.9)), "start": int(rng.integers(2))},
            "Accelerate": {},
            "Guard": {"falling": bool(rng.integers(2))},
            "Certify": {"model": self.system.model, "chunk_size": pick(rng, (None, 5))},
        }[name]
        return Plan(getattr(elbax.wrappers, name), (plan,), given)

    def plan(self) -> Plan:
        rng, model = self.rng, self.system.model
        no_closed_form = elbax.Model | elbax.Tied | elbax.ConnectionistTemporalClassification
        closed = not isinstance(model, no_closed_form)
        m_steps = SEARCHES + CLOSED + STATISTICS if closed else SEARCHES
        m_steps += RARE[:1] * 3 if isinstance(model, elbax.FactorAnalysis) else ()
        m_steps += RARE[1:] if isinstance(model, elbax.Mixture) else ()
        length = pick(rng, (1, 2, 2, 2, 3, 4))
        usual = [E_STEPS[self.kind], m_steps, m_steps, E_STEPS[self.kind]][:length]
        if length == 1 or rng.random() < 0.25:
            usual = [pick(rng, (E_STEPS[self.kind], m_steps)) for _ in range(length)]
        parts, around = [self.step(names) for names in usual], 0
        for _ in range(pick(rng, (0, 1, 1, 2, 2, 3))):
            if rng.random() < 0.4:
                place = rng.integers(length)
                parts[place] = self.wrap(parts[place])
            else:
                around += 1
        plan = parts[0] if length == 1 and rng.integers(2) else Plan(elbax.Chain, tuple(parts))
        return functools.reduce(lambda plan, _: self.wrap(plan), range(around), plan)

    def batch(self) -> tuple[str, Callable[[], Any]]:
        """(the batch in words, how to make it)."""
        rng, x, gaps = self.rng, self.system.x, pick(self.rng, GAPS)
        # A function of one's own does with gaps what it likes.
        own = isinstance(self.system.model, elbax.Model)
        gaps = "none" if isinstance(x, elbax.IncompleteRows) or own else gaps
        gaps = "rows" if gaps == "blocks" and not isinstance(x, jax.Array | dict) else gaps
        weight = pick(rng, (None, None, 2.5, jnp.asarray(rng.integers(0, 3, ROWS) * 0.5)))
        mask = pick(rng, (None, None, jnp.arange(ROWS) < ROWS - PADDING))
        index = pick(rng, (None, None, jnp.asarray(rng.permutation(ROWS))))

        # A table of posteriors has the rows in the order of the system.
        x = x if index is None else jax.tree.map(lambda leaf: leaf[index], x)

        def pierce(leaf):
            """The first number of every other row lost, and all of the padding."""
            real = jnp.issubdtype(leaf.dtype, jnp.floating)
            if gaps != "none" and real and leaf.ndim > 1:
                leaf = leaf.at[(slice(1, None, 2), *(0,) * (leaf.ndim - 1))].set(jnp.nan)
            if mask is not None and leaf.dtype != bool:
                leaf = leaf.at[-PADDING:].set(jnp.nan if real else -999)
            return leaf

        def incomplete(leaf):
            if not (jnp.issubdtype(leaf.dtype, jnp.floating) and leaf.ndim > 1):
                return leaf
            return elbax.IncompleteRows(jnp.where(jnp.isnan(leaf), 0, leaf), ~jnp.isnan(leaf))

        def make():
            pierced = jax.tree.map(pierce, x)
            told = elbax.Batch(
                jax.tree.map(incomplete, pierced) if gaps == "rows" else pierced,
                weight,
                mask,
                index,
            )
            return elbax.incomplete(told) if gaps == "blocks" else told

        says = {"weight": weight, "mask": mask, "index": index}
        words = [f"gaps in {gaps}"] * (gaps != "none") + [
            k for k, v in says.items() if v is not None
        ]
        return ", ".join(words) or "plain", make
