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


def test_handwritten_words():
    images, words = elbax.datasets.handwritten_words()
    assert len(images) == len(words) == 1330 and len(set(words)) == 55
    for image, word in zip(images, words):
        assert image.shape == (len(word), 16, 8) and image.dtype == bool
        assert word.isalpha() and word.islower() and image.any((1, 2)).all()
    # Images and letters go together: most letters look like the mean of their kind in the other fold.
    letters, pixels = np.array(list("".join(words))), np.concatenate(images)
    first = np.arange(len(letters)) < sum(map(len, words[:626]))
    kinds = np.unique(letters)
    template = np.stack([pixels[first & (letters == kind)].mean(0) for kind in kinds])
    distance = ((pixels[~first][:, None] - template) ** 2).sum((2, 3))
    assert (kinds[distance.argmin(1)] == letters[~first]).mean() > 0.5


def test_moby_dick():
    text = elbax.datasets.moby_dick()
    paragraphs = text.splitlines()
    headings = [line for line in paragraphs if line.startswith("CHAPTER ")]
    assert [int(line.split()[1][:-1]) for line in headings] == list(range(1, 23))
    assert paragraphs[1].startswith("Call me Ishmael. Some years ago")
    assert paragraphs[-1].endswith("like fate into the lone Atlantic.")
    assert len(text.split()) > 38_000 and not any(line != line.strip() for line in paragraphs)
    # English: e is the most frequent letter, and "the" the most frequent word.
    letters = [letter for letter in text.lower() if letter.isalpha()]
    assert max(set(letters), key=letters.count) == "e"
    words = text.lower().split()
    assert max(set(words), key=words.count) == "the"


def test_japanese_vowels():
    sequences, speakers = elbax.datasets.japanese_vowels()
    lengths = np.array([len(sequence) for sequence in sequences])
    assert len(sequences) == len(speakers) == 640 and (lengths.min(), lengths.max()) == (7, 29)
    assert sum(lengths) == 9961 and all(sequence.shape[1] == 12 for sequence in sequences)
    np.testing.assert_array_equal(np.bincount(speakers[:270]), 30)
    np.testing.assert_array_equal(np.bincount(speakers[270:]), [31, 35, 88, 44, 29, 24, 40, 50, 29])
    # Utterances and speakers go together: the nearest mean of an utterance is mostly its speaker's.
    means = np.stack([sequence.mean(0) for sequence in sequences])
    centers = np.stack([means[:270][speakers[:270] == one].mean(0) for one in range(9)])
    nearest = ((means[270:, None] - centers) ** 2).sum(2).argmin(1)
    assert (nearest == speakers[270:]).mean() > 0.9
