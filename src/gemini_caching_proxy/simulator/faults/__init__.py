"""Everything that can go wrong with an upstream, by name: `rst-at:2`, `short-length`, `429:date`, …"""

from .catalogue import CATALOGUE, FAULTS, Fault, Stage, UnknownFaultError, parse

__all__ = ["CATALOGUE", "FAULTS", "Fault", "Stage", "UnknownFaultError", "parse"]
