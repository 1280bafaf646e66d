"""Flower on the server: its SuperLink on loopback, and what a server asks of it. Imports no flwr."""

from __future__ import annotations

import logging
import os
import sqlite3
import ssl
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import dataclass
from logging.handlers import RotatingFileHandler
from pathlib import Path
from typing import IO

import tomli_w
from cryptography.hazmat.primitives import serialization

from fedrec import processes
from fedrec.deployment import certificates
from fedrec.deployment.gateway import Upstream
from fedrec.deployment.home import ServerHome
from fedrec.errors import ServerError

HOME = "FEDREC_SERVER_HOME"
"""The environment variable by which a ServerApp finds its server."""

_HOST = "127.0.0.1"
_STARTUP_S, _POLL_S = 120.0, 0.1
_CONNECTION = "server"
_LOG_BYTES, _LOGS = 10_000_000, 3


@dataclass(frozen=True)
class Node:
    """A node as Flower knows it.

    Attributes:
        node_id: in decimal.
        registered: whether it may connect; a node that was unregistered never may again.
        online: whether it has been heard of lately (Flower notices a killed one after about a minute).
    """

    node_id: str
    registered: bool
    online: bool


def nodes(database: Path, now: float) -> dict[bytes, Node]:
    """Every node that a SuperLink knows, by its public key in PEM, read from its database (Flower 1.41's table).

    Flower's command line lists nodes without their keys, and a registration whose answer was lost must be found again.

    Raises:
        ServerError: if the database cannot be read.
    """
    if not database.exists():
        return {}
    try:
        with closing(sqlite3.connect(f"{database.absolute().as_uri()}?mode=ro", uri=True, timeout=10)) as connection:
            rows = connection.execute("SELECT public_key, node_id, status, online_until FROM node").fetchall()
    except sqlite3.Error as error:
        raise ServerError(f"Flower's database '{database}' cannot be read: {error}.") from error
    return {
        bytes(key): Node(
            str(number % 2**64),  # stored as a signed integer
            status != "unregistered",
            status == "online" and (until or 0) > now,
        )
        for key, number, status, until in rows
    }


class Flower:
    """Flower's command line against one SuperLink.

    Args:
        environment: of the SuperLink.
        folder: Flower's own.
    """

    def __init__(self, environment: Mapping[str, str], folder: Path) -> None:
        self._environment, self._folder = environment, folder
        self._registering = threading.Lock()

    def run(self, spec: str) -> str:
        """Submit an app; returns the run's id."""
        return str(processes.flwr(self._environment, "run", spec, _CONNECTION)["run-id"])

    def status(self, run: str) -> tuple[str, str]:
        """A run's status, such as ``running`` or ``finished:failed``, and its details."""
        row = processes.flwr(self._environment, "ls", _CONNECTION, "--run-id", run)["runs"][0]
        return str(row["status"]), str(row["status-details"])

    def stop_runs(self) -> None:
        """Stop every run that has not finished."""
        for row in processes.flwr(self._environment, "ls", _CONNECTION)["runs"]:
            if not str(row["status"]).startswith("finished"):
                processes.flwr(self._environment, "stop", str(row["run-id"]), _CONNECTION)

    def register(self, node_key: bytes) -> str:
        """Make a node key (PEM) known, as often as it is called; returns the node's id.

        Raises:
            ServerError: if the key was unregistered before: Flower never takes it again.
            RoundFailedError: if Flower does not answer.
        """
        with self._registering:
            known = nodes(self._folder / "state.db", time.time()).get(node_key)
            if known is None:
                path = self._folder / "node.pub"
                path.write_bytes(_openssh(node_key))
                answer = processes.flwr(self._environment, "supernode", "register", str(path), _CONNECTION)
                return str(answer["node-id"])
        if not known.registered:
            raise ServerError(f"Flower has unregistered node {known.node_id} for ever; its device needs new keys.")
        return known.node_id

    def unregister(self, node_id: str) -> None:
        """Shut a node out for ever."""
        processes.flwr(self._environment, "supernode", "unregister", node_id, _CONNECTION)


