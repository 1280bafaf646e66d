"""A server and its devices on one machine, as processes of their own, started and asked as their owners would do it.

Everything goes through the command line, in one folder; only what stands in log files is read from them. What this
starts it stops: the server's and the devices' processes, whatever happens.
"""

from __future__ import annotations

import json
import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Self

import tomli_w

_FEDREC = (sys.executable, "-m", "fedrec.cli.main")
_STOP_S = 40.0


class DemonstrationError(Exception):
    """Something is not as it was told."""


@dataclass(frozen=True)
class RoundCost:
    """What the attempt that completed a round has cost.

    Attributes:
        round, attempt: which.
        asked, summed: devices that were asked, and whose vectors are in the sum.
        messages: to a device that stays in from the round before to the end; one that was not in it hears one more.
        seconds: in the exchanges of messages.
        up_bytes, down_bytes: of all devices.
        phases: their names and seconds.
    """

    round: int
    attempt: int
    asked: int
    summed: int
    messages: int
    seconds: float
    up_bytes: int
    down_bytes: int
    phases: Mapping[str, float]

    HEADER: ClassVar = "round  attempt  asked  in the sum  messages a device  seconds  kB up  kB down  phases"

    def line(self) -> str:
        """A line under `HEADER`."""
        phases = ", ".join(f"{name} {seconds:.1f}" for name, seconds in self.phases.items())
        return (
            f"{self.round:5d}  {self.attempt:7d}  {self.asked:5d}  {self.summed:10d}  {self.messages:17d}  "
            f"{self.seconds:7.1f}  {self.up_bytes / 1e3:5.1f}  {self.down_bytes / 1e3:7.1f}  {phases}"
        )


@dataclass(eq=False)
class Device:
    """A device: its folder, its name in the story, and its agent's process while it runs."""

    home: Path
    name: str
    agent: subprocess.Popen[bytes] | None = None


class LocalDeployment:
    """A server with its devices; leaving it stops all processes.

    Args:
        folder: an empty folder, for everything.
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self.server = folder, folder / "server"
        self.devices: list[Device] = []
        self._up: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for device in self.devices:
            if device.agent is not None:
                device.agent.terminate()
        for device in self.devices:
            self.stop(device)
        self.down()

    # The server

    def init(self, experiment: Path, items: Path, *changes: str) -> None:
        """Make the server, on a free port of 127.0.0.1."""
        sets = [word for change in changes for word in ("--set", change)]
        words = ["--experiment", str(experiment), "--items", str(items), "--host", "127.0.0.1", *sets]
        address = ["--port", str(free_port()), "--listen", "127.0.0.1"]
        self.run("server", "init", "--home", str(self.server), *words, *address)

    def up(self) -> None:
        """Start the server, or start it again, and wait until it can be reached."""
        before = len(self.log("gateway", "server"))
        self._up = self._start("server.txt", "server", "up", "--home", str(self.server))
        self.wait("the gateway listened", 180, lambda: len(self.log("gateway", "server")) > before)

    def down(self) -> None:
        """Stop the server in order."""
        _end(self._up)
        self._up = None

    def status(self) -> dict[str, Any]:
        """What `fedrec server status` says."""
        return self.told("server", "status", "--home", str(self.server))

    def log(self, event: str, name: str = "training") -> list[dict[str, Any]]:
        """The lines of one kind in a log of the server, ``training`` or ``server``."""
        path = self.server / "logs" / f"{name}.jsonl"
        lines = path.read_text(encoding="utf-8").splitlines(keepends=True) if path.exists() else []
        found = [json.loads(line) for line in lines if line.endswith("\n")]
        return [line for line in found if line["event"] == event]

    def rounds(self) -> list[RoundCost]:
        """Every round that is done, from the log of the training."""
        phases = self.log("phase")
        return [_cost(line, phases) for line in self.log("round")]

    # Devices

    def add(self, name: str, history: Path, policy: Mapping[str, Any]) -> Device:
        """Make a device, let its owner write its policy, enrol it, and import what its user has seen."""
        device = Device(self.folder / f"device-{len(self.devices) + 1}", name)
        home = ("--home", str(device.home))
        self.run("device", "init", *home)
        (device.home / "policy.toml").write_text(tomli_w.dumps(policy), encoding="utf-8")
        invitation = self.run("server", "token", "--home", str(self.server), "--note", name)
        self.run("device", "enrol", "-", *home, typed=invitation)
        self.run("device", "import", str(history), *home, "--time-column", "time")
        self.devices.append(device)
        return device

    def start(self, device: Device) -> None:
        """Start a device's agent, which starts the rest."""
        words = ("device", "run", "--home", str(device.home), "--sync-seconds", "20")
        device.agent = self._start(f"{device.home.name}.txt", *words)

    def kill(self, device: Device) -> int:
        """End all processes of a device by SIGKILL, as a power cut does; how many there were."""
        if device.agent is None:
            raise DemonstrationError(f"{device.name} does not run.")
        processes = [device.agent.pid, *_descendants(device.agent.pid)]
        for process in processes:
            os.kill(process, signal.SIGKILL)
        device.agent.wait()
        device.agent = None
        return len(processes)

    def freeze(self, device: Device) -> None:
        """Keep all processes of a device from going on, as if its network were gone, until `thaw`."""
        _signal(device, signal.SIGSTOP)

    def thaw(self, device: Device) -> None:
        """Let a device go on."""
        _signal(device, signal.SIGCONT)

    def stop(self, device: Device) -> None:
        """Stop a device in order."""
        _end(device.agent)
        device.agent = None

    def device_status(self, device: Device) -> dict[str, Any]:
        """What `fedrec device status` says."""
        return self.told("device", "status", "--home", str(device.home))

    # Any of them

    def run(self, *words: str, typed: str = "", wrong: bool = False) -> str:
        """What a command prints.

        Args:
            words: of the command, without ``fedrec``.
            typed: its standard input.
            wrong: whether it may fail.

        Raises:
            DemonstrationError: if it fails.
        """
        done = subprocess.run(
            [*_FEDREC, *words], check=False, capture_output=True, text=True, input=typed, env=self._environment()
        )
        if done.returncode and not wrong:
            said = (done.stderr or done.stdout).strip()
            raise DemonstrationError(f"'fedrec {' '.join(words)}' ended with {done.returncode}: {said}")
        return done.stdout

    def told(self, *words: str) -> dict[str, Any]:
        """What a command prints as JSON, even where its exit status is a verdict."""
        said = self.run(*words, "--json", wrong=True)
        if not said:
            raise DemonstrationError(f"'fedrec {' '.join(words)} --json' says nothing.")
        facts: dict[str, Any] = json.loads(said)
        return facts

    def wait(self, what: str, seconds: float, true: Callable[[], bool]) -> None:
        """Wait until something is true.

        Raises:
            DemonstrationError: if it is not after so many seconds, or the server has ended.
        """
        until = time.monotonic() + seconds
        while not true():
            if self._up is not None and self._up.poll() is not None:
                raise DemonstrationError(f"The server ended with {self._up.returncode} before {what}.")
            if time.monotonic() > until:
                raise DemonstrationError(f"After {seconds:.0f} s: not yet {what}.")
            time.sleep(0.5)

    def _start(self, log: str, *words: str) -> subprocess.Popen[bytes]:
        with (self.folder / log).open("ab") as output:
            return subprocess.Popen(
                [*_FEDREC, *words],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=self._environment(),
            )

    def _environment(self) -> dict[str, str]:
        own = {"FEDREC_HOME": str(self.folder / "fedrec"), "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
        path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])
        return os.environ | own | {"PATH": path, "PYTHONUNBUFFERED": "1"}


