"""What the rows of the table cost beside exact EM, what wrappers save, and how noisy the estimators are.

python benchmarks/whole_table.py    prints the tables, writes results/whole_table.md
make benchmark                      the same functions, one pytest-benchmark each

How it is measured stands in `measuring.py`.
"""

import time
from collections.abc import Iterator
from pathlib import Path

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import sklearn
from measuring import heading, markdown, ratio, Row, Run, seconds, slopes, spread, sweeps, write
from sklearn.datasets import load_digits, load_wine

import elbax
from elbax import estimators


RESULTS = Path(__file__).parent / "results" / "whole_table.md"


# --- A sweep of each row and column -------------------------------------------------------------------


def cells(num_data: int, dim: int, num_components: int) -> dict:
    """(update, posterior) of each E-step with a closed form, and of the exact one with other M-steps."""
    rng = np.random.default_rng(0)
    which = rng.integers(num_components, size=num_data)
    centers = 2 * rng.normal(size=(num_components, dim))
    x = jnp.asarray(centers[which] + rng.normal(size=(num_data, dim)), jnp.float32)
    model = elbax.GaussianMixture(num_components)
    params = model.init(jax.random.key(0), x)
    exact = elbax.Exact(model, params)
    network = eqx.nn.MLP(dim, num_components, 32, 1, key=jax.random.key(1))
    encoder = elbax.Amortized(network, model.latent)
    adam = optax.adam(1e-3)
    closed, bayes = elbax.ClosedFormMStep(model), elbax.ExactEStep(model)
    local = elbax.LocalGradientEStep(model, optax.sgd(1.0), num_steps=5)
    semi = elbax.posteriors.SemiAmortized(encoder, exact, optax.sgd(0.3), 3)
    found = {
        "exact": (bayes, closed, exact),
        "hard": (elbax.HardEStep(model), closed, elbax.posteriors.Hard(exact)),
        "mean field": (
            elbax.MeanFieldEStep(model),
            closed,
            elbax.posteriors.MeanField.init(model, params, x),
        ),
        "local gradient, 5 steps": (
            local,
            closed,
            elbax.posteriors.Local(jnp.zeros((num_data, num_components)), model.latent),
        ),
        "encoder, 32 hidden": (elbax.GradientEStep(model, adam), closed, encoder),
        "encoder, then 3 local steps": (elbax.GradientEStep(model, adam), closed, semi),
        "Monte Carlo, 1 draw": (
            elbax.MonteCarloEStep(model),
            closed,
            elbax.posteriors.MonteCarlo(exact, 1),
        ),
        "Monte Carlo, 10 draws": (
            elbax.MonteCarloEStep(model),
            closed,
            elbax.posteriors.MonteCarlo(exact, 10),
        ),
        "exact × gradient": (bayes, elbax.GradientMStep(model, adam), exact),
        "exact × online": (bayes, elbax.OnlineMStep(model, rate=0.5), exact),
        "exact × L-BFGS, 1 step": (bayes, elbax.NumericalMStep(model, max_steps=1), exact),
    }
    made = {}
    for name, (e_step, m_step, posterior) in found.items():
        update = elbax.Chain(e_step, m_step)
        made[name] = update, update.init(params, posterior, key=jax.random.key(2)), x
    return made


def compile_seconds(run: Run) -> float:
    """A first call's time less a second one's: tracing and compiling."""
    return seconds(run, 1) - seconds(run, 1)


def rows(num_data: int = 100_000, dim: int = 16, num_components: int = 16) -> list[Row]:
    made = cells(num_data, dim, num_components)
    runs = {name: sweeps(*parts) for name, parts in made.items()}
    compiling = {name: compile_seconds(run) for name, run in runs.items()}
    found = slopes(runs, (1, 4), 5)
    return [
        {
            "E-step × M-step": name if "×" in name else f"{name} × closed form",
            "ms a sweep": spread(found[name], 1e-3),
            "/ exact EM": ratio(found[name], found["exact"]),
            "compile, s": f"{compiling[name]:.1f}",
        }
        for name in runs
    ]


# --- Accelerate ---------------------------------------------------------------------------------------


