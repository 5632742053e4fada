"""How the benchmarks measure: slopes, in turns, in one process, on a fixed number of threads.

Seconds a sweep are slopes, (time of n₂ sweeps − time of n₁) / (n₂ − n₁), since compiling, starting
and the last E-step are not sweeps. The contestants alternate in one process, from one start and after a
warm-up round. Medians stand with the quartiles of the rounds.
"""

import argparse
import contextlib
import datetime
import functools
import json
import os
import platform
import re
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from types import ModuleType
from typing import Any

import jax
import numpy as np
import threadpoolctl

import elbax


THREADS = 2

Row = dict[str, Any]
Run = Callable[[int], Any]

# XLA's pool gets as many threads as there are cores to run on when its first array is made.
if hasattr(os, "sched_setaffinity"):
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:THREADS])
    THREADS = len(os.sched_getaffinity(0))
threadpoolctl.threadpool_limits(THREADS)


def chain(model: elbax.AbstractModel, chunk_size: int | None = None) -> elbax.Chain:
    return elbax.Chain(elbax.ExactEStep(model), elbax.ClosedFormMStep(model, chunk_size))


def start(model: elbax.AbstractModel, params: Any) -> elbax.ELBOState:
    return chain(model).init(params, key=jax.random.key(1))


def sweeps(step: Callable, state: Any, x: jax.Array) -> Run:
    """n sweeps in one jitted scan, waited for."""

    @functools.partial(jax.jit, static_argnames="n")
    def run(state, x, n):
        return jax.lax.scan(lambda state, _: step(state, x), state, length=n)

    return lambda n: jax.block_until_ready(run(state, x, n))


def slopes(runs: dict[str, Run], counts: tuple[int, int], rounds: int) -> dict[str, np.ndarray]:
    """Seconds a sweep of each contestant, one slope a round."""
    few, many = counts
    found = {name: [] for name in runs}
    for _ in range(1 + rounds):
        for name, run in runs.items():
            found[name].append((seconds(run, many) - seconds(run, few)) / (many - few))
    return {name: np.array(values[1:]) for name, values in found.items()}


def seconds(function: Callable, *args: Any) -> float:
    begin = time.perf_counter()
    function(*args)
    return time.perf_counter() - begin


def spread(values: np.ndarray, unit: float = 1) -> str:
    low, middle, high = np.quantile(values / unit, [0.25, 0.5, 0.75])
    return f"{middle:.3g} ({low:.3g} to {high:.3g})"


def ratio(a: np.ndarray, b: np.ndarray) -> str:
    """The ratio of the medians; at worst and at best, that of opposite quartiles."""
    (a_low, a_mid, a_high), (b_low, b_mid, b_high) = (
        np.quantile(values, [0.25, 0.5, 0.75]) for values in (a, b)
    )
    return f"{a_mid / b_mid:.2f} ({a_low / b_high:.2f} to {a_high / b_low:.2f})"


def markdown(rows: list[Row]) -> str:
    head = ["| " + " | ".join(rows[0]) + " |", "|" + " --- |" * len(rows[0])]
    return "\n".join(head + ["| " + " | ".join(map(str, row.values())) + " |" for row in rows])


def processor() -> str:
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":")[1].strip()
    return platform.processor() or platform.machine()


def accelerator() -> str:
    """The default device, where it is not the CPU."""
    return "" if jax.default_backend() == "cpu" else jax.devices()[0].device_kind


def setting(peers: dict[str, ModuleType]) -> str:
    """When and where something was measured, by what versions."""
    versions = {"jax": jax, "elbax": elbax, **peers}
    return (
        f"{datetime.date.today()}, {accelerator() or processor()}, {THREADS} threads; Python "
        f"{platform.python_version()}, "
        + ", ".join(f"{name} {module.__version__}" for name, module in versions.items())
    )


def heading(title: str, command: str, peers: dict[str, ModuleType], note: str) -> str:
    """What was measured where, by what versions."""
    return (
        f"# {title}\n\n{setting(peers)}. {note} Medians, with quartiles over alternating rounds; seconds a "
        f"sweep are slopes between two numbers of sweeps. `{command}`."
    )


class Kept:
    """Figures by name in a JSON file: a long script can be run in pieces, since what is there is not run again."""

    def __init__(self, file: Path | None):
        self.file = file
        self.figures = json.loads(file.read_text()) if file and file.exists() else {}

    def __call__(self, name: str, make: Callable[[], Any]) -> Any:
        if name not in self.figures:
            # As it will be read again.
            self.figures[name] = json.loads(json.dumps(make()))
            print(name, self.figures[name], flush=True)
            if self.file:
                self.file.write_text(json.dumps(self.figures, indent=1))
        return self.figures[name]


def write(file: Path, report: Iterable[str]) -> None:
    """Prints the parts of a report as they come, and keeps them in a file; an accelerator's has its name."""
    parts = []
    for part in report:
        print(part, end="\n\n", flush=True)
        parts.append(part)
    file.parent.mkdir(exist_ok=True)
    if where := re.sub("[^a-z0-9]+", "-", accelerator().lower()):
        file = file.with_stem(f"{file.stem}-{where}")
    file.write_text("\n\n".join(parts) + "\n")


def write_or_print(
    file: Path,
    report: Callable[[], Iterable[str]],
    parts: dict[str, Callable[[], list[Row]]],
    about: str | None,
) -> None:
    """Writes the whole report, or prints the tables of the parts that the command line names."""
    parser = argparse.ArgumentParser(description=(about or "").split("\n")[0])
    parser.add_argument("parts", nargs="*", choices=[*parts, []])
    asked = parser.parse_args().parts
    if not asked:
        write(file, report())
    for part in asked:
        print(markdown(parts[part]()))
