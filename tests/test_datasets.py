"""The data that come with elbax: shapes, and facts that are known of them."""

import numpy as np

import elbax


def test_lambda_phage():
    x = np.asarray(elbax.datasets.lambda_phage())
    assert x.shape == (48502, 1) and x.dtype.kind == "i"
    letters = np.array(list("ACGT"))[x[:, 0]]
    assert "".join(letters[:12]) == "GGGCGGCGACCT"  # the cohesive end
    counts = dict(zip(*np.unique(letters, return_counts=True)))
    assert counts == {"A": 12334, "C": 11362, "G": 12820, "T": 11986}
    bound = (x == 1) | (x == 2)  # the left arm is the richer one in G and C
    assert bound[:20000].mean() > 0.56 > 0.47 > bound[20000:40000].mean()


def test_transfer_rna():
    sequences, brackets = elbax.datasets.transfer_rna()
    assert len(sequences) == len(brackets) == len(set(sequences)) == 1282
    pairs = []
    for sequence, signs in zip(sequences, brackets):
        assert len(sequence) == len(signs) and set(sequence) <= set("ACGU")
        opened = []
        for i, sign in enumerate(signs):
            if sign == "<":
                opened.append(i)
            elif sign == ">":
                pairs.append(sequence[opened.pop()] + sequence[i])
        assert not opened
    kinds = dict(zip(*np.unique(pairs, return_counts=True)))
    # Watson and Crick's pairs, and the wobble: nothing else is annotated.
    assert set(kinds) == {"GC", "CG", "AU", "UA", "GU", "UG"}
    assert kinds["GC"] + kinds["CG"] > 0.5 * len(pairs)
