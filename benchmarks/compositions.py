"""Does every composition either run or say why not? Models, posteriors, steps and wrappers put together at random.

python benchmarks/compositions.py [--count 5000] [--seed 0] [--only MODEL] [--only-number N] [--processes P]
    [--write]

A composition (`composing.py`) is a model of the registry in `tests/cases.py`, a posterior, one to four parts in
any order, up to three wrappers around parts or the whole, and a batch with weights, masks, places and gaps, in one
of three precisions. It must be refused before anything runs, by an error of elbax that names a part of elbax, or
run as the body of a scan: the carry keeps its types, params and info stay finite, and where `update.ascends` and
the posterior draws nothing the ELBO does not fall beyond rounding, neither that of `info` nor that of the settled
states. All else is a finding.
"""

import argparse
import collections
import concurrent.futures
import contextlib
import dataclasses
import datetime
import itertools
import multiprocessing
import os
import pathlib
import re
import sys
import traceback
from collections.abc import Iterator, Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from composing import Draw, pick, posteriors, registry

import elbax
from elbax.posteriors._posterior import draws_anew


HERE = pathlib.Path(__file__).parent
RESULTS = HERE / "results" / "compositions.md"
SOURCE = str(pathlib.Path(elbax.__file__).parent)
PLACES = (elbax, elbax.components, elbax.families, elbax.posteriors, elbax.wrappers)
NAMES = {name for module in PLACES for name in dir(module) if name[0] != "_"}
STEPS = 4
PRECISIONS = ("float64", "float32", "float32 under x64")


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
    group = f"{type(error).__name__} at {where}{told}: {first[:160]}"
    return "refused" if named else "finding", group


def faults(
    words: str, start: Any, end: Any, infos: Any, bounds: Any, ascends: bool
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
    certified = lambda node: isinstance(node, elbax.wrappers.Certificate)
    broken = [n.broken for n in jax.tree.leaves(infos, is_leaf=certified) if certified(n)]
    if any(bool((one >= 0).any()) for one in broken):
        yield "Certify names a broken part"
    for name, trace in {"settled": bounds, "info": infos.elbo}.items():
        if ascends and trace is not None:
            slack = max(1e-10, 1024 * float(jnp.finfo(trace.dtype).eps))
            trace = np.asarray(trace, float)
            worst = np.max((trace[:-1] - trace[1:]) / (1 + np.abs(trace[1:])))
            if not worst <= slack:  # NaN is no bound either.
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
            # An estimate from draws that are new in every step falls by chance.
            promised = update.ascends and not draws_anew(posterior)

            def step(state, _):
                # An average, to which `Averaged` settles, is no place where an update stands.
                measured = promised and "Averaged(" not in words
                before = bound(update.settle(state, batch)) if measured else None
                state, info = update(state, batch)
                return state, (info, before)

            run = jax.jit(lambda state: jax.lax.scan(step, state, length=STEPS))
            program = run.lower(state).compile()
        except Exception as error:  # Whatever it is, it is what is looked for.
            kind, group = judge(error)
            return Outcome(kind, words, group)
        try:
            end, (infos, bounds) = program(state)
            found = list(faults(words, state, end, infos, bounds, promised))
        except Exception as error:
            found = [f"while it ran, {judge(error)[1]}"]
    return Outcome("finding" if found else "ran", words, "; ".join(found))


Found = dict[str, dict[str, list[str]]]
NOTHING: Found = {"ran": {}, "refused": {}, "finding": {}}
BLOCK = 40
QUICK = (
    "--xla_cpu_use_fusion_emitters=false",
    "--xla_llvm_force_inline_before_split=false",
    "--xla_cpu_parallel_codegen_split_count=1",
)


def run(numbers: Sequence[int], seed: int = 0, only: Sequence[str] | None = None) -> Found:
    """The compositions of these numbers, by kind of outcome and by group."""
    found: Any = {kind: collections.defaultdict(list) for kind in ("ran", "refused", "finding")}
    for number in numbers:
        outcome = attempt(number, seed, only)
        found[outcome.kind][outcome.group].append(f"{number}: {outcome.words}")
        if outcome.kind == "finding":
            print(f"{number} | {outcome.group} | {outcome.words}", flush=True)
    # Every compiled function holds memory maps, of which there are only so many.
    jax.clear_caches()
    return {kind: dict(groups) for kind, groups in found.items()}


def merge(one: Found, other: Found) -> Found:
    def joined(a, b):
        return {name: a.get(name, []) + b.get(name, []) for name in a | b}

    return {kind: joined(one[kind], other[kind]) for kind in one}


def run_blocks(
    numbers: Sequence[int], seed: int, only: Sequence[str] | None, processes: int
) -> Iterator[Found]:
    """What was found so far, after each block of compositions. A process does one block and ends."""
    found = NOTHING
    blocks = [numbers[at : at + BLOCK] for at in range(0, len(numbers), BLOCK)]
    spawn = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(processes, spawn, max_tasks_per_child=1) as pool:
        repeat = itertools.repeat
        for block in pool.map(run, blocks, repeat(seed), repeat(only)):
            yield (found := merge(found, block))


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
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--write", action="store_true", help="write the results file")
    options = parser.parse_args(argv)
    numbers = range(options.first, options.first + options.count)
    if options.only_number is not None:
        numbers = range(options.only_number, options.only_number + 1)
    # Each program runs once: these flags, which the processes inherit, compile it 2.5 to 4 times faster.
    os.environ["XLA_FLAGS"] = " ".join((os.environ.get("XLA_FLAGS", ""), *QUICK))
    os.environ["JAX_DISABLE_MOST_OPTIMIZATIONS"] = "1"
    found: Found = NOTHING
    for found in run_blocks(numbers, options.seed, options.only, options.processes):
        if options.write:
            done = sum(len(words) for groups in found.values() for words in groups.values())
            left = f"\nBroken off: {len(numbers)} were asked for.\n" if done < len(numbers) else ""
            RESULTS.write_text(report(found, options.seed) + left)
    print(report(found, options.seed))
    return int(bool(found["finding"]))


if __name__ == "__main__":
    sys.exit(main())
