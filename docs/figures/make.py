"""Draws a picture of every function of `elbax.plot`, on real data, into this folder.

python docs/figures/make.py             all of them
python docs/figures/make.py trace tree  these
"""

import io
import pathlib
import sys

import equinox as eqx
import jax
import jax.numpy as jnp
import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import optax
from PIL import Image
from sklearn.datasets import load_digits, load_iris, load_wine

import elbax
from elbax import plot


matplotlib.use("Agg")
FOLDER = pathlib.Path(__file__).parent
KEY = jax.random.key(0)
GEYSER = elbax.datasets.old_faithful()
NAMES = ["eruption (min)", "waiting (min)"]


def fitted(model, x, **options):
    return elbax.fit(elbax.em(model), x, key=KEY, **options)


def ellipses():
    model = elbax.GaussianMixture(2)
    described = model.describe(fitted(model, GEYSER).params)
    ax = plot.ellipses(described["means"], described["covariances"])
    ax.scatter(*GEYSER.T, s=8, color="0.6", linewidth=0)
    ax.set(xlabel=NAMES[0], ylabel=NAMES[1])


def old_faithful():
    """The picture of the page Getting started."""
    model = elbax.GaussianMixture(2)
    plot.classification(model, fitted(model, GEYSER).params, GEYSER, names=NAMES)


def classification():
    iris = load_iris(as_frame=True).data
    model = elbax.GaussianMixture(3)
    plot.classification(model, fitted(model, iris).params, iris, columns=(0, 1, 2))


def selection():
    models = {
        f"{kind}, {number}": elbax.GaussianMixture(number, kind)
        for kind in ("full", "tied", "diagonal", "tied_spherical")
        for number in (1, 2, 3, 4, 5)
    }
    iris = load_iris().data
    plot.selection(elbax.diagnostics.select(models, iris, key=KEY, num_restarts=4))


def trace():
    model = elbax.GaussianMixture(3)
    em = elbax.em(model)
    start = lambda key: em.init(model.init(key, GEYSER, init="random_from_data"), key=key)
    states = jax.vmap(start)(jax.random.split(KEY, 16))
    ax = plot.trace(elbax.fit_restarts(em, states, GEYSER, reject=model.collapsed))
    ax.set(xlim=(-2, 150), ylim=(-4.4, -4.05))


def density():
    model = elbax.GaussianMixture(3, "tied")
    params = fitted(model, GEYSER).params
    _, (left, right) = plt.subplots(1, 2, figsize=(8.5, 3.4))
    plot.density(model, params, GEYSER, names=NAMES, ax=left)
    plot.density(model, params, GEYSER, names=NAMES, columns=[1], ax=right)


def bound():
    model = elbax.GaussianMixture(2)
    params = model.init(jax.random.key(2), GEYSER[:20])
    network = eqx.nn.MLP(2, 2, 16, 1, activation=jnp.tanh, key=KEY)
    encoder = elbax.Amortized(network, model.latent, standardize=GEYSER)
    update = elbax.Chain(
        elbax.GradientEStep(model, optax.adam(0.02)),
        elbax.GradientMStep(model, optax.adam(0.01)),
    )

    @jax.jit
    def run(state):
        def step(state, _):
            found = elbax.elbo_terms(model, state.params, state.posterior, GEYSER)
            return update(state, GEYSER)[0], (found.evidence, found.elbo)

        return jax.lax.scan(step, state, length=150)[1]

    plot.bound(*run(update.init(params, encoder, key=KEY))).set_ylim(-6, -4)


def staircase():
    model = elbax.GaussianMixture(2)
    params = model.from_description(
        weights=[0.5, 0.5],
        means=[[3.0, 75.0], [4.0, 65.0]],
        covariances=[np.diag([1.0, 150.0])] * 2,
    )
    em = elbax.em(model)
    begun = elbax.fit(em, em.init(params, key=KEY), GEYSER, max_steps=9)
    plot.staircase(em, begun.state, GEYSER, 5)


def hidden_markov():
    counts = elbax.datasets.earthquakes()
    model = elbax.HiddenMarkovModel(elbax.components.Poisson(), 3)
    params = fitted(model, counts[None]).params
    names = [f"{rate:.0f} a year" for rate in model.describe(params)["rates"][:, 0]]
    years = 1900 + np.arange(len(counts))
    top, bottom = plot.hidden_markov(model, params, counts, times=years, names=names)
    top.set_ylabel("earthquakes")
    bottom.set_xlabel("year")


def state_space():
    flow = np.array(elbax.datasets.nile())
    flow[20:40] = np.nan
    model = elbax.LinearGaussianStateSpace(1)
    params = model.from_description(
        initial_mean=[1000.0],
        initial_covariance=[[1e6]],
        transition=[[1.0]],
        transition_covariance=[[1500.0]],
        emission=[[1.0]],
        emission_covariance=[[15000.0]],
    )
    ax = plot.state_space(model, params, flow, times=1871 + np.arange(len(flow)))
    ax.set(xlabel="year", ylabel="flow of the Nile, 10⁸ m³")


def factors():
    """Two factors of nine columns of the wines, in units of their deviations."""
    wine = load_wine(as_frame=True)
    x = wine.data.drop(columns=["ash", "magnesium", "proanthocyanins", "flavanoids"])
    x = ((x - x.mean()) / x.std()).rename(columns={"od280/od315_of_diluted_wines": "dilution"})
    model = elbax.FactorAnalysis(2)
    return model, fitted(model, x).params, x, wine.target_names[wine.target]


