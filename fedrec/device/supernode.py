"""Flower's SuperNode of a device: its folder, its command, its life.

Imports no flwr: Flower runs in processes of its own. They are started by `fedrec.flower.launcher`, which keeps whatever
a server sends from being unpacked, imported or run.
"""

from __future__ import annotations

import base64
import json
import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Final

from fedrec import processes
from fedrec.device.home import DeviceHome
from fedrec.device.trust import Trust
from fedrec.errors import DeviceError

DEVICE_HOME: Final = "FEDREC_DEVICE_HOME"
"""The environment variable by which a ClientApp finds its device."""

_LAUNCHER: Final = (sys.executable, "-P", "-m", "fedrec.flower.launcher")
_COMMANDS: Final = (
    "flower-superexec",
    "flwr-agentapp",
    "flwr-clientapp",
    "flwr-connector",
    "flwr-model",
    "flwr-serverapp",
    "flwr-simulation",
)


class SuperNode:
    """One SuperNode process and its children, in a session of their own.

    Args:
        home: the device's folder; ``flwr/`` in it is Flower's home and is emptied here.
        trust: whom the device is enrolled with.

    Raises:
        DeviceError: if Flower's folder cannot be emptied.

    Guarantees:
        It connects through TLS to the enrolled server's authority alone, proves the device's node key, and runs apps
        that the enrolled app key has signed. Of Flower's commands it finds the launcher's first.
    """

    def __init__(self, home: DeviceHome, trust: Trust) -> None:
        self.home, self.trust = DeviceHome(home.root.absolute()), trust  # its processes run in another folder
        self._process: subprocess.Popen[str] | None = None
        _fill(self.home.flwr, trust)

    def start(self) -> IO[str]:
        """Start it, and return what it and its children print, line by line until they end."""
        flwr = self.home.flwr
        command = [*_LAUNCHER, "flower-supernode", str(os.getpid()), "--superlink", self.trust.server]
        command += ["--root-certificates", str(flwr / "ca.pem"), "--trusted-entities", str(flwr / "trusted.yaml")]
        command += ["--auth-supernode-private-key", str(self.home.node_key), "--isolation", "subprocess"]
        command += ["--host", "127.0.0.1", "--port", str(processes.free_port())]
        self._process = subprocess.Popen(  # noqa: S603 - our own command
            command,
            cwd=flwr,
            env=environment(self.home, os.environ),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            start_new_session=True,  # Ctrl-C reaches the agent alone, which stops it in order
        )
        if self._process.stdout is None:
            raise DeviceError("The SuperNode has no output to read; start the device again.")
        return self._process.stdout

    @property
    def pid(self) -> int | None:
        """Of the process that runs, if one does."""
        return None if self._process is None else self._process.pid

    def ended(self) -> int | None:
        """The exit code of a process that has just ended, with what it has left behind; None while one runs."""
        process = self._process
        code = None if process is None else process.poll()
        if process is not None and code is not None:
            self._process = None
            processes.end_session(process)
        return code

    def stop(self) -> None:
        """End it, so that its server knows at once, and whatever is left of its session."""
        process, self._process = self._process, None
        if process is not None:
            processes.end(process)


def environment(home: DeviceHome, inherited: Mapping[str, str]) -> dict[str, str]:
    """What the processes of a device's SuperNode see: nothing phones home or is installed, and no folder is searched
    for modules but the installation's.
    """
    return processes.environment(home.flwr, inherited) | {
        "FLWR_SUPEREXEC_TASK_POLL_INTERVAL": "0.2",
        DEVICE_HOME: str(home.root),
        "PYTHONSAFEPATH": "1",
        "MKL_NUM_THREADS": "1",
        "PATH": os.pathsep.join([str(home.flwr / "bin"), inherited.get("PATH", os.defpath)]),
    }


def _fill(folder: Path, trust: Trust) -> None:
    """Empty Flower's folder and write what the SuperNode reads."""
    try:
        if folder.is_symlink():
            raise DeviceError(f"'{folder}' is a link; remove it, Flower's folder is made anew at every start.")
        shutil.rmtree(folder, ignore_errors=not folder.exists())
        folder.mkdir(mode=0o700)
        (folder / "bin").mkdir(mode=0o700)
        if os.statvfs(folder).f_flag & os.ST_NOEXEC:  # Flower's own commands would be found in the place of these
            raise DeviceError(
                f"'{folder}' is on a file system where no program may run (mounted noexec); keep the device elsewhere "
                "with --home."
            )
        _write(folder / "ca.pem", trust.ca)
        _write(folder / "trusted.yaml", json.dumps({trust.app_key_id: _openssh(trust.app_key)}))  # JSON is YAML
        for command in _COMMANDS:
            _write(folder / "bin" / command, f'#!/bin/sh\nexec {shlex.join([*_LAUNCHER, command])} "$@"\n', 0o700)
    except OSError as error:
        raise DeviceError(f"Cannot make '{folder}' anew: {error.strerror or error}; check its owner.") from error


def _write(path: Path, text: str, mode: int = 0o600) -> None:
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "w", encoding="utf-8") as file:
        file.write(text)


def _openssh(key: str) -> str:
    """A raw Ed25519 public key in base64, as OpenSSH writes it (RFC 8709)."""
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    public = Ed25519PublicKey.from_public_bytes(base64.b64decode(key, validate=True))
    return public.public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode()
