"""What cannot be is refused by whatever public function it comes to, in words that name it."""

import datetime
import decimal
import functools
import inspect

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pandas as pd
import pytest
import scipy.sparse

import elbax
from elbax import components, priors


KEY = jax.random.key(0)
X = np.asarray(elbax.datasets.old_faithful()[:12], float)
NAN = np.where(np.arange(24).reshape(12, 2) == 7, np.nan, X)
MODEL = elbax.GaussianMixture(2)
EM = elbax.em(MODEL)
FRAME = pd.DataFrame(X, columns=["eruption", "waiting"])
SQUARES = np.stack([np.eye(2)] * 3)


def mixture(component, number=2):
    return elbax.Mixture(component, number)


@functools.cache
def normals(number=2):
    return elbax.GaussianMixture(number).from_description(
        weights=np.ones(number),
        means=np.arange(2.0 * number).reshape(number, 2),
        covariances=SQUARES[:number],
    )


@functools.cache
def given(kind):
    """(model, params) of each kind, from numbers."""
    half = [0.5, 0.5]
    if kind == "poisson":
        model = mixture(components.Poisson())
        return model, model.from_description(weights=half, rates=[[1.0], [3.0]])
    if kind == "bernoulli":
        model = mixture(components.Bernoulli())
        return model, model.from_description(weights=half, probabilities=[[0.2], [0.8]])
    if kind == "categorical":
        model = mixture(components.Categorical(2))
        return model, model.from_description(weights=half, probabilities=[[half], [[0.1, 0.9]]])
    if kind == "gamma":
        model = mixture(components.Gamma())
        return model, model.from_description(
            weights=half, shapes=[[1.0], [2.0]], rates=[[1.0], [1.0]]
        )
    if kind == "multinomial":
        model = mixture(components.Multinomial())
        return model, model.from_description(weights=half, probabilities=[half, [0.1, 0.9]])
    if kind == "regression":
        model = mixture(components.LinearRegression())
        params = model.from_description(
            weights=half, coefficients=[[0.0, 1.0], [1.0, 0.0]], deviations=[1.0, 1.0]
        )
        return model, params
    if kind == "hidden":
        model = elbax.HiddenMarkovModel(components.Normal("diagonal"), 2)
        return model, model.from_description(
            initial=half,
            transition=[half, half],
            means=[[0.0], [1.0]],
            covariances=np.ones((2, 1, 1)),
        )
    if kind == "network":
        model = elbax.BayesianNetwork((2, 2), ((), (0,)))
        return model, model.from_description(tables=[half, [half, half]])
    if kind == "grammar":
        model = elbax.ContextFreeGrammar(1, 1, 2)
        return model, model.from_description(root=[1.0], binary=np.ones((1, 2, 2)), emission=[half])
    if kind == "factors":
        model = elbax.FactorAnalysis(1)
        return model, model.from_description(mean=[0.0, 0.0], loadings=[[1.0], [1.0]], noise=half)
    if kind == "states":
        model = elbax.LinearGaussianStateSpace(1)
        one = [[1.0]]
        return model, model.from_description(
            initial_mean=[0.0],
            initial_covariance=one,
            transition=one,
            transition_covariance=one,
            emission=one,
            emission_covariance=one,
        )
    model = elbax.ConnectionistTemporalClassification()
    return model, elbax.Network(lambda w, x: x @ w, jnp.zeros((4, 4)))


def evidence(kind, x):
    return elbax.evidence(*given(kind), x)


def posterior(kind, x):
    return elbax.Exact(*given(kind))(x)


def described(kind, **changes):
    """`from_description` of a kind, with some of it exchanged."""
    model, params = given(kind)
    return model.from_description(**(model.describe(params) | changes))


def fit(x=X, update=EM, **options):
    state = update.init(normals(), elbax.Exact(MODEL, normals()), key=KEY)
    return elbax.fit(update, state, x, **options)


def normal_description(**changes):
    numbers = {"weights": [0.5, 0.5], "means": np.zeros((2, 2)), "covariances": SQUARES[:2]}
    return MODEL.from_description(**(numbers | changes))


def without(params, *path):
    *outer, last = path
    if outer:
        return params | {outer[0]: without(params[outer[0]], *outer[1:], last)}
    return {name: leaf for name, leaf in params.items() if name != last}


