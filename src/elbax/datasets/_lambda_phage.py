"""The genome of the bacteriophage lambda."""

import gzip
import importlib.resources

import jax.numpy as jnp
import numpy as np

from .._types import Array, Int


def lambda_phage() -> Int[Array, "48502 1"]:
    """Returns the 48,502 bases of the genome of the bacteriophage lambda, one column: 0, 1, 2, 3 for A, C, G, T.

    Source: F. Sanger, A. R. Coulson, G. F. Hong, D. F. Hill and G. B. Petersen (1982), *Nucleotide sequence of
    bacteriophage λ DNA*, Journal of Molecular Biology 162, 729-773; GenBank J02459 (RefSeq NC_001416), public
    domain.
    """
    file = importlib.resources.files("elbax.datasets") / "lambda_phage.txt.gz"
    letters = np.frombuffer(gzip.decompress(file.read_bytes()), dtype=np.uint8)
    return jnp.asarray(np.searchsorted(np.frombuffer(b"ACGT", np.uint8), letters)[:, None], int)
