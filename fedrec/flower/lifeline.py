"""A child process that ends with the process that started it, however that ends."""

from __future__ import annotations

import os
import signal
import threading
import time

_LOOK_S, _PATIENCE_S = 0.2, 15.0


def end_with(parent: int) -> None:
    """Interrupt this process as soon as its parent has gone, and kill it if it has not ended some seconds later.

    Flower's own monitor asks whether there is a process of this number, which a killed parent stays until somebody
    collects it, or becomes again when the number is given to another.

    Args:
        parent: the process id of whoever started this process.
    """

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(_LOOK_S)
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(_PATIENCE_S)
        os.kill(os.getpid(), signal.SIGKILL)

    threading.Thread(target=watch, name="lifeline", daemon=True).start()
