"""Topic models against scikit-learn, exact evidences, quadrature and SciPy."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize
import scipy.sparse
import scipy.special
import scipy.stats
import sklearn.decomposition
from sklearn.utils.estimator_checks import estimator_checks_generator

import elbax
from elbax._math.special import positive_digamma, positive_gammaln
from elbax.data import minibatches, Ragged
from elbax.data._batch import effective_weight
from elbax.data._documents import _group_ends
from elbax.families import Proportions, TopicProportions
from elbax.priors._concentration import maximize_concentration
from elbax.sklearn import LatentDirichletAllocation


FIXED = {"topics": True, "log_concentration": False}


def table(num_documents=40, num_words=12):
    rng = np.random.default_rng(0)
    shape = num_documents, num_words
    counts = rng.poisson(0.7, shape) * (rng.random(shape) < 0.7)
    counts[:, 0] += 1
    return counts.astype(float)


COUNTS = table()
MODEL = elbax.LatentDirichletAllocation(3, 12, prior=elbax.priors.Dirichlet(0.2))
BAYESIAN = elbax.Bayesian(MODEL)


@pytest.fixture(scope="module")
def theirs():
    """scikit-learn's topics after a step, iterated to rounding."""
    model = sklearn.decomposition.LatentDirichletAllocation(
        3,
        doc_topic_prior=0.3,
        topic_word_prior=0.2,
        max_iter=1,
        mean_change_tol=1e-12,
        max_doc_update_iter=2000,
        random_state=0,
    )
    return model.fit(COUNTS)


@pytest.fixture(scope="module")
def ours(theirs):
    params = {
        "topics": jnp.log(theirs.components_),
        "log_concentration": jnp.full(3, jnp.log(0.3)),
    }
    batch = elbax.documents(COUNTS, num_groups=2)
    posterior = elbax.posteriors.CoordinateAscent(elbax.Exact(BAYESIAN, params), 2000, 1e-12)
    return batch, params, posterior


def test_bound_is_that_of_scikit_learn(theirs, ours):
    batch, params, posterior = ours
    bound = 40 * elbax.elbo(BAYESIAN, params, posterior, batch)
    np.testing.assert_allclose(bound, theirs.score(COUNTS), rtol=1e-9)
    perplexity = elbax.diagnostics.perplexity(BAYESIAN, params, posterior, batch)
    np.testing.assert_allclose(perplexity, theirs.perplexity(COUNTS), rtol=1e-9)
    # At a point the log-prior says nothing about the documents.
    point, inside = BAYESIAN.model, BAYESIAN.inside(params)
    flat = elbax.LatentDirichletAllocation(point.num_topics, point.num_words)
    each = [
        elbax.diagnostics.perplexity(
            form, inside, elbax.posteriors.CoordinateAscent(elbax.Exact(form, inside), 50), batch
        )
        for form in (point, flat)
    ]
    np.testing.assert_allclose(*each, rtol=1e-12)


def test_step_and_proportions_are_those_of_scikit_learn(theirs, ours):
    batch, params, posterior = ours
    _, statistics = theirs._e_step(
        scipy.sparse.csr_matrix(COUNTS), cal_sstats=True, random_init=False
    )
    update = elbax.Chain(
        elbax.CoordinateAscentEStep(BAYESIAN, 2000, 1e-12),
        elbax.ClosedFormMStep(BAYESIAN, free=FIXED),
    )
    state, _ = update(update.init(params, key=jax.random.key(0)), batch)
    np.testing.assert_allclose(np.exp(state.params["topics"]), 0.2 + statistics, rtol=1e-6)
    np.testing.assert_array_equal(state.params["log_concentration"], params["log_concentration"])
    shares = np.concatenate([jax.vmap(posterior)(x).mode() for x in batch.x.groups])
    expected = theirs.transform(COUNTS)[np.asarray(batch.index)]
    np.testing.assert_allclose(shares, expected, atol=1e-7)


