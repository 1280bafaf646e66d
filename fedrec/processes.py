"""Flower's processes seen from outside: their environment, scripts and ports, its command line, and how they end.

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

import fedrec.errors
from fedrec.errors import FedrecError, RoundFailedError

_STOP_S, _COMMAND_S = 15.0, 120.0


def environment(home: Path, inherited: Mapping[str, str]) -> dict[str, str]:
    """What any process of Flower's sees, whose own files are in ``home``: nothing phones home or installs at run time.

    Args:
        home: Flower's folder, absolute.
        inherited: the environment of this process, of which Flower's own settings are left out.
    """
    kept = {name: value for name, value in inherited.items() if not name.startswith("FLWR_") and name != "RAY_ADDRESS"}
    return kept | {
        "FLWR_HOME": str(home),
        "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
        "FLWR_TELEMETRY_ENABLED": "0",
        "FLWR_DISABLE_UPDATE_CHECK": "1",
        "FLWR_SUPEREXEC_TASK_POLL_INTERVAL": "0.1",  # the default second delays every start
        "OMP_NUM_THREADS": "1",
        "OPENBLAS_NUM_THREADS": "1",
    }


def loopback(home: Path) -> dict[str, str]:
    """The environment of a SuperLink on loopback and its commands: no proxy, and this installation's scripts first."""
    return environment(home.absolute(), os.environ) | {
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


def end(process: subprocess.Popen[Any]) -> None:
    """End a process that leads a session: by a signal it can answer first; then whatever is left of the session."""
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(timeout=_STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
    end_session(process)


def end_session(process: subprocess.Popen[Any]) -> None:
    """End what a process that has ended has left of its session; once, since its number may be another's later."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)


def brought_back(failure: Mapping[str, str]) -> FedrecError:
    """The error of which another process left word, as its own class, so that the exit code is the same.

    Args:
        failure: its ``type`` and ``message``.
    """
    kind: type[FedrecError] = getattr(fedrec.errors, failure["type"], FedrecError)
    error = kind.__new__(kind)
    error.args = (failure["message"],)
    return error


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
