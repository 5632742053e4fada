"""One pass over data, for updates of one's own: sums over rows, expected statistics, gradients.

Each takes chunks of rows where `chunk_size` is given, data that are sharded over devices, weights, masks and
padding, as the library's own updates do.
"""

from ._batch import over_rows as over_rows, reduce_data as reduce_data
from ._pass import (
    elbo_and_gradient as elbo_and_gradient,
    expected_statistics as expected_statistics,
    per_datum as per_datum,
)
