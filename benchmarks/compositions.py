"""Does every composition either run or say why not? Models, posteriors, steps and wrappers put together at random.

python benchmarks/compositions.py [--count 5000] [--seed 0] [--only MODEL] [--only-number N] [--write]

A composition is a model of the registry in `tests/cases.py`, a posterior, one to four parts in any order, up to three
wrappers around parts or the whole, and a batch with weights, masks, places and gaps, in one of three precisions. It
must be refused before anything runs, by an error of elbax that names a part of elbax, or run as the body of a scan:
the carry keeps its types, params and info stay finite, and where `update.ascends` the ELBO does not fall beyond
rounding, neither that of `info` nor that of the settled states. All else is a finding.
"""

import argparse
import collections
import contextlib
import dataclasses
import datetime
import functools
import importlib.util
import pathlib
import re
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax

import elbax


HERE = pathlib.Path(__file__).parent
RESULTS = HERE / "results" / "compositions.md"
SOURCE = str(pathlib.Path(elbax.__file__).parent)
NAMES = {name for module in (elbax, elbax.components) for name in dir(module) if name[0] != "_"}
STEPS, ROWS, PADDING = 4, 24, 3
PRECISIONS = ("float64", "float32", "float32 under x64")
GAPS = ("none", "none", "none", "rows", "blocks", "raw")


def pick(rng: np.random.Generator, options: Sequence[Any]) -> Any:
    return options[rng.integers(len(options))]


@functools.cache
def registry(x64: bool) -> dict[str, Any]:
    """The systems of the registry and some more by name, made anew for a precision: they keep their data."""
    spec = importlib.util.spec_from_file_location("cases", HERE.parent / "tests" / "cases.py")
    assert spec and spec.loader
    cases = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = cases  # Where its dataclasses look for their types.
    spec.loader.exec_module(cases)

    def counted(params, x, z):
        rate = params["rate"] + z[0]
        return jax.scipy.stats.norm.logpdf(z).sum() + (x * rate - jnp.exp(rate)).sum()

    def doubled(params):
        rates = params["rate"] + jnp.log(jnp.array([1.0, 2.0], params["rate"].dtype))
        return {"logits": params["logits"], "components": {"log_rates": rates[:, None]}}

    poisson, counts = (
        elbax.Mixture(elbax.components.Poisson(), 2),
        functools.partial(cases.counts, dim=1),
    )
    tied = lambda x: {"logits": jnp.zeros(2), "rate": jnp.zeros(())}
    mixed = elbax.Model(
        counted, elbax.Gaussian(1), latent_prior=lambda _: (jnp.zeros(1), jnp.eye(1))
    )
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
    missing = lambda node: isinstance(node, elbax.Incomplete)
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
    """The posteriors that the system's latent can have, by name."""
    model, params, x = system.model, system.params, system.x
    row = jax.tree.map(lambda leaf: leaf[0], x)
    latent = model.latent
    exact = lambda: elbax.Exact(model, params)

    def stand():
        keys = jax.random.split(jax.random.key(1), (ROWS, 2))
        draw = lambda x, keys: jax.vmap(elbax.Exact(model, params)(x).sample)(keys)
        return elbax.Chains(jax.jit(jax.vmap(draw))(x, keys), latent)

    found = {
        "Exact": exact,
        "Hard": lambda: elbax.Hard(exact()),
        "MonteCarlo": lambda: elbax.MonteCarlo(exact(), 2),
        "MeanField": lambda: elbax.MeanField.init(model, params, x),
        "Chains": stand,
        "Laplace": lambda: elbax.Laplace(exact()),
    }
    size = getattr(latent, "num_values", 0) or 2 * getattr(latent, "dim", 0)
    if not size:
        return found
    network = lambda: eqx.nn.MLP(
        numbers(row).size, size, 4, 1, activation=jnp.tanh, key=jax.random.key(3), dtype=float
    )
    encoder = lambda: elbax.Amortized(Pooled(network()), latent)
    table = lambda: jax.random.normal(jax.random.key(12), (ROWS, size))
    return found | {
        "Amortized": encoder,
        "SemiAmortized": lambda: elbax.SemiAmortized(encoder(), exact(), optax.sgd(0.1), 2),
        "Importance": lambda: elbax.Importance(encoder(), exact(), 2),
        "Local": lambda: elbax.Local(table(), latent),
    }


