"""Flower's SuperLink, as a child that does not outlive the server that started it."""

from __future__ import annotations

import sys

from flwr.supercore.app_utils import start_parent_process_monitor
from flwr.superlink.cli import flower_superlink


def main(arguments: list[str]) -> None:
    """Run ``flower-superlink``: the parent's process id, then its own arguments."""
    parent, *rest = arguments
    start_parent_process_monitor(int(parent))
    sys.argv = ["flower-superlink", *rest]
    flower_superlink()


if __name__ == "__main__":
    main(sys.argv[1:])
