"""The systemd units: systemd's own checker finds nothing, and its score of what they may still do stays low."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]
UNITS = ("clients/fedrec-device.service", "server/fedrec-server.service")

ANALYZE = shutil.which("systemd-analyze") or ""

pytestmark = pytest.mark.skipif(not ANALYZE, reason="systemd-analyze is not installed")


def installed(unit: str, folder: Path) -> Path:
    """The unit with fedrec where this test has it: the checker looks for the command."""
    command = Path(sys.executable).with_name("fedrec")
    text = (REPOSITORY / unit).read_text()
    assert "/opt/fedrec/bin/fedrec" in text
    copy = folder / Path(unit).name
    copy.write_text(text.replace("ExecStart=/opt/fedrec/bin/fedrec", f"ExecStart={command}"))
    return copy


def verified(unit: Path) -> str:
    done = subprocess.run([ANALYZE, "verify", unit], check=False, capture_output=True, text=True)
    return done.stdout + done.stderr


@pytest.mark.parametrize("unit", UNITS)
def test_systemd_accepts_a_unit_without_a_word(unit: str, tmp_path: Path) -> None:
    assert verified(installed(unit, tmp_path)) == ""


def test_systemd_names_what_is_wrong(tmp_path: Path) -> None:
    unit = installed(UNITS[0], tmp_path)
    unit.write_text(unit.read_text().replace("NoNewPrivileges=yes", "NoNewPrivilegs=yes"))
    assert "NoNewPrivilegs" in verified(unit)


@pytest.mark.parametrize("unit", UNITS)
def test_a_unit_may_do_little_besides_its_work(unit: str, tmp_path: Path) -> None:
    done = subprocess.run(
        [ANALYZE, "security", "--offline=true", "--threshold=12", "--json=short", installed(unit, tmp_path)],
        check=False,
        capture_output=True,
        text=True,
    )
    left = {row["name"] for row in json.loads(done.stdout) if not row["set"]}
    assert done.returncode == 0, left  # an exposure of 1.2 of 10 at most
    assert "PrivateNetwork=" in left  # it has to reach the other side
