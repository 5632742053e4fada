"""The demo: one mixture and one scan, with four algorithms that differ in one word each.

python -m elbax                              Old Faithful
python -m elbax FILE.csv --components K      your own numeric table
"""

import argparse
import csv
import math
import sys
import time
from pathlib import Path

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax

import elbax


FIGURE = "elbax-demo.png"
SWEEPS = 400
BLOCKS = 20


class UnusableData(Exception):
    """An error in the user's table, described in one line."""


def read_table(path: str) -> tuple[list[str], np.ndarray]:
    """Returns (column names, table) of a CSV file, with or without a header."""
    try:
        text = Path(path).read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise UnusableData(f"{path}: no such file") from None
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "not a text file"
        raise UnusableData(f"{path}: cannot be read ({reason})") from None
    lines = [(number, row) for number, row in enumerate(csv.reader(text.splitlines()), 1) if row]
    if not lines:
        raise UnusableData(f"{path}: the file is empty")
    first = lines[0][1]
    has_header = not any(is_number(cell) for cell in first)
    names = (
        [cell.strip() or f"column {i}" for i, cell in enumerate(first, 1)]
        if has_header
        else [f"column {i}" for i, _ in enumerate(first, 1)]
    )
    body = lines[1:] if has_header else lines
    if not body:
        raise UnusableData(f"{path}: the file has a header but no rows")
    table = np.empty((len(body), len(names)))
    for i, (number, row) in enumerate(body):
        if len(row) != len(names):
            raise UnusableData(
                f"{path}: line {number} has {len(row)} cells, but the first line has {len(names)}"
            )
        for j, cell in enumerate(row):
            if not is_number(cell):
                what = f"{cell.strip()!r} is not a number" if cell.strip() else "the cell is empty"
                raise UnusableData(f"{path}: line {number}, {names[j]}: {what}")
            table[i, j] = float(cell)
            if not math.isfinite(table[i, j]):
                raise UnusableData(
                    f"{path}: line {number}, {names[j]}: {cell.strip()} is not finite"
                )
    return names, table


def is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True


def load(path: str | None) -> tuple[str, list[str], jax.Array]:
    if path is None:
        return "Old Faithful", ["eruption (min)", "waiting (min)"], elbax.datasets.old_faithful()
    names, table = read_table(path)
    return Path(path).name, names, jnp.asarray(table, float)


def recipes(model, params, x, key):
    """Yields (name, update, first state) of four algorithms."""
    dim, width = x.shape[1], 32
    key_network, key_state, key_warm = jax.random.split(key, 3)
    center, spread = x.mean(0), x.std(0)

    def encode(weights, x):
        return weights((x - center) / spread)

    mlp = elbax.Network(
        eqx.nn.MLP(dim, model.num_components, width, 1, activation=jnp.tanh, key=key_network)
    )
    encoder = elbax.Amortized(elbax.Network(encode, mlp), model.latent)

    exact = elbax.ExactEStep(model)
    amortize = elbax.GradientEStep(model, optax.adam(1e-2))
    closed = elbax.ClosedFormMStep(model)
    gradient = elbax.GradientMStep(model, optax.adam(1e-2))
    joint = elbax.JointGradientStep(model, optax.adam(1e-2))

    # A fresh encoder would ruin good params, so it is trained alone first, at the initial params.
    warm = amortize.init(params, encoder, key=key_warm)
    warm, _ = jax.jit(lambda s, x: jax.lax.scan(lambda s, _: amortize(s, x), s, length=200))(
        warm, x
    )

    bayes = elbax.Exact(model, params)
    for name, update, posterior in [
        ("EM                 exact   / closed  ", elbax.Chain(exact, closed), bayes),
        ("expected gradient  exact   / gradient", elbax.Chain(exact, gradient), bayes),
        ("amortized EM       encoder / closed  ", elbax.Chain(amortize, closed), warm.posterior),
        ("VAE                joint gradient    ", joint, warm.posterior),
    ]:
        yield name, update, update.init(params, posterior, key=key_state)


def run(update, state, x, progress):
    """Returns (last state, trace, seconds per sweep, seconds of compilation) of a scan in blocks."""
    length = SWEEPS // BLOCKS
    scan = jax.jit(lambda s, x: jax.lax.scan(lambda s, _: update(s, x), s, length=length))
    begin = time.perf_counter()
    compiled = scan.lower(state, x).compile()
    compilation = time.perf_counter() - begin
    traces, seconds = [], 0.0
    for _ in range(BLOCKS):
        begin = time.perf_counter()
        state, info = jax.block_until_ready(compiled(state, x))
        seconds += time.perf_counter() - begin
        traces.append(info.elbo)
        progress.update(length)
    return update.settle(state, x), jnp.concatenate(traces), seconds / SWEEPS, compilation


