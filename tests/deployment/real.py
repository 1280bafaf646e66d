"""A deployment of real processes on loopback, driven by the command line as its owners would."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from fedrec.deployment.home import ServerHome
from fedrec.device.home import DeviceHome
from tests.deployment.world import free_port

FEDREC = str(Path(sys.executable).parent / "fedrec")

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
cohort = {n}
min_cohort = 3
attempts = 6
[privacy]
noise = "skellam"
noise_multiplier = 40.0
[deployment]
deadline = 60.0
spare_attempts = 6
"""

POLICY = {
    "opt_in": "true",
    "min_cohort": "3",
    "epsilon_day": "50.0",
    "epsilon_total": "50.0",
    "answer_seconds": "0.1",
}


def fedrec(*arguments: str) -> str:
    """What a command prints; it must succeed."""
    done = subprocess.run([FEDREC, *arguments], capture_output=True, text=True, check=False, timeout=180)
    assert done.returncode == 0, (arguments, done.stdout, done.stderr)
    return done.stdout


def wait_for(what: Callable[[], Any], seconds: float, why: str) -> Any:
    """The first true value."""
    deadline = time.monotonic() + seconds
    while not (found := what()):
        assert time.monotonic() < deadline, f"{why}: not within {seconds:g} s"
        time.sleep(0.25)
    return found


class Real:
    """A server and its devices; `stop` ends every process that was started.

    Attributes:
        server: the server's folder.
        devices: the devices' folders.
    """

    def __init__(self, folder: Path, n: int = 4, rounds: int = 3) -> None:
        self.folder, self.port = folder, free_port()
        self.server, self.devices = folder / "server", [folder / f"device-{number}" for number in range(n)]
        self.running: dict[Path, subprocess.Popen[bytes]] = {}
        (folder / "experiment.toml").write_text(EXPERIMENT.format(n=n, rounds=rounds))
        (folder / "items.csv").write_text("item_id\n" + "".join(f"i{item}\n" for item in range(60)))
        where = ["--host", "localhost", "--port", str(self.port), "--listen", "127.0.0.1", "--home", str(self.server)]
        items = ["--experiment", str(folder / "experiment.toml"), "--items", str(folder / "items.csv")]
        fedrec("server", "init", *items, *where)
        for number, device in enumerate(self.devices):
            fedrec("device", "init", "--home", str(device))
            history = folder / f"history-{number}.csv"
            history.write_text("item_id,at\n" + "".join(f"i{i},{1_700_000_000 + i}\n" for i in range(number, 60, 5)))
            fedrec("device", "import", str(history), "--time-column", "at", "--home", str(device))
            policy = DeviceHome.open(device).policy_path
            text = policy.read_text()
            for key, value in POLICY.items():
                text = re.sub(rf"^{key} = .*$", f"{key} = {value}", text, flags=re.MULTILINE)
            policy.write_text(text)

    @property
    def home(self) -> ServerHome:
        return ServerHome.open(self.server)

    def up(self, *options: str) -> None:
        """Start the server and wait until devices can connect."""
        self._start(self.server, ["server", "up", *options])
        wait_for(lambda: "devices connect to" in self.said(self.server), 90, "the server is up")

    def enrol(self) -> None:
        for device in self.devices:
            token = fedrec("server", "token", "--home", str(self.server)).split()[-1]
            fedrec("device", "enrol", token, "--home", str(device))

    def run(self, device: Path) -> None:
        """Start a device."""
        self._start(device, ["device", "run", "--sync-seconds", "5"])

    def said(self, place: Path) -> str:
        """What a process has printed."""
        return self._log(place).read_text(errors="replace")

    def status(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(fedrec("server", "status", "--json", "--home", str(self.server)))
        return found

    def lines(self, name: str) -> list[dict[str, Any]]:
        """A file of JSON lines in the run folder."""
        path = self.server / "run" / name
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    def stop(self, place: Path) -> int:
        """Ask a process to end; its exit code."""
        process = self.running.pop(place)
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
        return process.wait(timeout=60)

    def stop_all(self) -> None:
        for place in reversed(list(self.running)):
            try:
                self.stop(place)
            except subprocess.TimeoutExpired:
                continue

    def _start(self, place: Path, arguments: list[str]) -> None:
        with self._log(place).open("wb") as log:
            self.running[place] = subprocess.Popen(
                [FEDREC, *arguments, "--home", str(place)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env={**os.environ, "PYTHONUNBUFFERED": "1"},
            )

    def _log(self, place: Path) -> Path:
        return self.folder / f"{place.name}.out"