def free_port() -> int:
    """A port of 127.0.0.1 that was free just now, below those that Linux gives to outgoing connections: who tries to
    reach a server that is down does not take its port.
    """
    while True:
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", random.randrange(20_000, 32_000)))  # noqa: S311 - no secret
            return int(probe.getsockname()[1])


def _cost(line: Mapping[str, Any], phases: Sequence[Mapping[str, Any]]) -> RoundCost:
    """A round's cost from its line and those of all phases."""
    own = [one for one in phases if (one["round"], one["attempt"]) == (line["round"], line["attempt"])]
    return RoundCost(
        line["round"],
        line["attempt"],
        line["cohort"],
        line["survivors"],
        sum(one["phase"] != "advert" or one["asked"] == line["cohort"] for one in own),
        sum(one["seconds"] for one in own),
        line["up_bytes"],
        line["down_bytes"],
        {one["phase"]: one["seconds"] for one in own},
    )


def _signal(device: Device, number: signal.Signals) -> None:
    """Send a signal to all processes of a device that runs; the agent first, which would start others."""
    if device.agent is None:
        raise DemonstrationError(f"{device.name} does not run.")
    os.kill(device.agent.pid, number)
    for process in _descendants(device.agent.pid):
        with suppress(ProcessLookupError):
            os.kill(process, number)


def _end(process: subprocess.Popen[bytes] | None) -> None:
    if process is None:
        return
    process.terminate()
    try:
        process.wait(timeout=_STOP_S)
    except subprocess.TimeoutExpired:
        for straggler in (process.pid, *_descendants(process.pid)):
            os.kill(straggler, signal.SIGKILL)
        process.wait()


def _descendants(pid: int) -> Sequence[int]:
    """The processes that a process has started, and theirs."""
    children: list[int] = []
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        children += map(int, task.read_text().split())
    return [*children, *(below for child in children for below in _descendants(child))]