class SuperLink:
    """Flower's SuperLink with node authentication, in a session of its own; it ends when this process ends.

    Args:
        home: the server's folder.
        apps: URL of the app registry.

    Guarantees:
        It listens on loopback alone and speaks TLS with a certificate made for this start, whose authority's key is
        kept nowhere. Only registered node keys are served.
    """

    def __init__(self, home: ServerHome, apps: str) -> None:
        self._home, self._apps = home, apps
        self._process: subprocess.Popen[bytes] | None = None
        self._upstream: Upstream | None = None

    @property
    def database(self) -> Path:
        """Flower's state: nodes, runs and messages."""
        return self._home.flwr / "state.db"

    @property
    def pid(self) -> int | None:
        """Of the process that runs, if one does."""
        return self._process.pid if self._process is not None and self._process.poll() is None else None

    def upstream(self) -> Upstream | None:
        """Where it listens now; None while it does not."""
        return self._upstream if self.pid is not None else None

    def start(self) -> Flower:
        """Start it anew and wait until it answers.

        Raises:
            ServerError: if it does not come up.
        """
        folder = self._home.flwr.absolute()
        port = self._home.config.superlink_port or processes.free_port()
        files = _certificate(folder)
        environment = processes.loopback(folder) | {
            "FLWR_SUPERGRID_API_URL": self._apps,
            HOME: str(self._home.root.absolute()),
        }
        connection = {"address": f"{_HOST}:{port}", "root-certificates": str(files["ca"])}
        (folder / "config.toml").write_text(
            tomli_w.dumps({"superlink": {"default": _CONNECTION, _CONNECTION: connection}}), encoding="utf-8"
        )
        lock = str(folder / "superlink.lock")
        command = [sys.executable, "-P", "-m", "fedrec.flower.superlink", str(os.getpid()), lock]
        command += ["--host", _HOST, "--port", str(port), "--enable-supernode-auth", "--database", str(self.database)]
        command += ["--ssl-certfile", str(files["server"]), "--ssl-keyfile", str(files["key"])]
        command += ["--ssl-ca-certfile", str(files["ca"]), "--isolation", "subprocess"]
        command += ["--disable-runtime-dependency-installation"]
        self._process = subprocess.Popen(  # noqa: S603 - our own command
            command,
            env=environment,
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # Ctrl-C reaches this process alone, which stops all in order
        )
        self._upstream = Upstream(f"https://{_HOST}:{port}", files["ca"])
        if self._process.stdout is not None:
            write = _rotating(self._home.logs / "superlink.log")
            threading.Thread(target=_pump, args=(self._process.stdout, write), daemon=True).start()
        self._wait()
        return Flower(environment, folder)

    def stop(self) -> None:
        """End it and whatever is left of its session."""
        process, self._process = self._process, None
        if process is not None:
            processes.end(process)

    def _wait(self) -> None:
        upstream, deadline = self._upstream, time.monotonic() + _STARTUP_S
        if upstream is None:
            return
        trust = ssl.create_default_context(cafile=upstream.ca)
        direct = urllib.request.build_opener(
            urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=trust)
        )
        while self.pid is not None and time.monotonic() < deadline:
            try:
                with direct.open(f"{upstream.url}/health", timeout=1):
                    return
            except (urllib.error.URLError, OSError):
                time.sleep(_POLL_S)
        self.stop()
        raise ServerError(f"Flower's SuperLink did not start; see '{self._home.logs / 'superlink.log'}'.")


def _certificate(folder: Path) -> dict[str, Path]:
    """A certificate for loopback, good for a year at most, and its authority's; the authority's key is dropped."""
    now = certificates.today()
    ca = certificates.new_ca("this SuperLink", now)
    pair = certificates.new_server(ca, [_HOST], now)
    files = {name: folder / f"loopback-{name}.pem" for name in ("ca", "server", "key")}
    for name, content in (("ca", ca.certificate), ("server", pair.certificate), ("key", pair.key)):
        files[name].unlink(missing_ok=True)
        with os.fdopen(os.open(files[name], os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(content)
    return files


def _rotating(path: Path) -> Callable[[str], None]:
    """Writes lines into a log that does not grow without end."""
    handler = RotatingFileHandler(path, maxBytes=_LOG_BYTES, backupCount=_LOGS, encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(message)s"))

    def write(line: str) -> None:
        handler.emit(logging.LogRecord("superlink", logging.INFO, "", 0, line, None, None))

    return write


def _pump(stream: IO[bytes], write: Callable[[str], None]) -> None:
    """What the SuperLink and its children print, but for a line a call of every node every three seconds."""
    with stream:
        for raw in stream:
            line = raw.decode(errors="replace").rstrip()
            if '"POST /v1/' not in line:
                write(line)


def _openssh(pem: bytes) -> bytes:
    key = serialization.load_pem_public_key(pem)
    return key.public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH)