BAD = {
    # --- data, at every door
    "nan": (
        lambda: elbax.evidence(MODEL, normals(), NAN),
        ValueError,
        "evidence: row 3, column 1 is nan",
    ),
    "nan elbo": (
        lambda: elbax.elbo(MODEL, normals(), elbax.Exact(MODEL, normals()), NAN),
        ValueError,
        "elbo: row 3",
    ),
    "nan terms": (
        lambda: elbax.elbo_terms(MODEL, normals(), elbax.Exact(MODEL, normals()), NAN),
        ValueError,
        "elbo_terms: row 3",
    ),
    "nan criteria": (
        lambda: elbax.diagnostics.information_criteria(MODEL, normals(), NAN),
        ValueError,
        "criteria: row 3",
    ),
    "nan information": (
        lambda: elbax.diagnostics.observed_information(MODEL, normals(), NAN),
        ValueError,
        "information: row 3",
    ),
    "nan errors": (
        lambda: elbax.diagnostics.standard_errors(MODEL, normals(), NAN),
        ValueError,
        "standard_errors: row 3",
    ),
    "nan fit": (lambda: fit(NAN), ValueError, "fit: row 3, column 1 is nan"),
    "nan init": (lambda: MODEL.init(KEY, NAN), ValueError, "init: row 3, column 1 is nan"),
    "nan posterior": (
        lambda: elbax.Exact(MODEL, normals())(NAN[3]),
        ValueError,
        "Exact: .*column 1 is nan",
    ),
    "nan mode": (
        lambda: elbax.posteriors.Hard(elbax.Exact(MODEL, normals()))(NAN[3]),
        ValueError,
        "column 1 is nan",
    ),
    "nan draws": (
        lambda: elbax.posteriors.MonteCarlo(elbax.Exact(MODEL, normals()), 2)(NAN[3], key=KEY),
        ValueError,
        "column 1 is nan",
    ),
    "nan step": (
        lambda: posterior("hidden", np.array([[0.0], [np.nan]])),
        ValueError,
        "step 1, column 0 is nan",
    ),
    "nan compress": (lambda: elbax.compress(NAN), ValueError, "compress: row 3"),
    "infinity": (
        lambda: elbax.evidence(MODEL, normals(), X * np.inf),
        ValueError,
        "row 0, column 0 is inf",
    ),
    "nan by name": (
        lambda: elbax.evidence(MODEL, normals(), FRAME.mask(np.isnan(NAN))),
        ValueError,
        "row 3, column 'waiting' is nan",
    ),
    "masked": (
        lambda: elbax.evidence(MODEL, normals(), np.ma.masked_invalid(NAN)),
        ValueError,
        "row 3, column 1 is nan",
    ),
    "no rows": (
        lambda: elbax.evidence(MODEL, normals(), X[:0]),
        ValueError,
        r"both at least 1; got \(0, 2\)",
    ),
    "a vector": (
        lambda: elbax.evidence(MODEL, normals(), X[:, 0]),
        ValueError,
        r"Pass one column as x\[:, None\]",
    ),
    "a cube": (lambda: elbax.evidence(MODEL, normals(), X[None]), ValueError, r"got \(1, 12, 2\)"),
    "columns": (
        lambda: elbax.evidence(MODEL, normals(), X[:, :1]),
        ValueError,
        r"shape \(2,\), got \(1,\)",
    ),
    "a pair": (
        lambda: elbax.evidence(MODEL, normals(), (X, X)),
        ValueError,
        "expected one table .* got a tuple",
    ),
    "no pair": (lambda: evidence("regression", X), ValueError, r"a pair \(inputs, target\)"),
    "a negative count": (
        lambda: evidence("poisson", [[1], [-2]]),
        ValueError,
        "counts 0, 1, 2, ...; row 1, column 0 is -2",
    ),
    "half a count": (lambda: evidence("poisson", [[0.5]]), ValueError, "counts .* is 0.5"),
    "a third value": (
        lambda: evidence("bernoulli", [[2.0]]),
        ValueError,
        "zeros and ones; row 0, column 0 is 2",
    ),
    "no such category": (
        lambda: evidence("categorical", [[2]]),
        ValueError,
        "below num_values = 2; .* is 2",
    ),
    "not positive": (
        lambda: evidence("gamma", [[0.0]]),
        ValueError,
        "positive numbers; row 0, column 0 is 0",
    ),
    "half a ball": (lambda: evidence("multinomial", [[0.5, 1.0]]), ValueError, "counts .* is 0.5"),
    "no such value": (
        lambda: evidence("network", [[0, 3]]),
        ValueError,
        r"below sizes = \(2, 2\); row 0, column 1 is 3",
    ),
    "one word": (
        lambda: evidence("grammar", np.zeros((1, 1), int)),
        ValueError,
        "at least 2 words",
    ),
    "no such word": (lambda: evidence("grammar", np.array([[0, 5]])), ValueError, "word 1 is 5"),
    "words as numbers": (
        lambda: evidence("grammar", np.zeros((1, 3))),
        ValueError,
        "integers of shape",
    ),
    "no alignment": (
        lambda: evidence("ctc", (np.zeros((1, 2, 4)), np.array([[1, 1]]))),
        ValueError,
        "no alignment exists",
    ),
    "the blank": (
        lambda: evidence("ctc", (np.zeros((1, 5, 4)), np.array([[1, 0]]))),
        ValueError,
        "has the blank, 0",
    ),
    "posterior count": (lambda: posterior("poisson", [-1]), ValueError, "counts .* is -1"),
    "posterior category": (lambda: posterior("categorical", [2]), ValueError, "below num_values"),
    "posterior bit": (lambda: posterior("bernoulli", [0.3]), ValueError, "zeros and ones"),
    "posterior table": (
        lambda: elbax.Exact(MODEL, normals())(X),
        ValueError,
        "A posterior takes one row",
    ),
    # --- sequences
    "one sequence": (
        lambda: evidence("hidden", np.zeros((1, 107))),
        ValueError,
        r"1 sequences of 107 steps and one column as x\[:, :, None\]",
    ),
    "one column": (
        lambda: evidence("hidden", np.zeros(107)),
        ValueError,
        r"Pass one sequence as x\[None, :, None\]",
    ),
    "nan in a state space": (
        lambda: evidence("states", np.full((1, 4, 1), np.nan)),
        ValueError,
        "elbax.sequences",
    ),
    "lengths": (
        lambda: evidence("hidden", elbax.Sequence(np.zeros((1, 3, 1)), np.array([5]))),
        ValueError,
        "between 1 and 3",
    ),
    "no sequences": (lambda: elbax.sequences([]), ValueError, "at least one sequence"),
    "no steps": (
        lambda: elbax.sequences([np.zeros((0, 1))]),
        ValueError,
        "sequence 0 has no steps",
    ),
    "lengths that differ": (
        lambda: elbax.sequences(X, lengths=[5, 5]),
        ValueError,
        "add up to 10, but the data have 12",
    ),
    "steps that differ": (
        lambda: elbax.sequences([X, X[:, :1]]),
        ValueError,
        "sequence 1 has steps of shape",
    ),
    "a frame for a list": (lambda: elbax.sequences(FRAME), TypeError, "lengths="),
    # --- tables
    "text": (
        lambda: MODEL.init(KEY, FRAME.assign(kind="short")),
        TypeError,
        "Column 'kind' holds 'short', .* encode it as 0, 1",
    ),
    "categories": (
        lambda: MODEL.init(KEY, FRAME.assign(kind=pd.Categorical(["a", "b"] * 6))),
        TypeError,
        "Column 'kind' holds 'a'",
    ),
    "a date": (
        lambda: elbax.evidence(MODEL, normals(), FRAME.assign(waiting=pd.Timestamp("2020-01-01"))),
        TypeError,
        "Column 'waiting' holds",
    ),
    "twice one name": (
        lambda: elbax.evidence(MODEL, normals(), pd.DataFrame(X, columns=["a", "a"])),
        ValueError,
        "several columns .*'a'",
    ),
    "a missing value": (
        lambda: elbax.evidence(
            MODEL, normals(), FRAME.assign(waiting=pd.array([1, None] * 6, "Int64"))
        ),
        ValueError,
        "row 1, column 'waiting' is nan",
    ),
    "a ragged list": (
        lambda: elbax.evidence(MODEL, normals(), [[1.0, 2.0], [3.0]]),
        ValueError,
        "a table needs rows of one length",
    ),
    "a list of words": (
        lambda: elbax.evidence(MODEL, normals(), [["a", "b"]]),
        TypeError,
        "holds 'a'",
    ),
    "an array of words": (
        lambda: elbax.evidence(MODEL, normals(), np.array([["1", "2"]])),
        TypeError,
        "holds '1'",
    ),
    "objects": (
        lambda: elbax.evidence(MODEL, normals(), np.array([[1.0, object()]], object)),
        TypeError,
        "but numbers are expected",
    ),
    "dates": (
        lambda: elbax.evidence(
            MODEL, normals(), np.array([[1, datetime.date(2020, 1, 1)]], object)
        ),
        TypeError,
        "datetime.date",
    ),
    "complex": (
        lambda: elbax.evidence(MODEL, normals(), X + 1j),
        TypeError,
        "numbers are expected",
    ),
    "sparse": (
        lambda: elbax.evidence(MODEL, normals(), scipy.sparse.csr_array(X)),
        TypeError,
        r"x.toarray\(\)",
    ),
    "missing twice": (
        lambda: elbax.incomplete(elbax.incomplete(X)),
        ValueError,
        "already grouped by its missing columns",
    ),
    "nothing seen": (
        lambda: elbax.incomplete([[None, None], [1.0, 2.0]]),
        ValueError,
        "row 0 is missing in all columns",
    ),
    "ragged moments": (
        lambda: elbax.from_moments(np.zeros(2), np.eye(3), 5),
        ValueError,
        r"covariance must have shape \(2, 2\)",
    ),
    "indefinite moments": (
        lambda: elbax.from_moments(np.zeros(2), -np.eye(2), 5),
        ValueError,
        "positive semidefinite",
    ),
    # --- weights
    "weight": (
        lambda: elbax.Batch(X, weight=-1.0),
        ValueError,
        "weight must be positive and finite, got -1",
    ),
    "nan weight": (
        lambda: elbax.evidence(MODEL, normals(), elbax.Batch(X, weight=[np.nan] * 12)),
        ValueError,
        "finite and not",
    ),
    "zero weights": (
        lambda: elbax.evidence(MODEL, normals(), elbax.Batch(X, weight=[0.0] * 12)),
        ValueError,
        "every row has weight 0 or is masked",
    ),
    "fewer weights": (
        lambda: elbax.evidence(MODEL, normals(), elbax.Batch(X, weight=[1.0] * 3)),
        ValueError,
        r"weight has shape",
    ),
    "weight in words": (lambda: elbax.Batch(X, weight=["a"] * 12), TypeError, "holds 'a'"),
    "mask of numbers": (
        lambda: elbax.Batch(X, mask=np.ones(12)),
        TypeError,
        "mask must hold truth values",
    ),
    "index of numbers": (
        lambda: elbax.Batch(X, index=np.ones(12)),
        TypeError,
        "index must hold whole numbers",
    ),
    # --- params
    "params of two": (
        lambda: elbax.evidence(elbax.GaussianMixture(3), normals(), X),
        ValueError,
        r"params\['logits'\] must have shape \(3,\), got \(2,\)",
    ),
    "posterior of two": (
        lambda: elbax.Exact(elbax.GaussianMixture(3), normals())(X[0]),
        ValueError,
        r"shape \(3,\), got \(2,\)",
    ),
    "start of two": (
        lambda: EM.init(normals(3), elbax.Exact(MODEL, normals()), key=KEY),
        ValueError,
        r"Chain.init: params\['logits'\]",
    ),
    "sample of two": (
        lambda: MODEL.sample(normals(3), KEY, 2),
        ValueError,
        r"sample: params\['logits'\]",
    ),
    "another structure": (
        lambda: elbax.evidence(elbax.GaussianMixture(2, "diagonal"), normals(), X),
        ValueError,
        r"params\['components'\]\['scale'\] must have shape \(2, 2\), got \(2, 3\)",
    ),
    "a tied one": (
        lambda: elbax.evidence(elbax.GaussianMixture(2, "tied"), normals(), X),
        ValueError,
        r"must have shape \(3,\)",
    ),
    "no logits": (
        lambda: elbax.evidence(MODEL, without(normals(), "logits"), X),
        ValueError,
        r"dictionary with keys \['components', 'logits'\]",
    ),
    "no scale": (
        lambda: elbax.evidence(MODEL, without(normals(), "components", "scale"), X),
        ValueError,
        r"params\['components'\] must be a dictionary with keys \['mean', 'scale'\]",
    ),
    "a list": (
        lambda: elbax.evidence(MODEL, normals() | {"logits": [0.0, 0.0]}, X),
        TypeError,
        "must be an array, got list",
    ),
    "nan params": (
        lambda: elbax.evidence(MODEL, jax.tree.map(lambda leaf: leaf * np.nan, normals()), X),
        ValueError,
        "contains NaN",
    ),
    "no network": (
        lambda: elbax.evidence(
            given("ctc")[0], jnp.zeros(3), (np.zeros((1, 5, 4)), np.array([[1]]))
        ),
        TypeError,
        "a function",
    ),
    "tables": (
        lambda: elbax.evidence(given("network")[0], (jnp.zeros(2),), [[0, 1]]),
        ValueError,
        "tuple of 2 arrays",
    ),
    "more factors": (
        lambda: elbax.evidence(elbax.FactorAnalysis(2), given("factors")[1], X),
        ValueError,
        r"\['loadings'\] must have shape \(2, 2\)",
    ),
    "more states": (
        lambda: elbax.evidence(
            elbax.HiddenMarkovModel(components.Normal(), 3), given("hidden")[1], X[None]
        ),
        ValueError,
        r"\['initial'\] must have shape \(3,\)",
    ),
    "a larger state": (
        lambda: elbax.evidence(elbax.LinearGaussianStateSpace(2), given("states")[1], X[None]),
        ValueError,
        r"shape \(2,\), got \(1,\)",
    ),
    # --- arguments of functions
    "no model": (
        lambda: elbax.evidence(normals(), MODEL, X),
        TypeError,
        "model must be a model such as",
    ),
    "no posterior": (
        lambda: elbax.elbo(MODEL, normals(), X, X),
        TypeError,
        "posterior must be a function of a datum",
    ),
    "a key": (lambda: MODEL.init(0, X), TypeError, "must be a random key such as jax.random.key"),
    "key of elbo": (
        lambda: elbax.elbo(MODEL, normals(), elbax.Exact(MODEL, normals()), X, key=3),
        TypeError,
        "random key",
    ),
    "key of a sample": (lambda: MODEL.sample(normals(), 3, 2), TypeError, "random key"),
    "no draws": (
        lambda: MODEL.sample(normals(), KEY, 0),
        ValueError,
        "num_data must be at least 1",
    ),
    "no length": (
        lambda: given("hidden")[0].sample(given("hidden")[1], KEY, 2, 0),
        ValueError,
        "length must be at least 1",
    ),
    "neither": (lambda: MODEL.sample(normals(), KEY), TypeError, "pass either num_data or"),
    "chunks": (
        lambda: elbax.evidence(MODEL, normals(), X, chunk_size=0),
        ValueError,
        "chunk_size must be at least 1",
    ),
    "half a chunk": (
        lambda: elbax.evidence(MODEL, normals(), X, chunk_size=2.5),
        TypeError,
        "chunk_size must be a whole number",
    ),
    "tolerance": (
        lambda: fit(tolerance=-1.0),
        ValueError,
        "tolerance must be finite and not negative",
    ),
    "steps": (lambda: fit(max_steps=0), ValueError, "max_steps must be at least 1"),
    "more components": (
        lambda: elbax.GaussianMixture(20).init(KEY, X),
        ValueError,
        "need at least 20 rows of positive weight",
    ),
    "constant": (
        lambda: MODEL.init(KEY, FRAME.assign(waiting=1.0)),
        ValueError,
        "column 'waiting' is constant",
    ),
    "incomplete moments": (
        lambda: elbax.EvidenceMStep(given("factors")[0])(
            elbax.ELBOState(given("factors")[1], elbax.Exact(*given("factors")), (), KEY),
            elbax.incomplete(NAN),
        ),
        TypeError,
        "got incomplete rows.*Use ClosedFormMStep",
    ),
    # --- descriptions
    "nan weights": (
        lambda: normal_description(weights=[np.nan, 0.5]),
        ValueError,
        r"weights\[0\] is nan",
    ),
    "no weights": (
        lambda: normal_description(weights=[0.0, 0.0]),
        ValueError,
        "weights must have a positive number in each row",
    ),
    "three weights": (
        lambda: normal_description(weights=np.ones(3)),
        ValueError,
        r"weights must have shape \(2,\), got \(3,\)",
    ),
    "three means": (
        lambda: normal_description(means=np.zeros((3, 2))),
        ValueError,
        "means must have 2 entries on its first axis",
    ),
    "nan means": (
        lambda: normal_description(means=[[np.nan, 0], [0, 0]]),
        ValueError,
        r"means\[0, 0\] is nan",
    ),
    "indefinite": (
        lambda: normal_description(covariances=-SQUARES[:2]),
        ValueError,
        "positive definite",
    ),
    "askew": (
        lambda: normal_description(covariances=SQUARES[:2] + np.eye(2, k=1)),
        ValueError,
        "must be symmetric",
    ),
    "other covariances": (
        lambda: normal_description(covariances=np.ones((2, 1, 1))),
        ValueError,
        r"shape \(2, 2, 2\), got",
    ),
    "negative rates": (
        lambda: described("poisson", rates=[[1.0], [-1.0]]),
        ValueError,
        r"rates\[1, 0\] is -1",
    ),
    "rates in a row": (
        lambda: described("poisson", rates=[1.0, 2.0]),
        ValueError,
        r"rates must have shape \(K, dim\)",
    ),
    "more than one": (
        lambda: described("bernoulli", probabilities=[[1.2], [0.0]]),
        ValueError,
        "numbers from 0 to 1",
    ),
    "zero shape": (
        lambda: described("gamma", shapes=[[0.0], [1.0]]),
        ValueError,
        "positive numbers",
    ),
    "deviations": (
        lambda: described("regression", deviations=[1.0, -1.0]),
        ValueError,
        r"deviations\[1\] is -1",
    ),
    "initial": (
        lambda: described("hidden", initial=[1.0]),
        ValueError,
        r"initial must have shape \(2,\), got \(1,\)",
    ),
    "transition": (
        lambda: described("hidden", transition=np.eye(3)),
        ValueError,
        r"transition must have shape \(2, 2\)",
    ),
    "states' means": (
        lambda: described("hidden", means=np.zeros((3, 1))),
        ValueError,
        "means must have 2 entries",
    ),
    "ruled out": (
        lambda: elbax.HiddenMarkovModel(
            components.Poisson(), 2, allowed=np.eye(2, dtype=bool)
        ).from_description(initial=[1, 1], transition=np.ones((2, 2)), rates=[[1.0], [2.0]]),
        ValueError,
        "transition must be 0 where allowed is False",
    ),
    "two tables": (
        lambda: described("network", tables=[[0.5, 0.5]]),
        ValueError,
        "one table for each of the 2 variables; got 1",
    ),
    "a larger table": (
        lambda: described("network", tables=[[1.0], np.eye(2)]),
        ValueError,
        r"tables\[0\] must have shape \(2,\)",
    ),
    "rules": (
        lambda: described("grammar", root=[-1.0]),
        ValueError,
        "root must hold numbers that are not negative",
    ),
    "noise": (
        lambda: described("factors", noise=[0.0, 1.0]),
        ValueError,
        "noise must hold positive numbers",
    ),
    "loadings": (
        lambda: described("factors", loadings=np.ones((3, 1))),
        ValueError,
        r"loadings must have shape \(2, 1\)",
    ),
    "a transition": (
        lambda: described("states", transition=[[np.nan]]),
        ValueError,
        r"transition\[0, 0\] is nan",
    ),
    # --- what constructors do not let by (every argument of each is tried below)
    "floor": (
        lambda: components.GeneralizedLinear("normal", floor=-1.0),
        ValueError,
        "floor must be finite and not negative",
    ),
    "a prior in words": (
        lambda: elbax.BayesianNetwork((2,), ((),), prior="x"),
        TypeError,
        "prior must be an elbax.priors.Dirichlet",
    ),
    "half a parent": (
        lambda: elbax.BayesianNetwork((2, 2), ((), (0.5,))),
        TypeError,
        "parents must be whole numbers",
    ),
    "no optimizer": (
        lambda: elbax.GradientMStep(MODEL, 0.1),
        TypeError,
        "an optax optimizer .* got 0.1",
    ),
}


