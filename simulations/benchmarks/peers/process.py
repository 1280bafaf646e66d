"""A peer as a process of its own: started, asked and ended from here."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from simulations.benchmarks import environments
from simulations.benchmarks.rows import BenchmarkError

ROOT = Path(__file__).parents[3]
_THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS")


@dataclass(frozen=True)
class Peer:
    """A running peer.

    Attributes:
        name: as in the rows.
        process: talks in lines of JSON (`simulations.benchmarks.peers.serving`).
    """

    name: str
    process: subprocess.Popen[str]

    @classmethod
    def start(cls, name: str, task: Path) -> Self:
        """Start one and wait until it has loaded what it needs.

        Raises:
            BenchmarkError: if it cannot run here.
        """
        environment = {
            **os.environ,
            **dict.fromkeys(_THREADS, "1"),
            "PYTHONPATH": str(ROOT),
            "RAY_raylet_start_wait_time_s": "180",
        }
        process = subprocess.Popen(
            command(name, task),
            env=environment,
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        peer = cls(name, process)
        peer._answer()
        return peer

    def sum_without_noise(self, file: Path) -> dict[str, npt.NDArray[np.floating]]:
        """The clipped sum of one round, which also warms the peer up."""
        self._ask({"noise": False, "rounds": 1, "out": str(file)})
        with np.load(file) as found:
            return {name: found[name] for name in found.files}

    def rounds(self, number: int) -> tuple[list[float], list[float]]:
        """CPU and wall seconds of rounds with noise."""
        taken = self._ask({"noise": True, "rounds": number})
        return taken["cpu"], taken["wall"]

    def peak_mb(self) -> float:
        """The most memory that it has had, in MB."""
        status = Path(f"/proc/{self.process.pid}/status").read_text(encoding="ascii")
        return int(status.split("VmHWM:")[1].split()[0]) * 1024 / 1e6

    def _ask(self, question: dict[str, Any]) -> dict[str, Any]:
        if self.process.stdin is not None:
            print(json.dumps(question), file=self.process.stdin, flush=True)
        return self._answer()

    def _answer(self) -> dict[str, Any]:
        line = "" if self.process.stdout is None else self.process.stdout.readline()
        if not line:
            raise BenchmarkError(
                f"The peer '{self.name}' ended with code {self.process.wait()}; see its messages above."
            )
        answer: dict[str, Any] = json.loads(line)
        return answer

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """The end of its input ends it."""
        for stream in (self.process.stdin, self.process.stdout):
            if stream is not None:
                stream.close()
        try:
            self.process.wait(60)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


def command(name: str, task: Path) -> list[str]:
    """What starts a peer.

    Raises:
        BenchmarkError: if what it takes is not installed.
    """
    python, module, options = sys.executable, "fedrec_round", [name.removeprefix("fedrec-")]
    if not name.startswith("fedrec-"):
        module, options = {"pfl": "pfl_round", "torch-loop": "torch_loop", "flower-ray": "flower_ray"}[name], []
    for package, extra in {"torch-loop": [("torch", "torch")], "flower-ray": [("ray", "simulation")]}.get(name, []):
        if find_spec(package) is None:
            raise BenchmarkError(f"The peer '{name}' needs {package}: pip install '.[{extra}]'.")
    if name == "pfl":
        python = str(environments.python_of("pfl"))
    # Imported, not run as a script: Ray's workers look for what they are sent in modules that they can import.
    start = f"from simulations.benchmarks.peers.{module} import main; main()"
    return [python, "-c", start, str(task), *options]
