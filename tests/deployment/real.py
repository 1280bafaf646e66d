"""A deployment of real processes on loopback, driven by the command line as its owners would, to be looked into."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from simulations.local_deployment import DemonstrationError, Device, LocalDeployment

EXPERIMENT = """
name = "real"
[data]
name = "synthetic"
[model]
name = "mf"
start = "random"
dimension = 4
[federation]
rounds = {rounds}
cohort = 4
min_cohort = 3
attempts = 8
[privacy]
noise_multiplier = 60.0
epsilon = 50.0
[deployment]
deadline = {deadline}
spare_attempts = {spare}
answer_seconds = 0.1
"""

POLICY = {
    "opt_in": True,
    "min_cohort": 3,
    "epsilon_day": 50.0,
    "epsilon_total": 50.0,
    "attempts_per_round": 8,
    "answer_seconds": 0.1,
}

SEEN = 12
"""Interactions of each user at the beginning."""


class Real(LocalDeployment):
    """A server and its devices; leaving it ends every process that was started."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self._given: Mapping[str, str] = {}

    def prepare(
        self, n: int = 4, rounds: int = 3, deadline: float = 60.0, spare: int = 6, script: str | None = None
    ) -> None:
        """Make and start the server, or a script in its place, and make and enrol so many devices."""
        experiment, items = self.folder / "experiment.toml", self.folder / "items.csv"
        experiment.write_text(EXPERIMENT.format(rounds=rounds, deadline=deadline, spare=spare))
        items.write_text("item_id\n" + "".join(f"i{item}\n" for item in range(60)))
        self.init(experiment, items)
        if script is None:
            self.up()
        else:
            self.serve(script)
        for number in range(n):
            history = self.folder / f"history-{number}.csv"
            with history.open("w", newline="") as file:
                csv.writer(file).writerows(
                    [("item_id", "time"), *((f"i{number + 5 * k}", 1_700_000_000 + k) for k in range(SEEN))]
                )
            self.add(f"device {number + 1}", history, POLICY)

    @contextmanager
    def given(self, environment: Mapping[str, str]) -> Iterator[None]:
        """What is started within sees more in its environment."""
        self._given = environment
        try:
            yield
        finally:
            self._given = {}

    def _environment(self) -> dict[str, str]:
        return {**super()._environment(), **self._given}

    # What is started, and how it ends

    def wait(self, what: str, seconds: float, true: Callable[[], bool]) -> None:
        """As `LocalDeployment.wait`; a failure shows what the server has said last."""
        try:
            super().wait(what, seconds, true)
        except DemonstrationError as error:
            error.add_note(self.server_said()[-2000:])
            raise

    def serve(self, script: str, *words: str) -> None:
        """Start a script in the place of ``fedrec server up``, and wait until it listens."""
        before = len(self.log("gateway", "server"))
        with (self.folder / "server.txt").open("ab") as output:
            self._up = subprocess.Popen(
                [sys.executable, "-u", "-c", script, str(self.server), *words],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=self._environment(),
            )
        self.wait("the gateway listened", 180, lambda: len(self.log("gateway", "server")) > before)

    def down(self) -> int | None:  # type: ignore[override] # tells more
        """Stop the server in order; its exit code."""
        server = self._up
        super().down()
        return None if server is None else server.returncode

    def kill_server(self) -> None:
        """SIGKILL to the server's process alone: what it has started must end by itself."""
        server = self._up
        assert server is not None
        server.kill()
        server.wait()
        self._up = None

    # What they say

    def server_said(self) -> str:
        """All that the server has printed."""
        return (self.folder / "server.txt").read_text(errors="replace")

    def said(self, device: Device) -> str:
        """What a device's agent has printed since it was started."""
        whole = (self.folder / f"{device.home.name}.txt").read_text(errors="replace")
        return whole[whole.rfind(f"device {device.home.name[-1]} of ") :]

    def lines(self, name: str) -> list[dict[str, Any]]:
        """The whole lines of a file in the run folder."""
        path = self.server / "run" / name
        found = path.read_text().splitlines(keepends=True) if path.exists() else []
        return [json.loads(line) for line in found if line.endswith("\n")]


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def below(pid: int, word: str) -> list[int]:
    """The processes below one whose command lines have a word."""
    found = []
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        try:
            children = [int(child) for child in task.read_text().split()]
        except OSError:  # it has just ended
            continue
        for child in children:
            try:
                command = Path(f"/proc/{child}/cmdline").read_bytes().decode(errors="replace")
            except OSError:
                continue
            found += [child] * (word in command) + below(child, word)
    return found