def test_there_are_a_hundred():
    assert len(BAD) >= 100


@pytest.mark.parametrize("name", BAD)
def test_is_refused(as_users_run, name):
    make, error, message = BAD[name]
    with pytest.raises(error, match=message) as raised:
        make()
    assert len(str(raised.value)) < 500


# --- what has a meaning --------------------------------------------------------------------------


def test_tables_of_all_kinds_are_one():
    expected = elbax.evidence(MODEL, normals(), X)
    series = {name: FRAME[name] for name in FRAME}
    foreign = type(
        "Frame",
        (),
        {"columns": list(FRAME), "to_numpy": None, "__getitem__": lambda _, key: series[key]},
    )()
    exact = np.array(
        [[decimal.Decimal(repr(float(number))) for number in row] for row in X], object
    )
    for table in (FRAME, X.tolist(), X.astype(object), exact, foreign, elbax.Batch(FRAME)):
        np.testing.assert_allclose(elbax.evidence(MODEL, normals(), table), expected, rtol=1e-12)
    missing = elbax.incomplete(FRAME.mask(np.isnan(NAN)))
    np.testing.assert_array_equal(missing.x.observed.sum(), elbax.incomplete(NAN).x.observed.sum())
    whole = elbax.Batch(pd.DataFrame({"a": pd.array([1, 2], "Int64"), "b": [True, False]}))
    np.testing.assert_array_equal(whole.x, [[1, 1], [2, 0]])