def hasselblad() -> tuple:
    model = elbax.Mixture(elbax.components.Poisson(), 2)
    days = jnp.array([162, 267, 271, 185, 111, 61, 27, 8, 3, 1])
    params = model.from_description(weights=[0.5, 0.5], rates=[[1.0], [3.0]])
    return model, params, elbax.Batch(jnp.arange(10.0)[:, None], weight=days)


def overlapping() -> tuple:
    """Two normals, 1.5 standard deviations apart in each of two columns."""
    rng = np.random.default_rng(1)
    x = jnp.asarray(rng.normal(size=(5_000, 2)) + 1.5 * (rng.random((5_000, 1)) < 0.4))
    model = elbax.GaussianMixture(2, form="difference")
    params = model.from_description(
        weights=[0.5, 0.5], means=x[:2], covariances=jnp.broadcast_to(jnp.eye(2), (2, 2, 2))
    )
    return model, params, x


def acceleration(name: str) -> list[Row]:
    """EM, and EM extrapolated, from one start until `fit` sees no more to gain (float64)."""
    with jax.enable_x64(True):
        model, params, batch = {"Hasselblad": hasselblad, "overlapping": overlapping}[name]()
        em = elbax.em(model)
        found = []
        for kind, update in {"EM": em, "Accelerate": elbax.wrappers.Accelerate(em)}.items():
            state = update.init(params, elbax.Exact(model, params), key=jax.random.key(0))

            def run(update=update, state=state, batch=batch):
                return elbax.fit(update, state, batch, max_steps=20_000, tolerance=1e-12)

            result = run()
            times = np.array([seconds(run) for _ in range(5)])
            memory = result.state.memory
            count = int(memory.evaluations) if kind == "Accelerate" else result.num_steps
            found.append((kind, count, times, result))
        best = max(float(result.elbo) for *_, result in found)
        return [
            {
                "data": name,
                "update": kind,
                "evaluations": count,
                "ms": spread(times, 1e-3),
                "time / EM": ratio(times, found[0][2]),
                "nats per datum below the better": f"{best - float(result.elbo):.0e}",
                "ended": result.code,
            }
            for kind, count, times, result in found
        ]


# --- Mean field on a grid -----------------------------------------------------------------------------


def checkerboard(field: np.ndarray, coupling: float) -> Run:
    """n rounds of m = tanh(h + J Σ m) in NumPy, white fields, then black ones."""
    row, column = np.indices(field.shape)
    colors = [(row + column) % 2 == color for color in (0, 1)]

    def run(n):
        around = np.zeros((field.shape[0] + 2, field.shape[1] + 2), field.dtype)
        m = around[1:-1, 1:-1]
        m[:] = np.tanh(field)
        for _ in range(n):
            for color in colors:
                total = around[:-2, 1:-1] + around[2:, 1:-1] + around[1:-1, :-2] + around[1:-1, 2:]
                np.copyto(m, np.tanh(field + coupling * total), where=color)
        return m

    return run


def potts(unary: np.ndarray, below: np.ndarray, beside: np.ndarray) -> Run:
    """n rounds in NumPy with a table for each pair of neighbors, as elbax has it."""
    row, column = np.indices(unary.shape[:2])
    colors = [(row + column)[:, :, None] % 2 == color for color in (0, 1)]
    # Products with a table of few values are faster in the open than as a matrix product.
    values = range(unary.shape[2])

    def softmax(total):
        shares = np.exp(total - total.max(-1, keepdims=True))
        return shares / shares.sum(-1, keepdims=True)

    def run(n):
        shares = softmax(unary)
        for _ in range(n):
            for color in colors:
                total = unary.copy()
                for k in values:
                    total[:-1] += below[..., k] * shares[1:, :, k, None]
                    total[1:] += below[..., k, :] * shares[:-1, :, k, None]
                    total[:, :-1] += beside[..., k] * shares[:, 1:, k, None]
                    total[:, 1:] += beside[..., k, :] * shares[:, :-1, k, None]
                np.copyto(shares, softmax(total), where=color)
        return shares[:, :, 1] - shares[:, :, 0]

    return run


