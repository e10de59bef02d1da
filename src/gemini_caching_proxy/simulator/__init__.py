"""A Gemini API that behaves and misbehaves on demand, for the demo and the tests.

It frames its answers as the real API does, is deterministic by seed, plays the fault catalogue, and keeps a ledger of
all it received. It shares no code with the relay, so that neither can hide the other's mistakes.
"""

from .backend import SimulatorOptions
from .faults import CATALOGUE, FAULTS, UnknownFaultError
from .ledger import Ledger, Received
from .replay import RecordedExchange, ReplayUpstream
from .reply import Pacing, Reply
from .server import Server, ServerThread
from .simulator import Simulator, SimulatorThread

__all__ = [
    "CATALOGUE",
    "FAULTS",
    "Ledger",
    "Pacing",
    "Received",
    "RecordedExchange",
    "ReplayUpstream",
    "Reply",
    "Server",
    "ServerThread",
    "Simulator",
    "SimulatorOptions",
    "SimulatorThread",
    "UnknownFaultError",
]
