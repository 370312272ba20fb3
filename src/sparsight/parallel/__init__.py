"""Several processes at one task: who they are, what they say to each other, how they end together."""

from sparsight.parallel.ending import GoneError, ends_together
from sparsight.parallel.launch import Part, join, launched, own_device, parse_part
from sparsight.parallel.ranks import Ranks
from sparsight.parallel.team import ALONE, Team

__all__ = [
    "ALONE",
    "GoneError",
    "Part",
    "Ranks",
    "Team",
    "ends_together",
    "join",
    "launched",
    "own_device",
    "parse_part",
]