def grid(size: int = 64) -> Row:
    """A round of mean field over an Ising grid, float32, beside NumPy."""
    field = np.random.default_rng(2).normal(size=(size, size)).astype(np.float32)
    coupling = np.float32(0.3)
    spin = jnp.array([-1.0, 1.0], jnp.float32)
    same = coupling * jnp.outer(spin, spin)
    # The limit is on tables of exact inference, of which mean field makes none.
    family = elbax.families.factored(elbax.families.GridGraph(size, size, 2, limit=2 ** (size + 1)))
    potentials = {
        "unary": field[:, :, None] * spin,
        "below": jnp.broadcast_to(same, (size - 1, size, 2, 2)),
        "beside": jnp.broadcast_to(same, (size, size - 1, 2, 2)),
    }

    @jax.jit
    def rounds(n):
        step = lambda _, natural: family.ascend(natural, potentials)
        natural = jax.lax.fori_loop(0, n, step, family.start(potentials))
        return family.parts.mean(natural)["unary"] @ spin

    ours = lambda n: jax.block_until_ready(rounds(n))
    spins = checkerboard(field, float(coupling))
    tables = potts(*(np.array(potentials[name]) for name in ("unary", "below", "beside")))
    apart = max(np.abs(np.asarray(ours(50)) - theirs(50)).max() for theirs in (spins, tables))
    found = slopes({"elbax": ours, "tables": tables, "spins": spins}, (10, 210), 7)
    return {
        "grid": f"{size} x {size}",
        "elbax, ms a round": spread(found["elbax"], 1e-3),
        "NumPy with tables, ms": spread(found["tables"], 1e-3),
        "NumPy's tanh of spins, ms": spread(found["spins"], 1e-3),
        "tables / elbax": ratio(found["tables"], found["elbax"]),
        "spins / elbax": ratio(found["spins"], found["elbax"]),
        "largest difference after 50 rounds": f"{apart:.0e}",
    }


def blocks() -> list[Row]:
    """What blocks leave of the gap: 20 noisy digits under an Ising grid, strongly coupled downward."""
    rng = np.random.default_rng(0)
    images = (load_digits().images[:20] > 7).astype(float)
    noisy = np.where(rng.random(images.shape) < 0.12, 1 - images, images)
    spin = jnp.array([-1.0, 1.0])
    same = jnp.outer(spin, spin)
    unary = jnp.asarray((noisy - 0.5)[..., None] * np.log(0.88 / 0.12), jnp.float32) * spin
    below = jnp.broadcast_to(0.375 * same, (7, 8, 2, 2))
    beside = jnp.broadcast_to(0.1 * same, (8, 7, 2, 2))
    site = np.arange(64).reshape(8, 8)
    graph = elbax.families.FactorGraph(
        [2] * 64,
        [*zip(site[:-1].ravel(), site[1:].ravel())]
        + [*zip(site[:, :-1].ravel(), site[:, 1:].ravel())]
        + [(i,) for i in range(64)],
    )
    pairs = (*below.reshape(-1, 2, 2), *beside.reshape(-1, 2, 2))
    whole = elbax.families.GridGraph(8, 8, 2)
    total = jax.jit(jax.vmap(whole.log_normalizer, ({"unary": 0, "below": None, "beside": None},)))
    evidence = total({"unary": unary, "below": below, "beside": beside})

    found = []
    for name, parts in {
        "single pixels": [[i] for i in range(64)],
        "rows": site.tolist(),
        "columns": site.T.tolist(),
    }.items():
        family = elbax.families.factored(graph, parts)

        def bound(unary, family=family):
            potentials = (*pairs, *unary.reshape(64, 2))
            step = lambda _, q: family.ascend(q, potentials)
            q = jax.lax.fori_loop(0, 30, step, family.start(potentials))
            return family.bound(q, potentials)

        run = jax.jit(jax.vmap(bound))
        begin = time.perf_counter()
        program = run.lower(unary).compile()
        compiling = time.perf_counter() - begin
        gap = float(jnp.mean(evidence - program(unary)))
        found.append(
            {"blocks": name, "KL, nats an image": f"{gap:.3f}", "compile, s": f"{compiling:.1f}"}
        )
    return found


# --- Estimators ---------------------------------------------------------------------------------------


def linear_gaussian() -> tuple:
    """Factor analysis of the wines, rotated so that the factors are independent given x."""
    x = load_wine().data
    x = jnp.asarray((x - x.mean(0)) / x.std(0))
    model = elbax.FactorAnalysis(2, floor=0.0)
    loadings = 0.2 * jax.random.normal(jax.random.key(0), (13, 2))
    params = model.from_description(mean=jnp.zeros(13), loadings=loadings, noise=jnp.ones(13))
    em = elbax.Chain(elbax.MeanFieldEStep(model), elbax.ClosedFormMStep(model))
    state = em.init(
        params, elbax.posteriors.MeanField.init(model, params, x), key=jax.random.key(0)
    )
    run = jax.jit(lambda s: jax.lax.scan(lambda s, _: em(s, x), s, length=1000)[0])
    return x, run(state).params


