"""Sweeps of every family before and after a change, one process each: what becomes slower is seen.

    python benchmarks/editions.py CHECKOUT [--rounds 9]

`CHECKOUT` is another checkout of the project, such as `git worktree add CHECKOUT COMMIT`. Both processes compile
all sweeps, then they measure in turns. The systems are those of `every_family.py`, and normals with many columns.
"""

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path


HERE = Path(__file__).resolve().parent
RESULTS = HERE / "results" / "editions.md"
FEW, SECONDS = 2, 0.15


def serve(only: str) -> None:
    """Compiles every sweep, prints their names, then answers every line of input with seconds a sweep."""
    import jax
    import jax.numpy as jnp
    import numpy as np
    from every_family import mixture, Size, SYSTEMS
    from measuring import seconds, sweeps

    import elbax

    def wide(dim: int, correlation: float):
        def data(rng, rows):
            place = np.arange(dim)
            covariance = correlation ** np.abs(place[:, None] - place)
            root = np.linalg.cholesky(covariance)
            means = 2 * rng.normal(size=(16, dim)) @ root.T
            return means[rng.integers(16, size=rows)] + rng.normal(size=(rows, dim)) @ root.T

        name = f"16 normals, {dim} columns, correlation {correlation}"
        return mixture(name, elbax.components.Normal(), data, 16)

    systems = [*SYSTEMS, wide(8, 0.0), wide(16, 0.0), wide(32, 0.5), wide(32, 0.9), wide(64, 0.5)]
    runs = {}
    for system in filter(lambda system: only in system.name, systems):
        model, x = system.make(Size(20_000, 16, 128), np.random.default_rng(0))
        x = jax.tree.map(
            lambda leaf: jnp.asarray(leaf) if isinstance(leaf, np.ndarray) else leaf, x
        )
        state = system.state(model, system.params(model, x))
        run = sweeps(system.update(model), state, x)
        run(FEW)
        # As many sweeps as take about as long for every system: a slope over a millisecond is noise.
        count = FEW + int(np.clip(SECONDS * FEW / seconds(run, FEW), 4, 100))
        run(count)
        runs[system.name] = run, count
    print(json.dumps(list(runs)), flush=True)
    for name in map(str.strip, sys.stdin):
        run, count = runs[name]
        print((seconds(run, count) - seconds(run, FEW)) / (count - FEW), flush=True)


def worker(checkout: Path, only: str) -> subprocess.Popen:
    command = [sys.executable, __file__, "--serve", "--only", only]
    environment = os.environ | {"PYTHONPATH": str(checkout / "src")}
    pipe = subprocess.PIPE
    return subprocess.Popen(command, stdin=pipe, stdout=pipe, env=environment, text=True)


def names_of(process: subprocess.Popen) -> list[str]:
    assert process.stdout is not None
    line = process.stdout.readline()
    if not line:
        raise SystemExit(f"{' '.join(map(str, process.args))} ended early; its error is above.")
    return json.loads(line)


def ask(process: subprocess.Popen, name: str) -> float:
    assert process.stdin is not None and process.stdout is not None
    process.stdin.write(name + "\n")
    process.stdin.flush()
    return float(process.stdout.readline())


def report(checkout: Path, rounds: int, only: str) -> Iterator[str]:
    import numpy as np
    from measuring import heading, markdown, ratio, spread

    both = {"before": worker(checkout, only), "after": worker(HERE.parent, only)}
    names = [names_of(process) for process in both.values()]
    rows = []
    for name in names[1]:
        if name not in names[0]:
            continue
        found = {edition: [] for edition in both}
        for _ in range(rounds):
            for edition, process in both.items():
                found[edition].append(ask(process, name))
        before, after = (np.array(found[edition]) for edition in ("before", "after"))
        rows.append(
            {
                "sweep": name,
                "before, ms": spread(before, 1e-3),
                "after, ms": spread(after, 1e-3),
                "before / after": ratio(before, after),
            }
        )
    for process in both.values():
        process.kill()
    command = subprocess.run(
        ["git", "-C", str(checkout), "rev-parse", "--short", "HEAD"], capture_output=True, text=True
    )
    before = command.stdout.strip()
    note = f"Before is commit {before}; 20,000 rows, or 16 sequences of 128 steps, in float32."
    yield heading("Before and after", "python benchmarks/editions.py CHECKOUT", {}, note)
    yield markdown(rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("checkout", nargs="?", type=Path)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument(
        "--only", default="", help="systems whose names hold these words; printed, not written"
    )
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.serve:
        serve(given.only)
        return
    if given.checkout is None:
        parser.error("give another checkout")
    from measuring import write

    lines = report(given.checkout.resolve(), given.rounds, given.only)
    print(*lines, sep="\n") if given.only else write(RESULTS, lines)


if __name__ == "__main__":
    main()
