"""Two Japanese vowels, spoken by nine men."""

import importlib.resources

import numpy as np

from .._types import Float, Int


def japanese_vowels() -> tuple[tuple[Float[np.ndarray, "length 12"], ...], Int[np.ndarray, " 640"]]:
    """Returns (sequences, speakers): 640 utterances of /ae/, and which of nine men (0 to 8) spoke each.

    A sequence has 7 to 29 frames of 12 LPC cepstrum coefficients, rounded to four digits. The first 270 sequences
    are the training set of the source, 30 of each speaker; the other 370 are its test set.

    Source: M. Kudo, J. Toyama and M. Shimbo (1999), *Multidimensional curve classification using passing-through
    regions*, Pattern Recognition Letters 20, 1103-1111; UCI Machine Learning Repository, Japanese Vowels, licensed
    CC BY 4.0.
    """
    file = importlib.resources.files("elbax.datasets") / "japanese_vowels.npz"
    with file.open("rb") as opened, np.load(opened) as arrays:
        frames = np.cumsum(arrays["differences"].T, 0, dtype=int) / 1e4
        ends, speakers = np.cumsum(arrays["lengths"].astype(int)), arrays["speakers"].astype(int)
    return tuple(np.split(frames, ends[:-1])), speakers
