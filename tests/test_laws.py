"""Every law on every case."""

import dataclasses

import jax
import laws
import pytest
from cases import CASES, find, SYSTEMS
from units import SCALINGS


# The quick tests hold these to every law, all others follow in the slow ones: a minute against ten.
QUICK = {
    "mixture-full-auto",
    "mixture-full-auto:exact/closed",
    "mixture-full-auto:joint",
    "plain-categorical:exact/gradient",
    "hidden-markov:exact/closed",
}


def named(items):
    def marks(item):
        return () if item.name in QUICK else (pytest.mark.slow,)

    return [pytest.param(item, id=item.name, marks=marks(item)) for item in items]


def test_a_program_that_asks_first_keeps_nothing_of_itself():
    """Params, data and posteriors are made once, by whichever test comes first, perhaps inside of a trace."""
    case = find("mixture-full-auto:encoder/closed")
    fresh = dataclasses.replace(case, system=dataclasses.replace(case.system))
    jax.make_jaxpr(lambda: (fresh.system.params, fresh.posterior))()
    made = jax.tree.leaves((fresh.system.params, fresh.system.x, fresh.posterior))
    assert made and not any(isinstance(leaf, jax.core.Tracer) for leaf in made)


# The updates that pass over data in ways of their own, and every model once. (Both forms take twice as long to
# compile.)
BOTH_FORMS = {"exact/closed", "exact/gradient", "joint", "anneal", "local/closed", "encoder/closed"}


# Other cases have all their parts: the kind of posterior on the same latent, the steps, and the model.
REPEATED = {
    "mixture-full-difference:exact/gradient",
    "mixture-full-auto:encoder/gradient",
    "plain-categorical:joint",
    "plain-gaussian:joint",
    "factors-diagonal:draws/closed",
    "hidden-markov:hard/closed",
    "bayesian-full:exact/closed",
    "topics:ascent/online",
    "bayesian-topics:mean-field/closed",
}
UPDATED = [case for case in CASES if case.name not in REPEATED]


@pytest.mark.parametrize("law", laws.OF_UPDATES, ids=lambda law: law.__name__)
@pytest.mark.parametrize("case", named(UPDATED))
def test_update(case, law, request):
    if case.name.split(":")[1] in BOTH_FORMS:
        request.getfixturevalue("both_forms")
    law(case)


# One of each kind of pass over data, of posterior and of memory, as these laws compile programs of their own.
IN_MODES = [
    "mixture-full-auto:exact/closed",
    "mixture-full-auto:joint",
    "mixture-full-auto:mean-field/closed",
    "mixture-full-auto:local/closed",
    "mixture-full-auto:importance/gradient",
    "mixture-full-auto:exact/online",
    "mixture-full-auto:averaged",
    "mixture-full-auto:accelerate",
    "mixture-product:exact/closed",
    "mixture-poisson-regression:newton",
    "autoencoder:joint",
    "factors-diagonal:ecme",
    "hidden-markov:exact/closed",
    "grammar:exact/closed",
    "ctc:exact/gradient",
    "bayesian-network:exact/closed",
    "topics:ascent/closed",
]
IN_MODES = [case for case in CASES if case.name in IN_MODES]


@pytest.mark.parametrize("law", laws.OF_MODES, ids=lambda law: law.__name__)
@pytest.mark.parametrize("case", named(IN_MODES))
def test_mode(case, law):
    law(case)


# What is exact and takes little time to compile: a closed form, gradients, a part of the params, Newton's method.
DIFFERENTIATED = [
    "mixture-bernoulli:exact/closed",
    "plain-categorical:exact/gradient",
    "mixture-full-auto:only",
    "mixture-poisson-regression:newton",
    "factors-isotropic:exact/closed",
    "hidden-markov:exact/closed",
    "grammar:exact/closed",
    "ctc:exact/gradient",
    "topics:ascent/closed",
]


@pytest.mark.slow
@pytest.mark.parametrize("name", DIFFERENTIATED)
def test_slope(name):
    laws.slope(find(name))


@pytest.mark.parametrize("law", laws.OF_STATES, ids=lambda law: law.__name__)
@pytest.mark.parametrize("case", named(CASES))
def test_state(case, law):
    law(case)


