"""Flower's SuperLink, as a child that does not outlive the server that started it, and of which there is one."""

from __future__ import annotations

import sys
from pathlib import Path

from flwr.superlink.cli import flower_superlink

from fedrec.deployment import locks
from fedrec.flower.lifeline import end_with

_PATIENCE_S = 60.0


def main(arguments: list[str]) -> None:
    """Run ``flower-superlink`` once that of a killed server has ended, which may still hold its port and database.

    Args:
        arguments: the parent's process id, the lock file, then the command's own.

    Raises:
        ServerError: if another one goes on.
    """
    parent, lock, *rest = arguments
    end_with(int(parent))
    sys.argv = ["flower-superlink", *rest]
    with locks.held(Path(lock), "this server's SuperLink", _PATIENCE_S):
        flower_superlink()


if __name__ == "__main__":
    main(sys.argv[1:])
