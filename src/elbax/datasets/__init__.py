"""Small real data sets that come with elbax, each with its source."""

from ._old_faithful import old_faithful as old_faithful
