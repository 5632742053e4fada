"""Every law on every case."""

import laws
import pytest
from cases import CASES, SYSTEMS


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


@pytest.mark.parametrize("law", laws.OF_UPDATES, ids=lambda law: law.__name__)
@pytest.mark.parametrize("case", named(CASES))
def test_update(case, law):
    law(case)


EXACT = [system for system in SYSTEMS if system.model.exact]
LINEAR = [system for system in SYSTEMS if system.linear]


@pytest.mark.parametrize("system", named(EXACT))
def test_tightness(system):
    laws.tightness(system)


@pytest.mark.parametrize("system", named(SYSTEMS))
def test_chunks(system):
    laws.chunks(system)


@pytest.mark.parametrize("law", laws.OF_LINEAR_MIXTURES, ids=lambda law: law.__name__)
@pytest.mark.parametrize("system", named(LINEAR))
def test_mixture(system, law):
    law(system)
