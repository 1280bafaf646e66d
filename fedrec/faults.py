"""Named fault points, where a test may have a process killed; they do nothing otherwise."""

from __future__ import annotations

import os
import signal

POINTS = frozenset(
    {
        "store.before-commit",
        "store.after-commit",
        "device.checked",
        "device.contributed",
        "device.kept",
        "device.charged",
        "device.marked",
        "secagg.progress-stored",
        "ledger.before-write",
        "ledger.written",
        "ledger.synced",
        "folder.before-rename",
        "folder.renamed",
        "folder.round-written",
        "restore.aside",
        "restore.copied",
        "restore.replaced",
        "run.planned",
        "run.reserved",
        "run.collected",
        "run.aggregated",
        "run.committed",
        "run.recorded",
        "run.saved",
        "server.recruited",
        "server.published",
    }
)
"""Every point that stands in the library."""

_ARMED = os.environ.get("FEDREC_FAULT_POINT")


def reach(name: str) -> None:
    """Die here, at once and without cleaning up, if this process was started with ``FEDREC_FAULT_POINT`` = name."""
    if name == _ARMED:
        os.kill(os.getpid(), signal.SIGKILL)
