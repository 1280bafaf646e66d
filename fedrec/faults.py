"""Named fault points, where a test may have a process killed; they do nothing otherwise."""

from __future__ import annotations

import os
import signal

_ARMED = os.environ.get("FEDREC_FAULT_POINT")


def reach(name: str) -> None:
    """Die here, at once and without cleaning up, if this process was started with ``FEDREC_FAULT_POINT`` = name."""
    if name == _ARMED:
        os.kill(os.getpid(), signal.SIGKILL)
