"""What the error rates of `benchmarks/real_data.py` rest on."""

import importlib.util
from pathlib import Path

import pytest


FILE = Path(__file__).parents[1] / "benchmarks" / "scoring.py"


@pytest.fixture(scope="module")
def scoring():
    spec = importlib.util.spec_from_file_location("scoring", FILE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_edit_distance(scoring):
    assert scoring.edit_distance("kitten", "sitting") == 3
    assert scoring.edit_distance("", "abc") == scoring.edit_distance("abc", "") == 3
    assert scoring.edit_distance([1, 2, 3], [1, 2, 3]) == 0
    assert scoring.error_rate(["ab", "c"], ["b", "cd"]) == pytest.approx(2 / 3)


TEXT = """(ROOT (S (NP (DT the) (JJ old) (NN man)) (VP (VBZ sleeps)) (, ,)
  (SBAR (IN when) (S (NP (PRP he)) (VP (VBZ has) (NP (NN time))))) (. .)))"""


def test_trees(scoring):
    """Punctuation goes, chains of single children become one node, and binary rules give the tree's own spans."""
    (tree,) = scoring.read_trees(TEXT)
    assert scoring.tags(tree) == ["DT", "JJ", "NN", "VBZ", ",", "IN", "PRP", "VBZ", "NN", "."]
    tree = scoring.pruned(tree)
    assert tree == (
        "S",
        ("NP", ("DT", "the"), ("JJ", "old"), ("NN", "man")),
        ("VBZ", "sleeps"),
        (
            "SBAR",
            ("IN", "when"),
            ("S", ("PRP", "he"), ("VP", ("VBZ", "has"), ("NN", "time"))),
        ),
    )
    assert scoring.brackets(tree) == {(0, 8), (0, 3), (4, 8), (5, 8), (6, 8)}
    assert sorted(scoring.rules(tree)) == sorted(
        [
            ("S", "NP", "S|"),
            ("S|", "VBZ", "SBAR"),
            ("NP", "DT", "NP|"),
            ("NP|", "JJ", "NN"),
            ("SBAR", "IN", "S"),
            ("S", "PRP", "VP"),
            ("VP", "VBZ", "NN"),
        ]
    )
    assert scoring.pruned(("S", ("NP", ("VP", ("NN", "a"), ("NN", "b"))))) == (
        "S",
        ("NN", "a"),
        ("NN", "b"),
    )
    assert scoring.pruned(("NP", (".", "."))) is None


def test_f1(scoring):
    assert scoring.f1([{(0, 2), (1, 3)}], [{(0, 2)}]) == (0.5, 1.0, pytest.approx(2 / 3))
    assert scoring.f1([set()], [{(0, 2)}]) == (0.0, 0.0, 0.0)
