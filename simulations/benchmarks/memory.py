"""Work "memory": the most memory (VmHWM) of a process that has done three rounds of work "mf"."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np

from simulations.benchmarks import mf
from simulations.benchmarks.peers.process import Peer
from simulations.benchmarks.rows import Row, of


def rows(repeats: int) -> list[Row]:  # noqa: ARG001 - a peak is a peak
    """By fedrec and by its peers; Flower's many processes are left out."""
    found = []
    with tempfile.TemporaryDirectory(prefix="fedrec-bench-") as scratch:
        np.savez(file := Path(scratch) / "task.npz", **vars(mf.drawn(mf.setting("numpy"))))
        for name in ("fedrec-numba", "fedrec-numpy", "torch-loop", "pfl"):
            with Peer.start(name, file) as peer:
                peer.rounds(3)
                found.append(of("memory", name, [peer.peak_mb()], "MB", "of the process, libraries included"))
    return found