# One of each kind of posterior, over one latent that is discrete and one that is not, and over structures. Their
# names are written down, as to make every posterior takes half a minute of each process that collects tests.
OF_EACH_KIND = [
    "autoencoder:encoder/gradient",
    "autoencoder:importance/gradient",
    "factors-diagonal:draws/closed",
    "factors-diagonal:exact/closed",
    "factors-diagonal:mean-field/closed",
    "grammar:exact/closed",
    "hidden-markov:draws/closed",
    "hidden-markov:exact/closed",
    "hidden-markov:hard/closed",
    "hidden-markov:mean-field/closed",
    "mixture-full-auto:encoder/closed",
    "mixture-full-auto:exact/closed",
    "mixture-full-auto:hard/closed",
    "mixture-full-auto:importance/gradient",
    "mixture-full-auto:local/closed",
    "mixture-full-auto:mean-field/closed",
    "mixture-full-auto:semi-amortized/closed",
    "topics:ascent/closed",
    "topics:mean-field/closed",
]
OF_EACH_KIND = [find(name) for name in OF_EACH_KIND]


def test_every_kind_of_posterior_is_named():
    def kinds(cases):
        return [(case.system.name, type(case.posterior)) for case in cases]

    systems = {case.system.name for case in OF_EACH_KIND}
    every = set(kinds(case for case in CASES if case.system.name in systems))
    assert sorted(kinds(OF_EACH_KIND), key=str) == sorted(every, key=str)


@pytest.mark.parametrize("law", laws.OF_POSTERIORS, ids=lambda law: law.__name__)
@pytest.mark.parametrize("case", OF_EACH_KIND, ids=lambda case: case.name)
def test_posterior(case, law):
    law(case)


# One of each kind of latent; the families themselves have a test for batches, each (test_rowwise.py).
BATCHED = {"mixture-full-auto", "plain-gaussian", "factors-diagonal", "ctc", "bayesian-network"}
EXACT = [system for system in SYSTEMS if system.model.exact]
LINEAR = [system for system in SYSTEMS if system.linear]


@pytest.mark.parametrize("system", named([s for s in EXACT if s.model.tight]))
def test_tightness(system, both_forms):
    laws.tightness(system)


@pytest.mark.parametrize("system", named([s for s in EXACT if s.name in BATCHED]))
def test_batch(system):
    laws.batch(system)


@pytest.mark.parametrize("system", EXACT, ids=lambda system: system.name)
def test_one_datum(system):
    laws.one_datum(system)


# One of each kind of model, as a mixture is summed in chunks whatever its components are.
CHUNKED = {"mixture-full-auto", "mixture-full-difference", "mixture-with-priors"}
CHUNKED |= {"mixture-product", "mixture-student", "mixture-factors", "mixture-regression"}


def in_chunks(system):
    return system.name in CHUNKED or not system.name.startswith("mixture-")


@pytest.mark.parametrize("system", named(filter(in_chunks, SYSTEMS)))
def test_chunks(system, both_forms):
    laws.chunks(system)


CLOSED = {case.system.name: case.system for case in CASES if case.name.endswith(":exact/closed")}


@pytest.mark.parametrize("system", named(CLOSED.values()))
def test_rebasing(system):
    laws.rebasing(system)


@pytest.mark.parametrize("law", laws.OF_LINEAR_MIXTURES, ids=lambda law: law.__name__)
@pytest.mark.parametrize("system", named(LINEAR))
def test_mixture(system, law, both_forms):
    law(system)


MEASURED = [
    case
    for case in CASES
    if case.system.name in SCALINGS
    and case.name.split(":")[1] in ("exact/closed", "ecme", "experts")
] + [find("factorial-hidden-markov:mean-field/closed"), find("switching:mean-field/closed")]


@pytest.mark.parametrize("case", named(MEASURED))
def test_units(case, both_forms):
    laws.units(case)


def test_every_system_of_measured_columns_has_units():
    """What is counted or chosen has none, nor what has a prior in units; a plain model is its user's."""
    counted = {"bernoulli", "poisson", "multinomial", "categorical", "poisson-regression"}
    others = {"grammar", "ctc", "bayesian-network", "autoencoder", "topics", "bayesian-topics"}
    others |= {
        "logistic",
        "probit",
        "hierarchy",
        "ladder",
        "recurrent",
        "diffusion",
        "neural-chain",
    }
    others |= {f"mixture-{name}" for name in (*counted, "with-priors", "tied-with-priors")}
    others |= {"plain-categorical", "plain-gaussian"}
    others |= {system.name for system in SYSTEMS if system.name.startswith("bayesian-")}
    assert {system.name for system in SYSTEMS} == others | set(SCALINGS)
