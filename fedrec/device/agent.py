"""What ``fedrec device run`` does: keep the SuperNode alive, the documents fresh, and experiments prepared."""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from logging.handlers import RotatingFileHandler
from typing import IO, Final

from fedrec.device.gateway import sync
from fedrec.device.home import DeviceHome
from fedrec.device.preparation import wanted
from fedrec.device.refusals import Code
from fedrec.device.store import Store
from fedrec.device.supernode import SuperNode
from fedrec.errors import DeviceError, FedrecError

LONGEST_WAIT_S: Final = 60.0
"""Between two starts of a SuperNode. Flower refuses a node for about 47 s after it was killed."""

_STEADY_S: Final = 60.0
_LOOK_S: Final = 0.5
_FIRST_SYNC_S: Final = 15.0
_LOG_BYTES, _LOGS = 1 << 20, 3
_COLOURS: Final = re.compile(r"\x1b\[[0-9;]*m")


@contextmanager
def alone(home: DeviceHome) -> Iterator[None]:
    """Hold the lock of a device's folder: one agent a device.

    Raises:
        DeviceError: if another agent holds it.
    """
    path = home.root / "agent.lock"
    with os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600), "r+", encoding="ascii") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            other = lock.read().strip() or "unknown"
            raise DeviceError(f"Process {other} runs this device already ('{home.root}'); stop that one.") from None
        lock.truncate()
        lock.write(str(os.getpid()))
        lock.flush()
        yield


@dataclass
class Agent:
    """A device's agent, until `run` is left by an exception such as that of a signal.

    Attributes:
        home: the device's folder; it must be enrolled.
        say: prints one line for the owner.
        sync_seconds: between two visits to the server's gateway.
    """

    home: DeviceHome
    say: Callable[[str], None]
    sync_seconds: float = 60.0
    _said: dict[str, str] = field(default_factory=dict)

    def run(self) -> None:
        """Serve rounds for ever.

        Raises:
            DeviceError: if the device is not enrolled, or another agent runs it.
        """
        trust = self.home.trust()
        if trust is None:
            raise DeviceError("This device is not enrolled; ask its server for an invitation: 'fedrec device enrol'.")
        with alone(self.home), self.home.open_store() as store, contextlib.ExitStack() as stack:
            log = stack.enter_context(_log(self.home))
            node = SuperNode(self.home, trust)
            stack.callback(node.stop)
            self.say(f"device {trust.number} of {trust.server} starts")
            looked = threading.Event()
            threading.Thread(target=self._sync_forever, args=(looked,), name="sync", daemon=True).start()
            watch, prepare = _Watch(store), _Preparation(self.home, store, stack)
            keeper = _Keeper(node, lambda output: self._pump(output, log))
            looked.wait(_FIRST_SYNC_S)
            while True:
                self._news(prepare.look())
                if keeper.started or not prepare.busy:  # what is known to be asked for is prepared before it is asked
                    self._news(keeper.look())
                for line in watch.news():
                    self.say(line)
                time.sleep(_LOOK_S)

    def _sync_forever(self, looked: threading.Event) -> None:
        while True:
            try:
                found = sync(self.home)
                self._once("sync", "")
                self._once("ledger", " ".join(f"LEDGER: {fault}" for fault in found.faults))
            except FedrecError as error:
                self._once("sync", f"sync: {error}")
            looked.set()
            time.sleep(self.sync_seconds)

    def _pump(self, output: IO[str], log: logging.Logger) -> None:
        """Keep what Flower's processes print, and show an error once."""
        with output:
            for raw in output:
                line = _COLOURS.sub("", raw).rstrip()
                if line:
                    log.info("%s", line)
                if line.startswith("ERROR"):
                    self._once("flower", f"flower: {line.partition(':')[2].strip()}")
                elif "SuperNode ID" in line:
                    self._once("flower", "online")

    def _news(self, line: str | None) -> None:
        if line:
            self.say(line)

    def _once(self, topic: str, line: str) -> None:
        """Say something that was not the last word on its topic."""
        if self._said.get(topic, "") != line and line:
            self.say(line)
        self._said[topic] = line