@pytest.mark.slow
def test_groups_change_nothing(ours):
    """Neither do chunks, nor padding in one table."""
    batch, params, _ = ours
    posterior = elbax.posteriors.CoordinateAscent(elbax.Exact(BAYESIAN, params), 10)
    whole = elbax.documents(COUNTS, num_groups=1)
    bounds = [
        elbax.elbo(BAYESIAN, params, posterior, batch),
        elbax.elbo(BAYESIAN, params, posterior, batch, chunk_size=7),
        elbax.elbo(BAYESIAN, params, posterior, whole.x.groups[0]),
    ]
    np.testing.assert_allclose(bounds, bounds[0], rtol=1e-12)


@pytest.mark.slow
def test_table_ascends_and_learns_concentrations():
    batch = elbax.documents(COUNTS, num_groups=2)
    params = MODEL.init(jax.random.key(0), batch)
    model = elbax.LatentDirichletAllocation(3, 12, prior=elbax.priors.Dirichlet(1.2))
    update = elbax.Chain(elbax.MeanFieldEStep(model, 3), elbax.ClosedFormMStep(model))
    table = elbax.posteriors.MeanField.init(model, params, batch)
    state = update.init(params, table, key=jax.random.key(1))
    run = jax.jit(lambda state: jax.lax.scan(lambda s, _: update(s, batch), state, length=40))
    state, info = run(state)
    assert np.all(np.diff(info.elbo) > -1e-10)
    assert not np.allclose(state.params["log_concentration"], params["log_concentration"])
    # Documents in another order have their own rows.
    shares = state.posterior(None, index=jnp.arange(40)).mode()
    assert shares.shape == (40, 3) and np.isfinite(shares).all()


def test_one_topic_is_exact():
    """With one topic the bound under a belief is the evidence of a Dirichlet-multinomial."""
    model = elbax.Bayesian(
        elbax.LatentDirichletAllocation(1, 12, prior=elbax.priors.Dirichlet(0.2))
    )
    batch = elbax.documents(COUNTS, num_groups=1)
    update = elbax.Chain(
        elbax.CoordinateAscentEStep(model, 1), elbax.ClosedFormMStep(model, free=FIXED)
    )
    state = update.init(model.init(jax.random.key(0), batch), key=jax.random.key(0))
    state, _ = update(state, batch)
    bound = 40 * elbax.elbo(model, state.params, state.posterior, batch)
    alpha = np.full(12, 0.2)
    log_beta = lambda a: scipy.special.gammaln(a).sum() - scipy.special.gammaln(a.sum())
    np.testing.assert_allclose(bound, log_beta(alpha + COUNTS.sum(0)) - log_beta(alpha), rtol=1e-12)


def test_bound_of_two_topics_by_quadrature_and_enumeration():
    """The bound is below the evidence, by the divergence of q from the posterior over θ and all words' topics."""
    model = elbax.LatentDirichletAllocation(2, 3)
    params = model.from_description(
        topics=[[0.6, 0.3, 0.1], [0.1, 0.2, 0.7]], concentration=[0.8, 1.5]
    )
    beta, alpha = np.asarray(model.describe(params)["topics"]), np.array([0.8, 1.5])
    words = [0, 0, 2]
    batch = elbax.documents([[(0, 2), (2, 1)]], num_words=3)
    posterior = elbax.posteriors.CoordinateAscent(elbax.Exact(model, params), 200)
    bound = float(elbax.elbo(model, params, posterior, batch))
    density = scipy.stats.beta(*alpha).pdf
    value = lambda p: density(p) * np.prod([p * beta[0, w] + (1 - p) * beta[1, w] for w in words])
    evidence = np.log(scipy.integrate.quad(value, 0, 1)[0])
    x = jax.tree.map(lambda leaf: leaf[0], batch.x.groups[0])
    gamma = np.asarray(posterior(x).natural)
    mean_log = scipy.special.digamma(gamma) - scipy.special.digamma(gamma.sum())
    shares = [np.exp(mean_log) * beta[:, w] / (np.exp(mean_log) @ beta[:, w]) for w in words]
    # E log p(θ) + H(q(θ)) by SciPy, and over all 2³ topics of the three words.
    divergence = -scipy.integrate.quad(
        lambda p: (
            scipy.stats.beta(*gamma).pdf(p)
            * (scipy.stats.beta(*alpha).logpdf(p) - scipy.stats.beta(*gamma).logpdf(p))
        ),
        0,
        1,
    )[0]
    expected = -divergence
    for topics in itertools.product(range(2), repeat=3):
        chance = np.prod([share[z] for share, z in zip(shares, topics)])
        terms = [
            mean_log[z] + np.log(beta[z, w]) - np.log(share[z])
            for share, z, w in zip(shares, topics, words)
        ]
        expected += chance * sum(terms)
    np.testing.assert_allclose(bound, expected, rtol=1e-6)
    assert bound < evidence
    score = model.log_joint(params, x, jnp.array([0.3, 0.7]))
    # Densities are in log-ratios: one factor p_k for each topic.
    np.testing.assert_allclose(score, np.log(value(0.3) * 0.3 * 0.7), rtol=1e-12)


