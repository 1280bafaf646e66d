"""A process that records what a user sees, and prints each item once it is safe."""

from __future__ import annotations

from pathlib import Path

from fedrec import faults
from fedrec.device import history
from tests.faults.world import World


def main(root: str) -> None:
    """The fault point counts from the fourth item on."""
    armed, faults._ARMED = faults._ARMED, None
    with World(Path(root)).device(1).open_store() as store:
        for number in range(6):
            if number == 3:
                faults._ARMED = armed
            history.record(store, f"new-{number}", at=1_800_000_000 + number)
            print(f"new-{number}", flush=True)