LEARNED = ("GradientEStep", "SleepEStep", "JointGradientStep")
E_STEPS = {
    "Exact": ("ExactEStep",),
    "Hard": ("HardEStep",),
    "MonteCarlo": ("MonteCarloEStep",),
    "MeanField": ("MeanFieldEStep",),
    "Chains": ("MarkovChainMonteCarloEStep",),
    "Laplace": ("LaplaceEStep",),
    "Amortized": LEARNED,
    "SemiAmortized": LEARNED,
    "Importance": ("MonteCarloEStep", *LEARNED),
    "Local": ("LocalGradientEStep", "GradientEStep", "JointGradientStep"),
}
STATISTICS = ("ClosedFormMStep", "ClosedFormMStep", "OnlineMStep", "IncrementalMStep")
SEARCHES = ("GradientMStep", "NewtonMStep", "NumericalMStep")
RARE = ("EvidenceMStep", "ReseedStep")
ALL_STEPS = tuple(dict.fromkeys([*sum(E_STEPS.values(), ()), *STATISTICS, *SEARCHES, *RARE]))
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
            return str(flags) if isinstance(value, bool | int | float | str | dict) else "masks"

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
        name, model = (
            pick(self.rng, usual if self.rng.random() < 0.93 else ALL_STEPS),
            self.system.model,
        )
        row = jax.tree.map(lambda leaf: leaf[0], self.system.x)
        dream = lambda params, key: (row, elbax.Exact(model, params)(row).sample(key))
        rate = pick(self.rng, (optax.sgd(0.05), optax.adam(0.02)))
        given: dict[str, Any] = {
            "LocalGradientEStep": {"optimizer": rate, "num_steps": 2},
            "MarkovChainMonteCarloEStep": {"kernel": metropolis},
            "SleepEStep": {"optimizer": rate, "sample": dream, "num_samples": 5},
            "GradientEStep": {"optimizer": rate},
            "JointGradientStep": {"optimizer": rate},
            "GradientMStep": {"optimizer": rate},
            "OnlineMStep": {"rate": 0.5, "delay": int(self.rng.integers(2))},
            "IncrementalMStep": {"num_batches": 2},
            "NumericalMStep": {"max_steps": 2},
        }.get(name, {})
        fields = getattr(elbax, name).__dataclass_fields__
        if "chunk_size" in fields and self.rng.random() < 0.3:
            given["chunk_size"] = 5
        if "free" in fields and name != "GradientEStep" and self.rng.random() < 0.25:
            given["free"] = self.flags()
        return Plan(getattr(elbax, name), given={"model": model} | given)

    def wrap(self, plan: Plan) -> Plan:
        rng, plain = self.rng, self.kind in ("Exact", "Hard")
        chain = plan.make is elbax.Chain
        likely = [w for w in WRAPPERS if (w != "Certify" or chain) and (w != "Accelerate" or plain)]
        name = pick(rng, likely if rng.random() < 0.95 else WRAPPERS)
        some = {"params": self.flags()} if rng.integers(2) else {"posterior": False}
        schedule = pick(rng, (optax.linear_schedule(0.5, 1.0, 3), lambda step: 0.5 + 0.1 * step))
        given: dict[str, Any] = {
            "Repeat": {"num_times": 2},
            "Every": {"period": 2, "offset": int(rng.integers(2))},
            "Only": some,
            "Anneal": {"schedule": schedule, "target": pick(rng, ("entropy", "divergence"))},
            "Averaged": {"decay": pick(rng, (None, 0.9)), "start": int(rng.integers(2))},
            "Accelerate": {},
            "Guard": {"falling": bool(rng.integers(2))},
            "Certify": {"model": self.system.model, "chunk_size": pick(rng, (None, 5))},
        }[name]
        return Plan(getattr(elbax, name), (plan,), given)

    def plan(self) -> Plan:
        rng, model = self.rng, self.system.model
        no_closed_form = elbax.Model | elbax.Tied | elbax.ConnectionistTemporalClassification
        m_steps = SEARCHES if isinstance(model, no_closed_form) else SEARCHES + STATISTICS
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
        weight = pick(rng, (None, None, 2.5, jnp.asarray(rng.integers(0, 3, ROWS) + 0.5)))
        mask = pick(rng, (None, None, jnp.arange(ROWS) < ROWS - PADDING))
        index = pick(rng, (None, None, jnp.asarray(rng.permutation(ROWS))))

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
            return elbax.Incomplete(jnp.where(jnp.isnan(leaf), 0, leaf), ~jnp.isnan(leaf))

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