def test_a_list_of_arrays_stays_a_pytree():
    batch = elbax.Batch([np.zeros((3, 2)), np.ones(3)])
    assert isinstance(batch.x, list)


def test_a_batch_tells_its_weight():
    assert elbax.Batch(X, weight=3.0).weight == 3.0
    assert elbax.Batch(X, weight=np.float32(3)).weight == 3.0
    assert elbax.Batch(X).weight is None
    np.testing.assert_array_equal(elbax.Batch(X, weight=np.arange(12)).weight, np.arange(12))


def test_inside_of_a_trace_values_have_meanings_and_shapes_are_refused():
    found = jax.jit(lambda x: elbax.evidence(MODEL, normals(), x))(NAN)
    assert bool(jnp.isnan(found))
    with pytest.raises(ValueError, match=r"shape \(3,\), got \(2,\)"):
        jax.jit(lambda x: elbax.evidence(elbax.GaussianMixture(3), normals(), x))(X)


def test_structures_go_by_both_names():
    assert components.Normal("diag") == components.Normal("diagonal")
    assert components.FactorAnalyzer(1, "diag") == components.FactorAnalyzer(1, "diagonal")
    short = elbax.LinearGaussianStateSpace(1, transition_noise="diag", emission_noise="diag")
    assert short.transition_noise == short.emission_noise == "diagonal"


