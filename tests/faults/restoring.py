"""A process that puts a backup in the place of device 1's store."""

from __future__ import annotations

from pathlib import Path

from fedrec.device.restore import restore
from tests.faults.world import World


def main(root: str, backup: str) -> None:
    """Restore."""
    restore(World(Path(root)).device(1), Path(backup))