@dataclasses.dataclass(frozen=True)
class Outcome:
    """`kind` is "ran", "refused" or "finding"; `group` is what the like have in common."""

    kind: str
    words: str
    group: str = ""


def narrow(leaf: Any) -> Any:
    return leaf.astype(jnp.float32) if getattr(leaf, "dtype", None) == jnp.float64 else leaf


def judge(error: Exception) -> tuple[str, str]:
    """(kind, group) of a composition that raised: by its last frame, and the last one within elbax."""
    frames = traceback.extract_tb(error.__traceback__)
    ours = [frame for frame in frames if frame.filename.startswith(SOURCE)]
    where = f"{ours[-1].filename[len(SOURCE) + 1 :]}:{ours[-1].lineno}" if ours else "outside"
    first = (str(error).strip() or "no words").splitlines()[0]
    own = isinstance(error, TypeError | ValueError) and frames[-1].filename.startswith(SOURCE)
    named = own and any(word in NAMES for word in re.findall(r"\w+", str(error)))
    told = "" if named else f" (raised in {pathlib.Path(frames[-1].filename).name})" * (not own)
    return (
        "refused" if named else "finding",
        f"{type(error).__name__} at {where}{told}: {first[:160]}",
    )


def faults(
    words: str, start: Any, end: Any, infos: Any, bounds: jax.Array, ascends: bool
) -> Iterator[str]:
    """What is wrong with a scan that ran."""
    kinds = [[(leaf.shape, leaf.dtype) for leaf in jax.tree.leaves(one)] for one in (start, end)]
    if kinds[0] != kinds[1] or jax.tree.structure(start) != jax.tree.structure(end):
        yield "the carry changed"
    finite = lambda tree: all(
        bool(jnp.isfinite(leaf).all())
        for leaf in jax.tree.leaves(eqx.filter(tree, eqx.is_inexact_array))
    )
    if finite(start.params) and not finite(end.params):
        yield "params not finite"
    # The parts of a turn that was skipped are blank.
    if not finite(infos.elbo if "Every(" in words else infos):
        yield "info not finite"
    certified = lambda node: isinstance(node, elbax.Certificate)
    broken = [n.broken for n in jax.tree.leaves(infos, is_leaf=certified) if certified(n)]
    if any(bool((one >= 0).any()) for one in broken):
        yield "Certify names a broken part"
    for name, trace in {"settled": bounds, "info": infos.elbo}.items():
        if ascends and trace is not None:
            slack = max(1e-10, 1024 * float(jnp.finfo(trace.dtype).eps))
            trace = np.asarray(trace, float)
            worst = np.max((trace[:-1] - trace[1:]) / (1 + np.abs(trace[1:])))
            if worst > slack:
                yield f"the {name} ELBO fell by {worst:.1e}"


@contextlib.contextmanager
def all_frames() -> Iterator[None]:
    """With JAX's own frames in tracebacks, which it leaves out else."""
    before = jax.config.jax_traceback_filtering
    jax.config.update("jax_traceback_filtering", "off")
    try:
        yield
    finally:
        jax.config.update("jax_traceback_filtering", before)


