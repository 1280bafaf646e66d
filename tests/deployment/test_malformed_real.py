"""Malformed questions to real devices and malformed replies to a real server, all of them through Flower."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import fedrec
from fedrec.audit.verify import verify
from fedrec.device.home import DeviceHome
from simulations.local_deployment import Device
from tests.deployment.malformed import ASKED, LIAR, TAKEN
from tests.deployment.real import Real, below
from tests.deployment.spoiled import COPIES, FOLDER, GIVEN, PHASES

pytestmark = pytest.mark.slow

ROOT = Path(fedrec.__file__).parents[1]
ROUNDS = 2
CONSTANT = {"config": {"protocol": 2, "refused": 1}}

SERVING = """
import signal
import sys
from pathlib import Path

from fedrec.deployment import apps
from fedrec.deployment.home import ServerHome
from fedrec.deployment.supervisor import Supervisor

apps._COMPONENTS = {**apps._COMPONENTS, "serverapp": "tests.deployment.malformed:app"}
supervisor = Supervisor(ServerHome.open(Path(sys.argv[1])), print)
signal.signal(signal.SIGTERM, lambda *_: supervisor.stop())
supervisor.up(until_done=False)
"""
"""The real server, but for the ServerApp that its signed app names."""

STARTING = """
import sys

if "flwr-clientapp" in sys.orig_argv:
    from tests.deployment.spoiled import spoil

    spoil()
"""
"""What every Python of the liar imports at its start."""


class Run:
    """A finished training amid malformed messages.

    Attributes:
        real: the deployment.
        folder: of what happened.
        supernodes: of each device, before the first malformed message and after the last.
    """

    def __init__(self, real: Real, folder: Path) -> None:
        self.real, self.folder = real, folder
        path = {"PYTHONPATH": str(ROOT), FOLDER: str(folder)}
        (folder / "sitecustomize.py").write_text(STARTING)
        with real.given(path):
            real.prepare(rounds=ROUNDS, deadline=240.0, script=SERVING)
        for device in real.devices:
            liar = device is real.devices[LIAR - 1]
            with real.given(path | {"PYTHONPATH": f"{folder}:{ROOT}"} if liar else {}):
                real.start(device)
        real.wait("an attempt began", 240, lambda: bool(real.log("recruited")))
        before = [supernode(device) for device in real.devices]
        real.wait("training was finished", 1200, lambda: bool(real.log("finished")))
        self.supernodes = before, [supernode(device) for device in real.devices]
        self.asked: dict[str, Any] = json.loads((folder / ASKED).read_text())

    def notes(self, name: str) -> list[dict[str, Any]]:
        return [json.loads(line) for line in (self.folder / name).read_text().splitlines()]


def supernode(device: Device) -> list[int]:
    """The processes of a device's SuperNode itself."""
    assert device.agent is not None
    return below(device.agent.pid, "flower-supernode")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Run]:
    with Real(tmp_path_factory.mktemp("real")) as real:
        yield Run(real, tmp_path_factory.mktemp("happened"))


def test_every_malformed_question_gets_the_one_constant(run: Run) -> None:
    assert sum(len(device["cases"]) for device in run.asked["devices"]) >= 20
    for device in run.asked["devices"]:
        assert device["said"] == [CONSTANT] * len(device["cases"]), device


def test_each_was_refused_for_what_was_wrong_with_it(run: Run) -> None:
    for asked in run.asked["devices"]:
        with DeviceHome.open(run.real.devices[asked["device"] - 1].home).open_store() as store:
            found = {code for (code,) in store.query("SELECT code FROM refusals")}
        assert found == {code for _, code in asked["cases"] if code}


def test_nothing_was_charged_but_the_two_rounds_and_nothing_before_the_honest_question(run: Run) -> None:
    for device in run.real.devices:
        with DeviceHome.open(device.home).open_store() as store:
            charges = store.query("SELECT round, attempt, at FROM charges ORDER BY rowid")
        assert [(round_, attempt) for round_, attempt, _ in charges] == [(1, 0), (2, 0)]
        assert all(at >= int(run.asked["until"]) for _, _, at in charges)


def test_no_process_ended_but_those_of_one_message(run: Run) -> None:
    before, after = run.supernodes
    assert before == after
    assert all(len(pids) == 1 for pids in before)
    assert run.real.server_said().count("training: process") == 1


def test_of_the_liars_answers_the_honest_ones_alone_were_taken(run: Run) -> None:
    given = [line for line in run.notes(GIVEN) if line["copy"]]
    taken = [line for line in run.notes(TAKEN) if line["who"] == LIAR]
    for phase in PHASES:
        copies = [line for line in given if line["phase"] == phase]
        assert len(copies) == COPIES
        (answer,) = {line["sha256"] for line in copies}  # asked again, a device says the same
        assert next(line["sha256"] for line in taken if line["phase"] == phase) == answer
    assert len(given) >= 20
    assert [line["phase"] for line in taken] == [*PHASES, *PHASES[1:]], "one a phase, in both rounds"


def test_training_went_on_to_its_end(run: Run) -> None:
    assert [line["survivors"] for line in run.real.log("round")] == [4] * ROUNDS
    assert not verify(run.real.server / "run").faults


def test_a_finished_server_that_is_killed_is_finished_when_it_has_started_again(run: Run) -> None:
    run.real.kill_server()
    run.real.up()
    assert run.real.status()["state"] == "finished"
    assert not verify(run.real.server / "run").faults
