"""Small real data sets that come with elbax, each with its source."""

from ._earthquakes import earthquakes as earthquakes
from ._handwritten_words import handwritten_words as handwritten_words
from ._house_votes import house_votes as house_votes, VOTES as VOTES
from ._japanese_vowels import japanese_vowels as japanese_vowels
from ._lambda_phage import lambda_phage as lambda_phage
from ._moby_dick import moby_dick as moby_dick
from ._nile import nile as nile
from ._old_faithful import old_faithful as old_faithful
from ._transfer_rna import transfer_rna as transfer_rna
