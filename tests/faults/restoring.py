"""A process that puts a backup in the place of device 1's store: ``python -m tests.faults.restoring ROOT BACKUP``."""

from __future__ import annotations

import sys
from pathlib import Path

from fedrec.device.restore import restore
from tests.faults.world import World

if __name__ == "__main__":
    restore(World(Path(sys.argv[1])).device(1), Path(sys.argv[2]))