def test_underflowing_odds_are_taken_in_logarithms():
    """A word whose only topic has γ so small that its odds underflow in float32."""
    family = TopicProportions(2)
    topics = jnp.array([[0.0, -jnp.inf], [-jnp.inf, 0.0]], jnp.float32)
    document = {"words": jnp.array([0, 1]), "counts": jnp.array([1e3, 2.0], jnp.float32)}
    potentials = document | {"concentration": jnp.full(2, 0.005, jnp.float32), "topics": topics}
    start = jnp.array([1e3, 0.005], jnp.float32)
    np.testing.assert_allclose(family.ascend(start, potentials), [1000.005, 2.005], rtol=1e-6)
    bound = lambda topics: family.bound(start, potentials | {"topics": topics})
    value, slope = jax.value_and_grad(bound)(topics)
    assert np.isfinite(value)
    np.testing.assert_allclose(slope, [[1e3, 0], [0, 2]])


@pytest.mark.slow
def test_stochastic_and_memoized_reach_the_batch_optimum():
    batch = elbax.documents(COUNTS, num_groups=2)
    batches = minibatches(batch, 4, key=jax.random.key(0))
    ascent = elbax.CoordinateAscentEStep(BAYESIAN, 10)
    params = BAYESIAN.init(jax.random.key(0), batch)
    ends = []
    for m_step in (
        elbax.OnlineMStep(BAYESIAN, lambda t: (t + 2.0) ** -0.7, free=FIXED),
        elbax.IncrementalMStep(BAYESIAN, 4, free=FIXED),
        elbax.ClosedFormMStep(BAYESIAN, free=FIXED),
    ):
        update = elbax.Chain(ascent, m_step)
        data = batches
        if isinstance(m_step, elbax.IncrementalMStep):
            # Memoized parts add up to the data, so that each counts once.
            data = elbax.Batch(batches.x, weight=batches.weight / 4, index=batches.index)
        if isinstance(m_step, elbax.ClosedFormMStep):
            data = jax.tree.map(lambda leaf: leaf[None], batch)

        @jax.jit
        def run(state, data, update=update):
            one_round = lambda state, _: (jax.lax.scan(update, state, data)[0], None)
            return jax.lax.scan(one_round, state, length=60)[0]

        end = run(update.init(params, key=jax.random.key(0)), data)
        posterior = elbax.posteriors.CoordinateAscent(elbax.Exact(BAYESIAN, end.params), 50)
        ends.append(float(elbax.elbo(BAYESIAN, end.params, posterior, batch)))
    np.testing.assert_allclose(ends, ends[-1], atol=0.3)


@pytest.mark.parametrize("free", [True, [True, False, True]])
def test_concentrations_maximize_the_likelihood(free):
    rng = np.random.default_rng(1)
    mean_log = np.log(rng.dirichlet([0.3, 2.0, 5.0], 50)).mean(0)
    start = np.array([1.0, 4.0, 1.0])
    found = np.asarray(maximize_concentration(jnp.asarray(mean_log), jnp.asarray(start), free))
    moves = np.broadcast_to(free, 3)
    slope = scipy.special.digamma(found.sum()) - scipy.special.digamma(found) + mean_log
    np.testing.assert_allclose(np.where(moves, slope, 0), 0, atol=1e-10)
    np.testing.assert_array_equal(found[~moves], start[~moves])


