"""Rehearsal: some examples of what a model knew are kept, and shown to it again while it learns something else."""

from forgetting.rehearsal.agem import AGEM
from forgetting.rehearsal.base import Rehearsal
from forgetting.rehearsal.der import DER
from forgetting.rehearsal.memory import Drawn, Memory
from forgetting.rehearsal.proxy import ProxyReplay
from forgetting.rehearsal.replay import Replay

__all__ = ["AGEM", "DER", "Drawn", "Memory", "ProxyReplay", "Rehearsal", "Replay"]
