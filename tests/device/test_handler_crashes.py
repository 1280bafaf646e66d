"""A device that dies at any point: no charge is forgotten, no attempt is answered in two ways, training goes on."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import fedrec
from fedrec.device import history
from fedrec.secagg.messages import Phase
from tests.device import answering
from tests.device.fleet import Fleet

ROOT = Path(fedrec.__file__).parents[1]

BEFORE = ("device.checked", "store.before-commit")
CHARGED = ("store.after-commit", "device.charged", "device.marked", "secagg.progress-stored", "device.contributed")
AFTER = ("device.kept",)


def ask(fleet: Fleet, folder: Path, point: str = "") -> subprocess.CompletedProcess[str]:
    """Have device 1 answer the question in a folder, in a process that dies at a point."""
    environment = {**os.environ, "FEDREC_FAULT_POINT": point, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "tests.device.answering", str(fleet.homes[1].root), str(folder)]
    command += [str(fleet.clock.now), str(folder / "reply")]
    return subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, check=False, timeout=60)


@pytest.mark.parametrize("point", [*BEFORE, *CHARGED, *AFTER])
def test_a_kill_at_any_point_loses_no_charge_and_doubles_none(tmp_path: Path, point: str) -> None:
    fleet = Fleet(tmp_path)
    server = fleet.until(Phase.MASKED)
    answering.write(fleet.question(fleet.request("masked"), server.routes[1]), tmp_path / "question")
    assert ask(fleet, tmp_path / "question", point).returncode == -signal.SIGKILL
    assert not (tmp_path / "question" / "reply").exists()
    with fleet.homes[1].open_store() as store:
        assert history.counts(store).events == len(range(1, 40, 3)), "no interaction is lost"
    # What is asked again gets the one answer that was paid for, or none: of an attempt that was charged, no second one.
    again = ask(fleet, tmp_path / "question")
    assert (again.returncode == 0) == (point not in CHARGED), again.stderr
    assert len(fleet.charges(1)) == 1
    if again.returncode == 0:
        server.receive(1, (tmp_path / "question" / "reply").read_bytes())
    fleet.step(server, without=[1])
    server.advance()
    # The others, and the next attempt, go on with this device.
    assert fleet.round(attempt=1).n_users == 4
    assert fleet.charges(1)[-1][:2] == (1, 1)


def test_a_numpy_model_is_answered_without_heavy_libraries(tmp_path: Path) -> None:
    fleet = Fleet(tmp_path, ['model.name="mf"', 'model.start="random"'])
    server = fleet.until(Phase.MASKED)
    answering.write(fleet.question(fleet.request("masked"), server.routes[1]), tmp_path / "question")
    done = ask(fleet, tmp_path / "question")
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "[]"