@all_frames()
def attempt(number: int, seed: int = 0, only: Sequence[str] | None = None) -> Outcome:
    """The composition of this number, drawn and tried."""
    rng = np.random.default_rng([seed, number])
    precision = pick(rng, PRECISIONS)
    cast = narrow if precision == PRECISIONS[2] else lambda leaf: leaf
    with jax.enable_x64(precision != "float32"), jax.numpy_dtype_promotion("strict"):
        systems = registry(precision != "float32")
        system = systems[pick(rng, only or list(systems))]
        system = dataclasses.replace(
            system,
            make_x=lambda given=system: jax.tree.map(cast, given.x),
            make_params=lambda _, given=system: jax.tree.map(cast, given.params),
        )
        choice = posteriors(system)
        weights = [6 if name == "Exact" else 1 for name in choice]
        kind = rng.choice(list(choice), p=np.array(weights) / sum(weights))
        draw = Draw(rng, system, str(kind))
        plan, (told, make_batch) = draw.plan(), draw.batch()
        words = f"{plan} of {system.name}, {kind}, batch {told}, {precision}"
        try:
            posterior, batch = jax.tree.map(cast, (choice[draw.kind](), make_batch()))
            update = plan.build()
            state = update.init(system.params, posterior, key=jax.random.key(7))
            update.check(batch)
            bound = lambda at: elbax.elbo(system.model, at.params, at.posterior, batch)

            def step(state, _):
                before = bound(update.settle(state, batch))
                state, info = update(state, batch)
                return state, (info, before)

            run = jax.jit(lambda state: jax.lax.scan(step, state, length=STEPS))
            program = run.lower(state).compile()
        except Exception as error:  # Whatever it is, it is what is looked for.
            kind, group = judge(error)
            return Outcome(kind, words, group)
        try:
            end, (infos, bounds) = program(state)
            found = list(faults(words, state, end, infos, bounds, update.ascends))
        except Exception as error:
            found = [f"while it ran, {judge(error)[1]}"]
    return Outcome("finding" if found else "ran", words, "; ".join(found))


def run(
    numbers: Sequence[int], seed: int = 0, only: Sequence[str] | None = None
) -> dict[str, dict[str, list[str]]]:
    """The compositions of these numbers, by kind of outcome and by group."""
    found: dict[str, Any] = {
        kind: collections.defaultdict(list) for kind in ("ran", "refused", "finding")
    }
    for done, number in enumerate(numbers, 1):
        outcome = attempt(number, seed, only)
        found[outcome.kind][outcome.group].append(f"{number}: {outcome.words}")
        if outcome.kind == "finding":
            print(f"{number} | {outcome.group} | {outcome.words}", flush=True)
        if (
            done % 40 == 0
        ):  # Every compiled function holds memory maps, of which there are only so many.
            jax.clear_caches()
    return found


def report(found: dict[str, dict[str, list[str]]], seed: int) -> str:
    count = {kind: sum(map(len, groups.values())) for kind, groups in found.items()}
    lines = ["# Does every composition either run or say why not?", ""]
    lines += [f"{datetime.date.today()}, seed {seed}; `benchmarks/compositions.py`", ""]
    lines += [
        f"{sum(count.values())} compositions: {count['ran']} ran, {count['refused']} were refused."
    ]
    for kind, title in {"finding": "Findings", "refused": "Refusals"}.items():
        lines += ["", f"## {title}: {count[kind]}", ""]
        for group, words in sorted(found[kind].items(), key=lambda item: -len(item[1])):
            lines += [f"- {len(words)} × `{group}`", f"  - {min(words, key=len)}"]
    return "\n".join(lines) + "\n"


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--count", type=int, default=5000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--first", type=int, default=0, help="the first number")
    parser.add_argument("--only", action="append", help="a system's name; may be given again")
    parser.add_argument("--only-number", type=int, help="this composition alone")
    parser.add_argument("--write", action="store_true", help="write the results file")
    options = parser.parse_args(argv)
    numbers = range(options.first, options.first + options.count)
    if options.only_number is not None:
        numbers = range(options.only_number, options.only_number + 1)
    found = run(numbers, options.seed, options.only)
    print(text := report(found, options.seed))
    if options.write:
        RESULTS.write_text(text)
    return int(bool(found["finding"]))


if __name__ == "__main__":
    sys.exit(main())