def log_joint(params, x, z):
    norm = jax.scipy.stats.norm
    center = params["mean"] + params["loadings"] @ z
    return norm.logpdf(z).sum() + norm.logpdf(x, center, jnp.exp(params["log_noise"])).sum()


def variances(num_samples: int = 10, number: int = 500) -> list[Row]:
    """Variance of the gradient in q's outputs, mean over outputs and wines (float64)."""
    with jax.enable_x64(True):
        x, params = linear_gaussian()
        scaled = params["loadings"] * jnp.exp(-2 * params["log_noise"])[:, None]
        precision = 1 + jnp.sum(params["loadings"] * scaled, 0)
        mean = (x - params["mean"]) @ scaled / precision
        at = jnp.concatenate([mean, jnp.broadcast_to(-0.5 * jnp.log(precision), mean.shape)], 1)
        off = jnp.concatenate([mean + 0.3, jnp.full_like(mean, -0.5)], 1)
        x, at, off = x[::9], at[::9], off[::9]
        family = elbax.DiagonalGaussian(2)

        def gradients(estimator, outputs):
            model = elbax.Model(log_joint, family, estimator=estimator)

            def bound(output, x, key):
                return model.elbo(params, x, family(family.from_network(output)), key)

            def once(key):
                keys = jax.random.split(key, len(x))
                return jax.vmap(jax.grad(bound))(outputs, x, keys)

            keys = jax.random.split(jax.random.key(1), number)
            return np.asarray(jax.jit(lambda keys: jax.lax.map(once, keys))(keys))

        truth = {"off": gradients(estimators.Quadrature(3), off)[0]}
        truth["at"] = gradients(estimators.Quadrature(3), at)[0]
        found = []
        for kind in (
            estimators.Reparameterized,
            estimators.StickingTheLanding,
            estimators.ScoreFunction,
            estimators.ImportanceWeighted,
            estimators.DoublyReparameterized,
        ):
            row: Row = {f"{num_samples} draws": kind.__name__}
            for place, outputs in (("off", off), ("at", at)):
                g = gradients(kind(num_samples), outputs)
                name = "q off the posterior" if place == "off" else "q = p(z given x)"
                row[f"variance, {name}"] = f"{g.var(0).mean():.2g}"
                bias = np.sqrt(((g.mean(0) - truth[place]) ** 2).mean())
                error = np.sqrt((g.var(0) / len(g)).mean())
                row[f"distance from the ELBO's (noise), {name}"] = f"{bias:.1g} ({error:.1g})"
            found.append(row)
        return found


def report() -> Iterator[str]:
    """The results file, part by part as it is measured."""
    yield heading(
        "The whole table",
        "python benchmarks/whole_table.py",
        {"scikit-learn": sklearn, "numpy": np},
        "float32 where nothing else is said.",
    )
    yield "## A sweep of each row and column: 100k x 16, Gaussian mixture, K = 16, full"
    yield "A sweep is one step of the chain, whatever it gains."
    yield markdown(rows())
    yield "## Accelerate (SQUAREM), whole fits, float64"
    yield markdown(acceleration("Hasselblad") + acceleration("overlapping"))
    yield "## A round of mean field on an Ising grid, beside NumPy's checkerboard"
    yield (
        "elbax takes any table for any pair of neighbors; so does the first of the peers. The second knows that "
        "there are two values and one coupling."
    )
    yield markdown([grid(64), grid(256)])
    yield "## What larger blocks leave of the gap: 8 x 8 digits, couplings 0.375 downward and 0.1 beside"
    yield markdown(blocks())
    yield "## Noise of the estimators, linear-Gaussian model of the wines, float64"
    yield (
        "Gradients in q's means and log standard deviations. The last two estimate the gradient of a tighter "
        "bound than the ELBO, hence their distance off the posterior."
    )
    yield markdown(variances())


if __name__ == "__main__":
    write(RESULTS, report())