def test_proportions():
    alpha = np.array([0.3, 2.0, 5.0])
    q = Proportions(3)(jnp.asarray(alpha))
    peer = scipy.stats.dirichlet(alpha)
    shares = np.array([0.1, 0.3, 0.6])
    np.testing.assert_allclose(q.log_prob(shares), peer.logpdf(shares) + np.log(shares).sum())
    np.testing.assert_allclose(q.entropy(), peer.entropy() - np.asarray(q.mean()).sum())
    draws = q.family.sample(jnp.broadcast_to(q.natural, (4000, 3)), jax.random.key(0))
    np.testing.assert_allclose(draws.mean(0), alpha / alpha.sum(), atol=0.02)
    np.testing.assert_allclose(jnp.log(draws).mean(0), q.mean(), atol=0.1)
    potentials, constant = q.family.read(lambda p: 2 * jnp.log(p[0]) + jnp.log(p[2]) + 1.5)
    np.testing.assert_allclose(potentials, [2, 0, 1], atol=1e-12)
    np.testing.assert_allclose(constant, 1.5)
    with pytest.raises(ValueError, match="must return 3 numbers"):
        q.family.from_network(jnp.zeros(2))


def test_functions_of_positive_numbers():
    x = jnp.concatenate([jnp.logspace(-6, 7, 500), jnp.linspace(0.1, 20, 500)])
    for found, expected in (
        (positive_digamma(x), scipy.special.digamma(x)),
        (positive_gammaln(x), scipy.special.gammaln(x)),
    ):
        np.testing.assert_array_less(np.abs(found - expected), 1e-14 * (1 + np.abs(expected)))


def test_documents_from_matrices_and_pairs():
    pairs = [[(w, c) for w, c in enumerate(row) if c] for row in COUNTS]
    batches = [
        elbax.documents(COUNTS),
        elbax.documents(scipy.sparse.coo_matrix(COUNTS)),
        elbax.documents(pairs, num_words=12),
    ]
    for batch in batches:
        assert jax.tree.structure(batch) == jax.tree.structure(batches[0])
        jax.tree.map(np.testing.assert_array_equal, batch, batches[0])
    found = np.zeros_like(COUNTS)
    start = 0
    for x in batches[0].x.groups:
        for words, counts in zip(x["words"], x["counts"]):
            np.add.at(found[int(batches[0].index[start])], np.asarray(words), np.asarray(counts))
            start += 1
    np.testing.assert_array_equal(found, COUNTS)
    np.testing.assert_allclose(MODEL.word_counts(batches[0]), COUNTS.sum(0))
    assert MODEL.num_observations(batches[0]) == COUNTS.sum()


def test_groups_have_the_least_padding():
    lengths = np.array([1, 1, 2, 5, 6, 6, 9, 20])
    cells = lambda ends: sum(lengths[b - 1] * (b - a) for a, b in itertools.pairwise([0, *ends]))
    for number in (1, 2, 3, 4):
        best = min(cells([*cuts, 8]) for cuts in itertools.combinations(range(1, 8), number - 1))
        assert cells(_group_ends(lengths, number)) == best


def test_minibatches_deal_every_document_once():
    weight = np.linspace(0.5, 1.5, 40)
    batch = elbax.documents(COUNTS, num_groups=3, weight=weight)
    dealt = minibatches(batch, 4, key=jax.random.key(1))
    own, number = np.asarray(dealt.weight), np.asarray(dealt.index)
    real = own > 0
    assert sorted(number[real]) == list(range(40))
    np.testing.assert_allclose(own[real], 4 * weight[number[real]])
    other = minibatches(batch, 4, key=jax.random.key(2))
    assert not np.array_equal(other.index, dealt.index)
    with pytest.raises(TypeError, match="what elbax.documents returns"):
        minibatches(jnp.zeros((4, 2)), 2, key=jax.random.key(0))


