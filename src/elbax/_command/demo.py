"""The demo: one mixture and one scan, with four algorithms that differ in one word each."""

import time

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax

import elbax

from . import extras
from .tables import UnusableData


FIGURE = "elbax-demo.png"
SWEEPS = 400
BLOCKS = 20
NAMES = ["eruption (min)", "waiting (min)"]


def run(num_components: int) -> int:
    """Runs the demo on Old Faithful; returns the exit status."""
    if num_components < 1:
        raise UnusableData(f"--components must be at least 1, got {num_components}")
    x, model = elbax.datasets.old_faithful(), elbax.GaussianMixture(num_components)
    plural = "s" if num_components > 1 else ""
    print(
        f"Old Faithful: {x.shape[0]} rows, {x.shape[1]} columns; a Gaussian mixture of "
        f"{num_components} component{plural}, {SWEEPS} sweeps of each recipe from one start."
    )
    rows = fit_all(model, x, jax.random.key(0))
    report(rows, x.shape[0])
    with extras.drawing() as pyplot:
        if pyplot is not None:
            draw(pyplot, rows, x, model).savefig(FIGURE)
            print(f"Figure: {FIGURE}")
    return 0


def recipes(model, params, x, key):
    """Yields (name, update, first state) of four algorithms."""
    key_network, key_state, key_warm = jax.random.split(key, 3)
    network = eqx.nn.MLP(
        x.shape[1], model.num_components, 32, 1, activation=jnp.tanh, key=key_network
    )
    encoder = elbax.Amortized(network, model.latent, standardize=x)

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


def run_in_blocks(update, state, x, progress):
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
    with extras.bar(4 * SWEEPS, "sweep") as progress:
        for name, update, state in recipes(model, params, x, key_recipes):
            progress.set_description(name.split("  ")[0])
            state, trace, seconds, compilation = run_in_blocks(update, state, x, progress)
            terms = jax.jit(lambda s, x: elbax.elbo_terms(model, s.params, s.posterior, x))(
                state, x
            )
            rows.append((name, state.params, trace, terms, seconds, compilation))
    return rows


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


def draw(pyplot, rows, x, model):
    """Returns a figure of the bounds and of the components."""
    from ..plot import ellipses

    figure, (left, right) = pyplot.subplots(1, 2, figsize=(11, 4.2))
    for (name, params, trace, *_), dashes in zip(rows, ("-", "--", "-.", ":"), strict=True):
        sweeps = np.arange(1, len(trace) + 1)
        (line,) = left.plot(sweeps, trace, dashes, label=name.split("  ")[0], lw=2)
        described = model.describe(params)
        look = {"color": line.get_color(), "linestyle": dashes, "lw": 2}
        ellipses(described["means"], described["covariances"], ax=right, **look)
    # The first gradient steps may be far below EM's start, from which on the plot begins.
    low, high = float(rows[0][2][0]), max(float(trace.max()) for _, _, trace, *_ in rows)
    margin = 0.1 * (high - low) + 1e-3
    left.set(
        xscale="log",
        xlabel="sweep",
        ylabel="ELBO (nats per datum)",
        ylim=(low - margin, high + margin),
        title="One scan, four updates",
    )
    left.legend(loc="lower right")
    right.scatter(*x.T, s=8, color="0.6", zorder=0)
    right.set(xlabel=NAMES[0], ylabel=NAMES[1], title="The components at 2 standard deviations")
    return figure