def test_params_are_checked_in_the_trees_of_every_model():
    """What a model says of its params is true of those that it makes, and of no other's."""
    for kind in (
        "poisson",
        "bernoulli",
        "categorical",
        "gamma",
        "multinomial",
        "regression",
        "hidden",
        "network",
        "grammar",
        "factors",
        "states",
    ):
        model, params = given(kind)
        model.check_params(params)
        trained, rest = eqx.partition(params, eqx.is_inexact_array)
        leaves, structure = jax.tree.flatten(trained)
        for i, leaf in enumerate(leaves):
            longer = [
                *leaves[:i],
                jax.ShapeDtypeStruct((7, *leaf.shape), leaf.dtype),
                *leaves[i + 1 :],
            ]
            with pytest.raises(ValueError, match="must have shape"):
                model.check_params(eqx.combine(jax.tree.unflatten(structure, longer), rest))


# --- constructors --------------------------------------------------------------------------------


def joint(params, x, z):
    return 0.0


def constructors():
    dirichlet, wishart = priors.Dirichlet(2.0), priors.NormalInverseWishart(0.0, 1.0, 4.0, 1.0)
    exact = elbax.Exact(MODEL, normals())
    plain = elbax.Model(joint, elbax.Gaussian(1))
    encoder = elbax.Amortized(elbax.Network(lambda w, x: w, jnp.zeros(2)), MODEL.latent)
    sgd, flags = optax.sgd(0.1), lambda *shape: np.ones(shape, bool)
    return [
        (components.Bernoulli, dict(prior=priors.Beta(2.0, 2.0))),
        (components.Categorical, dict(num_values=3, prior=dirichlet)),
        (components.FactorAnalyzer, dict(num_factors=1)),
        (components.Gamma, {}),
        (components.GeneralizedLinear, dict(response="normal")),
        (components.LinearRegression, {}),
        (components.Multinomial, dict(prior=dirichlet)),
        (components.Normal, dict(covariance="full", prior=wishart)),
        (components.Poisson, dict(prior=priors.Gamma(2.0, 2.0))),
        (components.StudentT, dict(dof=3.0, prior=wishart)),
        (priors.Beta, dict(a=1.0, b=1.0)),
        (priors.Dirichlet, dict(concentration=1.0)),
        (priors.Gamma, dict(shape=1.0, rate=1.0)),
        (priors.NormalInverseWishart, dict(mean=0.0, shrinkage=1.0, dof=3.0, scale=1.0)),
        (elbax.GaussianMixture, dict(num_components=2, prior=wishart)),
        (elbax.Mixture, dict(component=components.Normal(), num_components=2, prior=dirichlet)),
        (elbax.MixtureOfExperts, dict(expert=components.LinearRegression(), num_experts=2)),
        (
            elbax.HiddenMarkovModel,
            dict(
                component=components.Normal(),
                num_states=2,
                allowed=flags(2, 2),
                starts=flags(2),
                prior=dirichlet,
                transition_prior=dirichlet,
                segment=4,
            ),
        ),
        (elbax.FactorAnalysis, dict(num_factors=1, pattern=flags(3, 1))),
        (elbax.ProbabilisticPCA, dict(num_factors=1)),
        (elbax.LinearGaussianStateSpace, dict(dim=1)),
        (
            elbax.ContextFreeGrammar,
            dict(
                num_nonterminals=2,
                num_preterminals=2,
                num_words=3,
                allowed=flags(2, 4, 4),
                emits=flags(2, 3),
                roots=flags(2),
                prior=dirichlet,
            ),
        ),
        (elbax.ConnectionistTemporalClassification, {}),
        (elbax.BayesianNetwork, dict(sizes=(2, 2), parents=((), (0,)), prior=dirichlet)),
        (elbax.Tied, dict(model=MODEL, expand=joint)),
        (
            elbax.Model,
            dict(
                likelihood=joint,
                prior=lambda params, x: jnp.zeros(2),
                latent=elbax.Categorical(2),
                log_prior=joint,
                estimator=elbax.estimators.Enumeration(),
            ),
        ),
        *(
            (step, dict(model=MODEL))
            for step in (
                elbax.ExactEStep,
                elbax.HardEStep,
                elbax.MonteCarloEStep,
                elbax.MeanFieldEStep,
                elbax.ClosedFormMStep,
                elbax.EvidenceMStep,
                elbax.NewtonMStep,
                elbax.NumericalMStep,
            )
        ),
        (elbax.LaplaceEStep, dict(model=plain)),
        *(
            (step, dict(model=MODEL, optimizer=sgd))
            for step in (
                elbax.GradientEStep,
                elbax.LocalGradientEStep,
                elbax.JointGradientStep,
                elbax.GradientMStep,
            )
        ),
        (elbax.MarkovChainMonteCarloEStep, dict(model=plain, kernel=joint)),
        (elbax.SleepEStep, dict(model=MODEL, optimizer=sgd, sample=joint)),
        (elbax.IncrementalMStep, dict(model=MODEL, num_batches=2)),
        (elbax.OnlineMStep, dict(model=MODEL, rate=0.1)),
        (elbax.ReseedStep, dict(model=MODEL, share=0.1)),
        (elbax.wrappers.Accelerate, dict(update=EM)),
        (elbax.wrappers.Anneal, dict(update=EM, schedule=joint)),
        (elbax.wrappers.Averaged, dict(update=EM, decay=0.1)),
        (elbax.wrappers.Certify, dict(update=EM, model=MODEL)),
        (elbax.wrappers.Every, dict(update=EM, period=2)),
        (elbax.wrappers.Guard, dict(update=EM)),
        (elbax.wrappers.Repeat, dict(update=EM, num_times=2)),
        (elbax.Amortized, dict(network=joint, family=elbax.Categorical(2))),
        (
            elbax.posteriors.PersistentChains,
            dict(table=jnp.zeros((3, 2, 2)), family=elbax.Gaussian(2)),
        ),
        (elbax.posteriors.Hard, dict(posterior=exact)),
        (elbax.posteriors.Importance, dict(proposal=exact, target=exact, num_samples=3)),
        (elbax.posteriors.Laplace, dict(target=elbax.Exact(plain, ()))),
        (elbax.posteriors.Local, dict(table=jnp.zeros((3, 2)), family=elbax.Categorical(2))),
        (
            elbax.posteriors.MeanField,
            dict(table=jnp.zeros((3, 2)), family=elbax.families.factored(MODEL.latent)),
        ),
        (elbax.posteriors.MonteCarlo, dict(posterior=exact, num_samples=3)),
        (
            elbax.posteriors.SemiAmortized,
            dict(encoder=encoder, target=exact, optimizer=sgd, num_steps=2),
        ),
        (elbax.Categorical, dict(num_values=2)),
        (elbax.DiagonalGaussian, dict(dim=2)),
        (elbax.families.FactorGraph, dict(sizes=(2, 2), scopes=((0, 1),))),
        (elbax.Gaussian, dict(dim=2)),
        (elbax.GaussianChain, dict(dim=2)),
        (elbax.families.GridGraph, dict(height=2, width=2, num_values=2)),
        (elbax.MarkovChain, dict(num_states=2, allowed=flags(2, 2), starts=flags(2), segment=4)),
        (
            elbax.families.ParseTree,
            dict(num_nonterminals=2, num_preterminals=2, allowed=flags(2, 4, 4), roots=flags(2)),
        ),
        (elbax.estimators.GumbelSoftmax, {}),
        (elbax.estimators.ImportanceWeighted, {}),
        (elbax.estimators.DoublyReparameterized, {}),
        (elbax.estimators.ImportanceWeightedScore, {}),
        (elbax.estimators.ReweightedWakeSleep, {}),
        (elbax.estimators.Quadrature, {}),
        (elbax.estimators.Reparameterized, {}),
        (elbax.estimators.StickingTheLanding, {}),
        (elbax.estimators.ScoreFunction, {}),
    ]