@pytest.mark.parametrize(
    ("data", "options", "error", "match"),
    [
        ([[(0, 1)], []], dict(num_words=2), ValueError, "document 1 has no words"),
        ([[(0, 1)], [(1, 1), (5, 2)]], dict(num_words=4), ValueError, "document 1 has word 5"),
        ([[(0, -1)]], dict(num_words=4), ValueError, "document 0, word 0 has -1"),
        ([["a", "b"]], dict(num_words=4), TypeError, "pairs"),
        ([[("cat", 1)]], dict(num_words=4), TypeError, "the word 'cat'"),
        (np.ones((2, 3)), dict(num_words=4), ValueError, "has 3 columns, but num_words is 4"),
        (np.ones((2, 3)), dict(weight=[1.0]), ValueError, "one for each document"),
        (np.ones(3), {}, ValueError, "expected counts of shape"),
        ([], dict(num_words=4), ValueError, "at least one document"),
    ],
)
def test_impossible_documents(data, options, error, match):
    with pytest.raises(error, match=match):
        elbax.documents(data, **options)


def test_impossible_data_of_the_model():
    params = MODEL.init(jax.random.key(0))
    posterior = elbax.posteriors.CoordinateAscent(elbax.Exact(MODEL, params))
    bound = lambda batch: elbax.elbo(MODEL, params, posterior, batch)
    with pytest.raises(ValueError, match="row 0 has word 20, but the vocabulary"):
        bound(elbax.documents([[(20, 1)]], num_words=30))
    with pytest.raises(ValueError, match="expected documents as elbax.documents"):
        bound(COUNTS)
    with pytest.raises(ValueError, match="counts must be finite"):
        bound({"words": np.zeros((1, 1), int), "counts": np.full((1, 1), np.nan)})
    with pytest.raises(TypeError, match="evidence are not known"):
        elbax.evidence(MODEL, params, elbax.documents(COUNTS))
    with pytest.raises(TypeError, match="no prior, and a belief"):
        elbax.Bayesian(elbax.LatentDirichletAllocation(2, 3))


def test_empty_documents_have_the_proportions_of_the_prior():
    batch = elbax.documents([[], [(1, 3)]], num_words=12, allow_empty=True)
    params = MODEL.init(jax.random.key(0))
    posterior = elbax.posteriors.CoordinateAscent(elbax.Exact(MODEL, params), 5)
    first = jax.tree.map(lambda leaf: leaf[0], batch.x.groups[0])
    np.testing.assert_allclose(posterior(first).natural, np.full(3, 1 / 3), rtol=1e-12)


def test_ragged_is_a_pytree_of_groups():
    batch = elbax.documents(COUNTS, num_groups=2)
    assert isinstance(batch.x, Ragged) and len(batch.x.groups) == 2
    assert effective_weight(batch).shape == (40,)


@pytest.mark.slow
def test_topics_are_found_again():
    model = elbax.LatentDirichletAllocation(3, 30)
    rng = np.random.default_rng(0)
    topics = rng.dirichlet(np.full(30, 0.1), 3)
    params = model.from_description(topics=topics, concentration=np.full(3, 0.3))
    x, shares = model.sample(params, jax.random.key(0), 200, length=60)
    assert x["words"].shape == (200, 60) and shares.shape == (200, 3)
    face = LatentDirichletAllocation(3, random_state=0, max_iter=60)
    counts = np.stack([np.bincount(words, minlength=30) for words in np.asarray(x["words"])])
    face.fit(counts)
    found = face.components_ / face.components_.sum(1, keepdims=True)
    cost = np.abs(found[:, None] - topics[None]).sum(-1)
    assert cost[scipy.optimize.linear_sum_assignment(cost)].max() < 0.3


