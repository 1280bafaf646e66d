"""The example of a hook says yes at night and on mains, and no otherwise."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

HOOK = Path(__file__).parents[2] / "clients/hook.sh"


def says_yes(folder: Path, hour: int, battery: str | None) -> bool:
    """Its answer on a machine with this time and battery."""
    clock = folder / "date"
    clock.write_text(f"#!/bin/sh\necho {hour}\n")
    clock.chmod(0o700)
    supply = folder / "power" / "BAT0"
    if battery is not None:
        supply.mkdir(parents=True)
        (supply / "type").write_text("Battery\n")
        (supply / "status").write_text(f"{battery}\n")
    environment = {"PATH": f"{folder}:/usr/bin:/bin", "FEDREC_POWER": str(folder / "power")}
    return subprocess.run([HOOK], check=False, env=environment, stdin=subprocess.DEVNULL).returncode == 0


@pytest.mark.parametrize(
    ("hour", "battery", "yes"),
    [
        (3, None, True),
        (23, "Charging", True),
        (7, "Full", True),
        (8, None, False),
        (21, "Full", False),
        (3, "Discharging", False),
    ],
)
def test_the_hook_answers_by_the_hour_and_the_battery(
    tmp_path: Path, hour: int, battery: str | None, yes: bool
) -> None:
    assert says_yes(tmp_path, hour, battery) is yes
