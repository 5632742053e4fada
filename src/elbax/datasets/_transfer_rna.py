"""Transfer RNAs and their base pairs."""

import gzip
import importlib.resources


def transfer_rna() -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Returns (sequences, brackets): 1282 transfer RNAs in the letters A, C, G, U, and their base pairs.

    In the string of brackets, matching `<` and `>` are two paired bases, and `.` is an unpaired base. The
    sequences are distinct and have 62 to 122 bases.

    Source: the alignment `tRNA1415G.sto` of the test suite of Infernal (E. P. Nawrocki and S. R. Eddy, 2013,
    Bioinformatics 29, 2933-2935; BSD license), of sequences compiled by S. Steinberg, A. Misch and M. Sprinzl
    (1993), Nucleic Acids Research 21, 3011-3015. Gaps are removed, and so are repeated sequences and those with an
    unknown base.
    """
    file = importlib.resources.files("elbax.datasets") / "transfer_rna.txt.gz"
    lines = gzip.decompress(file.read_bytes()).decode().splitlines()
    sequences, brackets = zip(*(line.split() for line in lines))
    return sequences, brackets