def loadings():
    model, params, x, _ = factors()
    plot.loadings(model.describe(params)["loadings"], names=list(x.columns))


def biplot():
    model, params, x, kinds = factors()
    scores = jax.jit(jax.vmap(lambda row: elbax.Exact(model, params)(row).mode()))(x.to_numpy())
    values = model.describe(params)["loadings"]
    plot.biplot(scores, values, labels=kinds, names=list(x.columns))


def autoencoder(dim=2):
    """A decoder and an encoder of digits with a few latents."""
    digits = load_digits()
    x = jnp.asarray(digits.data / 16, jnp.float32)
    keys = jax.random.split(KEY, 4)

    def likelihood(decoder, x, z):
        logits = decoder(z)
        return (x * logits - jax.nn.softplus(logits)).sum()

    family = elbax.DiagonalGaussian(dim)
    model = elbax.Model(
        likelihood=likelihood,
        prior=lambda params, x: (jnp.zeros(dim), jnp.ones(dim)),
        latent=family,
    )
    decoder = elbax.Network(eqx.nn.MLP(dim, 64, 128, 2, key=keys[0]))
    encoder = elbax.Amortized(eqx.nn.MLP(64, 2 * dim, 128, 2, key=keys[1]), family)
    step = elbax.JointGradientStep(model, optax.adam(2e-3))
    rows = jax.random.randint(keys[2], (6000, 100), 0, len(x))
    run = jax.jit(lambda state: jax.lax.scan(lambda s, row: step(s, x[row]), state, rows)[0])
    return run(step.init(decoder, encoder, key=keys[3])), x, digits.target


def latent():
    state, x, labels = autoencoder()
    plot.latent(state.posterior, x, labels)


def decodings():
    state, _, _ = autoencoder()
    plot.decodings(lambda z: jax.nn.sigmoid(state.params(z)), (8, 8))


def images():
    state, x, _ = autoencoder()
    decode = jax.jit(jax.vmap(lambda z: jax.nn.sigmoid(state.params(z))))
    rows = {
        "data": x[:12],
        "reconstructions": decode(jax.vmap(lambda row: state.posterior(row).mode())(x[:12])),
        "draws": decode(jax.random.normal(KEY, (12, 2))),
    }
    plot.images(rows, (8, 8))


def traversals():
    state, _, _ = autoencoder(6)
    plot.traversals(lambda z: jax.nn.sigmoid(state.params(z)), jnp.zeros(6), (8, 8))


def estimates():
    model = elbax.GaussianMixture(3)
    iris = load_iris()
    result = fitted(model, iris.data)
    values = model.describe(result.params)["means"]
    errors = elbax.diagnostics.standard_errors(model, result.params, iris.data)["means"]
    names = [f"{name}, {k}" for k in range(3) for name in iris.feature_names]
    plot.estimates(values, errors, names=names)


def predictive():
    model = elbax.GaussianMixture(2)
    draws, _ = model.sample(fitted(model, GEYSER).params, KEY, 500)
    _, (left, right) = plt.subplots(1, 2, figsize=(8.5, 3.4))
    plot.predictive(GEYSER, draws, names=NAMES, ax=left)
    plot.predictive(GEYSER, draws, names=NAMES, columns=[1], ax=right)


def tree():
    """The sentence of every textbook, under a grammar that attaches the telescope to the verb."""
    symbols = ["S", "NP", "VP", "PP", "D", "N", "V", "P"]
    vocabulary = {"D": "the", "N": "man dog telescope", "V": "saw", "P": "with"}
    words = " ".join(vocabulary.values()).split()
    rules = {"S NP VP": 1.0, "NP D N": 0.9, "NP NP PP": 0.1, "VP V NP": 0.6, "VP VP PP": 0.4}
    binary, emission = np.zeros((4, 8, 8)), np.zeros((4, len(words)))
    for rule, share in {**rules, "PP P NP": 1.0}.items():
        binary[tuple(map(symbols.index, rule.split()))] = share
    for row, names in zip(emission, vocabulary.values()):
        row[list(map(words.index, names.split()))] = 1
    model = elbax.ContextFreeGrammar(4, 4, len(words))
    params = model.from_description(root=[1, 0, 0, 0], binary=binary, emission=emission)
    sentence = "the man saw the dog with the telescope".split()
    x = jnp.array(list(map(words.index, sentence)))
    z = jax.jit(lambda x: elbax.Exact(model, params)(x).mode())(x)
    plot.tree(z, sentence, symbols)


PICTURES = (
    old_faithful,
    *(ellipses, classification, selection, trace, density, bound, staircase, hidden_markov),
    *(state_space, loadings, biplot, latent, decodings, images, traversals, estimates, predictive),
    tree,
)


def save(figure, path):
    """Writes a figure in 64 colours, a quarter of the size."""
    buffer = io.BytesIO()
    figure.savefig(buffer)
    Image.open(buffer).convert("RGB").quantize(64).save(path, optimize=True)


def main(names):
    for draw in PICTURES:
        if names and draw.__name__ not in names:
            continue
        with plot.style():
            draw()
            save(plt.gcf(), FOLDER / f"{draw.__name__}.png")
            plt.close("all")
        print(draw.__name__)


if __name__ == "__main__":
    main(sys.argv[1:])
