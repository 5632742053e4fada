"""Wrappers, which make an update from another: one per file."""

from ._accelerate import Accelerate as Accelerate
from ._anneal import Anneal as Anneal
from ._averaged import Averaged as Averaged
from ._certify import Certificate as Certificate, Certify as Certify
from ._every import Every as Every
from ._guard import Guard as Guard
from ._only import Only as Only
from ._repeat import Repeat as Repeat
from ._wrapper import (
    AbstractRemembering as AbstractRemembering,
    AbstractWrapper as AbstractWrapper,
)
