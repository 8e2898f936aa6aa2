"""The fault disk: faults below LMDB for real, and what a power cut would leave, from a preloaded library of our own.

`disk` compiles shim.c and rules it; `journal` reads what it recorded; `powercut` makes disks from a journal. Used by
`gonets bench torture` and by the tests of everything that syncs.
"""

from bench.faultdisk.disk import Action, FaultDisk, Kind, NoCompiler, Rule, library
from bench.faultdisk.journal import Entry, entries
from bench.faultdisk.powercut import Machine

__all__ = [
    "Action",
    "Entry",
    "FaultDisk",
    "Kind",
    "Machine",
    "NoCompiler",
    "Rule",
    "entries",
    "library",
]