def arguments_of(make, given):
    defaults = {
        name: parameter.default
        for name, parameter in inspect.signature(make).parameters.items()
        if parameter.default is not inspect.Parameter.empty
    }
    return defaults | given


@pytest.mark.parametrize(
    ("make", "given"), constructors(), ids=lambda value: getattr(value, "__name__", "")
)
def test_every_argument_is_looked_at(as_users_run, make, given):
    """What is of no kind that any argument could be is refused at once, in words that name the argument; and so is
    NaN for a number, and half of what is counted."""
    valid = arguments_of(make, given)
    make(**valid)
    for name, value in valid.items():
        strange = [object(), "no such thing"]
        if isinstance(value, int | float) and not isinstance(value, bool):
            strange += [float("nan")] + [2.5] * isinstance(value, int)
        for one in strange:
            with pytest.raises(
                (TypeError, ValueError), match=f"(?i){name.rstrip('s').split('_')[-1]}"
            ):
                make(**(valid | {name: one}))


@pytest.mark.parametrize(
    ("x", "num_components", "error", "message"),
    [
        (np.arange(3.0), 2, ValueError, r"from_data: expected data of shape .* x\[:, None\]"),
        ([[1.0, np.nan], [2.0, 3.0]], 2, ValueError, "from_data: row 0, column 1 is nan"),
        ([[1.0, 5.0], [2.0, 5.0]], 2, ValueError, "from_data: .* is constant"),
        ([[1.0, 5.0], [2.0, 4.0]], 0, ValueError, "num_components must be at least 1"),
    ],
)
def test_a_prior_from_bad_data(x, num_components, error, message, as_users_run):
    with pytest.raises(error, match=message):
        priors.NormalInverseWishart.from_data(x, num_components)
