"""Flower's processes seen from outside: their environment, scripts and ports, its command line, and an orderly end.

Imports no flwr.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fedrec.errors import RoundFailedError

_STOP_S, _COMMAND_S = 15.0, 120.0


def environment(home: Path) -> dict[str, str]:
    """The environment of Flower's processes, whose own files are in ``home``.

    Nothing phones home or installs at run time, loopback is reached without a proxy, and the scripts of this
    installation come first.
    """
    kept = {name: value for name, value in os.environ.items() if not name.startswith("FLWR_") and name != "RAY_ADDRESS"}
    return kept | {
        "FLWR_HOME": str(home.absolute()),
        "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
        "FLWR_TELEMETRY_ENABLED": "0",
        "FLWR_DISABLE_UPDATE_CHECK": "1",
        "FLWR_SUPEREXEC_TASK_POLL_INTERVAL": "0.1",  # the default second delays every start
        "OMP_NUM_THREADS": "1",
        "OPENBLAS_NUM_THREADS": "1",
        "NO_PROXY": "127.0.0.1",
        "no_proxy": "127.0.0.1",
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)]),
    }


def script(name: str) -> str:
    """A console script of this installation."""
    return str(Path(sys.executable).parent / name)


def free_port() -> int:
    """A port of loopback that nobody listens at."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def end(process: subprocess.Popen[bytes]) -> None:
    """End a process that leads a session: by a signal it can answer first; then whatever is left of the session."""
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(timeout=_STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)


def flwr(environment: Mapping[str, str], *arguments: str) -> dict[str, Any]:
    """One ``flwr`` command; its answer is JSON, errors too.

    Raises:
        RoundFailedError: with Flower's own words.
    """
    command = [script("flwr"), *arguments, "--format", "json"]
    try:
        done = subprocess.run(  # noqa: S603 - our own command
            command,
            env=dict(environment),
            capture_output=True,
            text=True,
            stdin=subprocess.DEVNULL,
            check=False,
            timeout=_COMMAND_S,
        )
    except subprocess.TimeoutExpired as error:
        raise RoundFailedError(f"'flwr {arguments[0]}' did not answer within {_COMMAND_S:g} s.") from error
    try:
        answer: dict[str, Any] = json.loads(done.stdout[done.stdout.index("{") :])
    except ValueError:
        answer = {}
    if done.returncode != 0 or not answer.get("success"):
        said = answer.get("error-message") or done.stderr.strip() or done.stdout.strip()
        raise RoundFailedError(f"'flwr {arguments[0]}' failed: {said}.")
    return answer