class _Keeper:
    """Starts a SuperNode again whenever it has ended, a little later each time."""

    def __init__(self, node: SuperNode, follow: Callable[[IO[str]], None]) -> None:
        self._node, self._follow = node, follow
        self._wait, self._started, self._due = 1.0, 0.0, 0.0
        self._runs = self.started = False

    def look(self) -> str | None:
        now = time.monotonic()
        if not self._runs:
            if now >= self._due:
                threading.Thread(target=self._follow, args=(self._node.start(),), daemon=True).start()
                self._runs, self.started, self._started = True, True, now
            return None
        code = self._node.ended()
        if code is None:
            return None
        if now - self._started > _STEADY_S:
            self._wait = 1.0
        wait, self._wait = self._wait, min(2 * self._wait, LONGEST_WAIT_S)
        self._runs, self._due = False, now + wait
        return f"the SuperNode has ended (code {code}); it starts again in {wait:.0f} s"


class _Preparation:
    """Prepares experiments in a process of its own, so that what that imports does not stay in the agent's memory."""

    def __init__(
        self, home: DeviceHome, store: Store, stack: contextlib.ExitStack, pause: float = LONGEST_WAIT_S
    ) -> None:
        self._home, self._store, self._pause = home, store, pause
        self._process: subprocess.Popen[str] | None = None
        self._due = 0.0
        self._seen: int | None = None
        stack.callback(self._stop)

    @property
    def busy(self) -> bool:
        return self._process is not None

    def look(self) -> str | None:
        if self._process is None:
            version = self._store.version
            if version == self._seen or time.monotonic() < self._due:
                return None
            self._seen = version
            if wanted(self._store):
                command = [sys.executable, "-P", "-m", "fedrec.cli.main", "device", "prepare", "--home"]
                self._process = subprocess.Popen(  # noqa: S603 - our own command
                    [*command, str(self._home.root.absolute())],
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.STDOUT,
                    text=True,
                )
            return None
        if self._process.poll() is None:
            return None
        said, _ = self._process.communicate()
        failed, self._process, self._seen = self._process.returncode != 0, None, None
        if failed:
            self._due = time.monotonic() + self._pause
        return said.strip().splitlines()[-1] if said.strip() else None

    def _stop(self) -> None:
        if self._process is not None and self._process.poll() is None:
            self._process.kill()
            self._process.wait()


class _Watch:
    """What the ClientApp's processes have written into the store since the last look."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._refusal, self._charge = self._last("refusals"), self._last("charges")

    def news(self) -> list[str]:
        lines = []
        for row in self._store.query(
            "SELECT rowid, round, attempt FROM charges WHERE rowid > ? ORDER BY rowid", (self._charge,)
        ):
            self._charge = row[0]
            lines.append(f"round {row[1]}, attempt {row[2]}: charged")
        for row in self._store.query(
            "SELECT id, phase, code, detail FROM refusals WHERE id > ? ORDER BY id", (self._refusal,)
        ):
            self._refusal = row[0]
            if row[2] != Code.UNPREPARED:  # its preparation says how it went
                lines.append(f"refused ({row[1] or 'message'}, {row[2]}): {row[3]}")
        return lines

    def _last(self, table: str) -> int:
        return int(self._store.query(f"SELECT ifnull(max(rowid), 0) FROM {table}")[0][0])  # noqa: S608 - our own names


@contextmanager
def _log(home: DeviceHome) -> Iterator[logging.Logger]:
    """A file of what Flower's processes print; it is followed by a new one when it is full, and the oldest goes."""
    home.logs.mkdir(mode=0o700, exist_ok=True)
    handler = RotatingFileHandler(home.logs / "supernode.log", maxBytes=_LOG_BYTES, backupCount=_LOGS, encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s %(message)s"))
    logger = logging.Logger("supernode", logging.INFO)  # of its own: not among the process's loggers
    logger.addHandler(handler)
    try:
        yield logger
    finally:
        handler.close()