def fit_all(model, x, key):
    """Returns (name, params, trace, ELBO terms, seconds per sweep, seconds of compilation) of each recipe."""
    key_init, key_recipes = jax.random.split(key)
    params = model.init(key_init, x)
    rows = []
    with bar(total=4 * SWEEPS) as progress:
        for name, update, state in recipes(model, params, x, key_recipes):
            progress.set_description(name.split("  ")[0])
            state, trace, seconds, compilation = run(update, state, x, progress)
            terms = jax.jit(lambda s, x: elbax.elbo_terms(model, s.params, s.posterior, x))(
                state, x
            )
            rows.append((name, state.params, trace, terms, seconds, compilation))
    return rows


def bar(total: int):
    from tqdm import tqdm

    return tqdm(total=total, unit="sweep", file=sys.stderr)


def report(rows, num_data: int) -> None:
    head = ("ELBO", "evidence", "KL gap", "sum", "ms/sweep", "compile")
    print("{:38}{:>10}{:>10}{:>10}{:>12}{:>10}{:>9}".format("E-step / M-step", *head))
    for name, _, _, terms, seconds, compilation in rows:
        gap = max(float(terms.kl_posterior), 0.0)
        total = float(terms.evidence) * num_data
        print(
            f"{name:38}{float(terms.elbo):10.4f}{float(terms.evidence):10.4f}{gap:10.1e}"
            f"{total:12.2f}{1e3 * seconds:10.3f}{compilation:8.1f}s"
        )
    print("ELBO, evidence and KL(q ‖ p(z|x)) in nats per datum; sum: the evidence of all data.")


def draw(rows, x, names: list[str], model) -> None:
    import matplotlib

    matplotlib.use("Agg")

    from elbax.plot import style

    with style():
        _draw(rows, x, names, model)


def _draw(rows, x, names: list[str], model) -> None:
    import matplotlib.pyplot as plt

    from elbax.plot import ellipses

    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4.2))
    for (name, params, trace, *_), style in zip(rows, ("-", "--", "-.", ":"), strict=True):
        sweeps = np.arange(1, len(trace) + 1)
        (line,) = left.plot(sweeps, trace, style, label=name.split("  ")[0], lw=2)
        described = model.describe(params)
        if x.shape[1] > 1:
            look = {"color": line.get_color(), "linestyle": style, "lw": 2}
            ellipses(described["means"], described["covariances"], ax=right, **look)
        else:
            grid = np.linspace(x.min(), x.max(), 200)
            density = jax.vmap(lambda v, p=params: elbax.evidence(model, p, v[None, None]))(
                jnp.asarray(grid, x.dtype)
            )
            right.plot(grid, np.exp(density), style, color=line.get_color(), lw=2)
    # The first gradient steps may be far below EM's start, from which on the plot begins.
    low, high = float(rows[0][2][0]), max(float(trace.max()) for _, _, trace, *_ in rows)
    margin = 0.1 * (high - low) + 1e-3
    left.set(
        xscale="log",
        xlabel="sweep",
        ylabel="ELBO (nats per datum)",
        ylim=(low - margin, high + margin),
    )
    left.set_title("One scan, four updates")
    left.legend(loc="lower right")
    if x.shape[1] > 1:
        right.scatter(x[:, 0], x[:, 1], s=8, color="0.6", zorder=0)
        right.set(xlabel=names[0], ylabel=names[1], title="The components at 2 standard deviations")
    else:
        right.hist(np.asarray(x[:, 0]), bins=30, density=True, color="0.85", zorder=0)
        right.set(xlabel=names[0], ylabel="density", title="The fitted densities")
    figure.savefig(FIGURE, dpi=120)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m elbax",
        description="Fits one Gaussian mixture by four algorithms that differ in one word each.",
    )
    parser.add_argument("file", nargs="?", help="a numeric CSV; without it, Old Faithful")
    parser.add_argument(
        "--components", type=int, default=2, metavar="K", help="number of components (default 2)"
    )
    options = parser.parse_args(arguments)
    try:
        title, names, x = load(options.file)
        if options.components < 1:
            raise UnusableData(f"--components must be at least 1, got {options.components}")
        model = elbax.GaussianMixture(options.components)
        check_table(x, title, names, options.components)
    except UnusableData as problem:
        print(f"elbax: {problem}", file=sys.stderr)
        return 2
    plural = "s" if options.components > 1 else ""
    print(
        f"{title}: {x.shape[0]} rows, {x.shape[1]} columns; a Gaussian mixture of "
        f"{options.components} component{plural}, {SWEEPS} sweeps of each recipe from one start."
    )
    rows = fit_all(model, x, jax.random.key(0))
    report(rows, x.shape[0])
    draw(rows, x, names, model)
    print(f"Figure: {FIGURE}")
    return 0


def check_table(x: jax.Array, title: str, names: list[str], num_components: int) -> None:
    if len(x) < num_components:
        raise UnusableData(
            f"{title}: got {len(x)} rows for {num_components} components; expected at least one row per component"
        )
    constant = np.flatnonzero(np.asarray(x.max(0) == x.min(0)))
    if constant.size:
        raise UnusableData(
            f"{title}: {names[constant[0]]} has the same value in every row; remove this column"
        )


if __name__ == "__main__":
    sys.exit(main())