def test_face_is_that_of_scikit_learn():
    options = dict(
        random_state=0, mean_change_tol=1e-10, max_doc_update_iter=3000, total_samples=100
    )
    theirs = sklearn.decomposition.LatentDirichletAllocation(3, **options)
    ours = LatentDirichletAllocation(3, **options)
    counts = COUNTS.copy()
    counts[0] = 0
    for start in (0, 20):
        theirs.partial_fit(counts[start : start + 20])
        ours.partial_fit(scipy.sparse.csr_matrix(counts[start : start + 20]))
    np.testing.assert_allclose(ours.components_, theirs.components_, rtol=1e-6)
    np.testing.assert_allclose(ours.transform(counts), theirs.transform(counts), atol=1e-6)
    for sub_sampling in (False, True):
        np.testing.assert_allclose(
            ours.perplexity(counts, sub_sampling),
            theirs.perplexity(counts, sub_sampling),
            rtol=1e-8,
        )
    np.testing.assert_allclose(ours.score(counts), theirs.score(counts), rtol=1e-8)
    before = ours.components_
    with pytest.raises(ValueError, match="expecting 12 features"):
        ours.partial_fit(counts[:, :5])
    with pytest.raises(ValueError, match="Negative values"):
        ours.partial_fit(-counts)
    assert ours.components_ is before
    with pytest.raises(ValueError, match="'batch' or 'online'"):
        LatentDirichletAllocation(2, learning_method="exact").fit(counts)


@pytest.mark.slow
def test_online_face():
    face = LatentDirichletAllocation(
        3, learning_method="online", batch_size=10, max_iter=20, random_state=0
    )
    batch = LatentDirichletAllocation(3, max_iter=100, random_state=0).fit(COUNTS)
    assert batch.bound_ < face.fit(COUNTS).bound_ < 1.1 * batch.bound_


# Each of them fits; the others, which all pass as well, are about what scikit-learn's own classes do here.
CHECKS = {
    "check_estimators_dtypes",
    "check_estimators_nan_inf",
    "check_fit2d_1feature",
    "check_estimator_sparse_array",
    "check_transformer_general",
    "check_n_features_in_after_fitting",
    "check_estimators_partial_fit_n_features",
    "check_positive_only_tag_during_fit",
}


@pytest.mark.slow
@pytest.mark.parametrize(
    "check",
    [
        pytest.param(check, id=check.func.__name__)
        for _, check in estimator_checks_generator(LatentDirichletAllocation(2))
        if check.func.__name__ in CHECKS
    ],
)
def test_check(check):
    check(LatentDirichletAllocation(2))


def test_coherence_by_hand():
    batch = elbax.documents([[(0, 1), (1, 2)], [(0, 1)], [(0, 3), (2, 1)], [(3, 1)]], num_words=4)
    words = np.array([[0, 1], [1, 2]])
    umass = elbax.diagnostics.coherence(words, batch)
    np.testing.assert_allclose(umass, np.log([(1 + 1) / 3, (0 + 1) / 1]))
    npmi = elbax.diagnostics.coherence(words, batch, "npmi")
    np.testing.assert_allclose(npmi, [np.log((1 / 4) / (3 / 4 * 1 / 4)) / -np.log(1 / 4), -1])
    with pytest.raises(ValueError, match="'umass' or 'npmi'"):
        elbax.diagnostics.coherence(words, batch, "cv")
    with pytest.raises(ValueError, match="words must be whole numbers"):
        elbax.diagnostics.coherence(np.array([["a", "b"]]), batch)


def test_perplexity_is_that_of_gensim(ours):
    gensim = pytest.importorskip("gensim")
    batch, params, posterior = ours
    pairs = [[(w, int(c)) for w, c in enumerate(row) if c] for row in COUNTS]
    peer = gensim.models.LdaModel(
        num_topics=3,
        id2word={i: str(i) for i in range(12)},
        alpha=[0.3] * 3,
        eta=0.2,
        iterations=3000,
        gamma_threshold=1e-12,
        dtype=np.float64,
    )
    peer.state.sstats = np.exp(np.asarray(params["topics"])) - 0.2
    peer.sync_state()
    perplexity = elbax.diagnostics.perplexity(BAYESIAN, params, posterior, batch)
    np.testing.assert_allclose(perplexity, np.exp(-peer.log_perplexity(pairs)), rtol=1e-6)
