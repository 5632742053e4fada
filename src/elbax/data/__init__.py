"""Data as models take them: batches, incomplete rows, sequences, moments."""

from ._documents import minibatches as minibatches
from ._ragged import Ragged as Ragged
