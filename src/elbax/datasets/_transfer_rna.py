"""Transfer RNAs and which of their bases pair."""

import gzip
import importlib.resources


def transfer_rna() -> tuple[tuple[str, ...], tuple[str, ...]]:
    """(sequences, brackets): 1282 transfer RNAs, letters A, C, G, U, and a string as long of each, in which the
    `<` and the `>` that match are two bases that pair and `.` is one that does not.

    The sequences differ from one another and have 62 to 122 bases. Source: the alignment `tRNA1415G.sto` of the
    test suite of Infernal (E. P. Nawrocki and S. R. Eddy, 2013, Bioinformatics 29, 2933-2935; BSD license),
    of sequences compiled by S. Steinberg, A. Misch and M. Sprinzl (1993), Nucleic Acids Research 21, 3011-3015.
    Gaps are taken out, and so are repeated sequences and those with a base that is not known.
    """
    file = importlib.resources.files("elbax.datasets") / "transfer_rna.txt.gz"
    lines = gzip.decompress(file.read_bytes()).decode().splitlines()
    sequences, brackets = zip(*(line.split() for line in lines))
    return sequences, brackets
