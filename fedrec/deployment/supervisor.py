"""`fedrec server up`: keeps everything of a server running, and its training going, until it is told to stop."""

from __future__ import annotations

import logging
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from logging.handlers import RotatingFileHandler
from pathlib import Path

import uvicorn

from fedrec import processes
from fedrec.deployment import apps, locks, metrics, serving, training
from fedrec.deployment.gateway import Gateway
from fedrec.deployment.home import ServerHome
from fedrec.deployment.journal import Follower, Journal, in_words
from fedrec.deployment.loopback import Loopback
from fedrec.deployment.published import Published
from fedrec.deployment.status import SERVER_LOCK, Watcher
from fedrec.deployment.superlink import Flower, SuperLink, nodes
from fedrec.errors import FedrecError, ServerError
from fedrec.models.base import build, require_extras
from fedrec.reporting.folder import RunFolder

LOG = "server.jsonl"
"""What the supervisor does, in the server's ``logs``."""

_TICK_S, _RECONCILE_S, _START_S = 0.5, 10.0, 90.0
_BACKOFF_FIRST_S, _BACKOFF_LAST_S = 1.0, 60.0
_LOG_BYTES, _LOGS = 10_000_000, 3
_MAX_LOST = 5
"""Trainings in a row that may end without a word and without a round; then it stops trying."""


class Supervisor:
    """One server: app registry, SuperLink, gateway and metrics, and a training that is submitted until it is finished.

    Everything that it starts is a thread of this process or a child that ends with it. After a crash of the training,
    of the SuperLink or of the machine, training goes on as a new Flower run of the same experiment, from the run
    folder; one trainer at a time (`fedrec.deployment.training`).

    Args:
        home: the server's folder.
        say: told what happens, in words.
    """

    def __init__(self, home: ServerHome, say: Callable[[str], object]) -> None:
        self._home = home
        self._journal = Journal(home.logs / LOG, echo=say)
        self._registry = home.registry()
        self._stop = threading.Event()
        self._flower: Flower | None = None
        self._training = Follower(home.logs / training.LOG)
        self._run: str | None = None
        self._seen = False
        self._submitted = self._next = self._reconciled = 0.0
        self._lost, self._rounds = 0, 0
        self._over = False

    def stop(self) -> None:
        """End `up` soon; safe in a signal handler."""
        self._stop.set()

    def up(self, *, until_done: bool) -> None:
        """Run until `stop`, or with ``until_done`` until there is nothing left to train.

        Raises:
            ServerError: if another process runs this server, its catalogue is damaged, or a part of it cannot be
                started.
            MissingExtraError: if what its model takes is not installed.
            FedrecError: with ``until_done``, what training ended with.
        """
        self._home.catalogue()  # damaged, it would be served and refused by every device
        require_extras(build(self._home.experiment()))
        os.umask(0o077)
        _log_to(self._home.logs / "gateway.log")
        with ExitStack() as stack:
            tell = stack.enter_context(locks.held(self._home.root / SERVER_LOCK, "running this server"))
            training.forget_failure(self._home)
            self._training.lines()  # what is old is not told again
            self._rounds = self._done()
            hub = stack.enter_context(self._apps())
            superlink = SuperLink(self._home, hub.url)
            gauge = stack.enter_context(metrics.serve(Watcher(self._home), self._home.config.metrics_port))
            stack.callback(self._end, superlink)
            self._start(superlink)
            stack.enter_context(self._gateway(superlink))
            self._check_certificate()
            while not self._stop.wait(_TICK_S):
                if superlink.pid is None:
                    self._restart(superlink)
                tell({"superlink": superlink.pid, "metrics": f"{gauge.url}/metrics"})
                with self._trouble():
                    self._tick()
                if self._over and until_done:
                    break
            self._journal.note("stopping", {}, "stopping")
        if until_done and self._over:
            self._raise_failure()

    # Parts

    def _apps(self) -> Loopback:
        app = apps.build(self._home.experiment_text())
        verified = apps.verification(app, self._home.key("app"), self._home.app_key_id, int(time.time()))
        self._spec = app.spec
        return apps.registry(app, verified, self._home.config.apps_port)

    @contextmanager
    def _gateway(self, superlink: SuperLink) -> Iterator[None]:
        home = self._home
        published = Published(home, self._registry)
        gateway = Gateway(
            self._registry,
            home.public("request"),
            published.document,
            self._register,
            superlink.upstream,
            proxy=None if home.config.proxy is None else str(home.config.proxy),
        )
        server = serving.server(gateway, home.certificate, home.config.host, home.config.port)
        thread = threading.Thread(target=_quietly(server), name="gateway", daemon=True)
        thread.start()
        while thread.is_alive() and not server.started:
            time.sleep(0.02)
        where = f"{home.config.host}:{home.config.port}"
        if not server.started:
            raise ServerError(f"The gateway cannot listen at {where}; is the port taken, or not yours to use?")
        self._journal.note("gateway", {"listens": where}, f"devices connect to {home.config.address}")
        try:
            yield
        finally:
            server.should_exit = True
            thread.join(timeout=10)

    def _register(self, node_key: bytes) -> str:
        if self._flower is None:
            raise ServerError("The SuperLink is down; the device tries again later.")
        return self._flower.register(node_key)

    def _start(self, superlink: SuperLink) -> None:
        """Start the SuperLink. What else Flower is asked for is asked in a tick, which tries again: on a busy machine a
        command may fail, and a run of a killed server may end while it is being stopped.
        """
        self._flower, self._reconciled = superlink.start(), -_RECONCILE_S
        self._journal.note("superlink-started", {"pid": superlink.pid}, f"SuperLink: process {superlink.pid}")

    def _restart(self, superlink: SuperLink) -> None:
        """After the SuperLink has gone: end its training as well, which no device can answer any more."""
        self._journal.note("superlink-ended", {"why": "the SuperLink ended"}, "the SuperLink ended; starting it again")
        self._flower = None
        _end_process(training.trainer(self._home))
        superlink.stop()
        pause = _BACKOFF_FIRST_S
        while not self._stop.is_set():
            try:
                self._start(superlink)
                break
            except FedrecError as error:
                self._journal.note("trouble", {"why": str(error)}, str(error))
                superlink.stop()
                self._stop.wait(pause)
                pause = min(2 * pause, _BACKOFF_LAST_S)
        self._run, self._next = None, 0.0

    def _end(self, superlink: SuperLink) -> None:
        _end_process(training.trainer(self._home))
        superlink.stop()

    # Every tick

    def _tick(self) -> None:
        now = time.monotonic()
        for line in self._training.lines():
            if said := in_words(line):
                self._journal.note("training", {"said": said}, said)
        if now - self._reconciled >= _RECONCILE_S:
            self._reconcile()
        if not self._over:
            self._train(now)

    @contextmanager
    def _trouble(self) -> Iterator[None]:
        """What goes wrong in a tick is said, and tried again."""
        try:
            yield
        except FedrecError as error:
            self._journal.note("trouble", {"why": str(error)}, str(error))
            self._stop.wait(_BACKOFF_FIRST_S)

    def _reconcile(self) -> None:
        """Bring what Flower knows in line with the registry: it knows every active device's key, and no revoked one."""
        self._reconciled = time.monotonic()
        if self._flower is None:
            return
        known = nodes(self._home.flwr / "state.db", time.time())
        for device in self._registry.devices():
            node = known.get(device.node_key)
            if device.revoked is not None:
                if node is not None and node.registered:
                    self._flower.unregister(node.node_id)
                    self._journal.note("unregistered", {"device": device.number}, f"device {device.number} is shut out")
            elif device.node_id is None or node is None or node.node_id != device.node_id:
                self._registry.note_node(device.number, self._flower.register(device.node_key))

    def _train(self, now: float) -> None:
        """Submit the training, see whether it is at work, and submit it anew when it is not."""
        if self._flower is None:
            return
        trainer = training.trainer(self._home)
        if trainer is not None:
            self._seen = self._seen or self._run is not None
        elif (found := training.failure(self._home)) is not None:
            self._over = True
            self._journal.note("training-stopped", {"why": found["message"]}, f"training stopped: {found['message']}")
        elif RunFolder(self._home.run).finished:
            self._over = True
            self._journal.note("training-finished", {"rounds": self._done()}, "training is finished")
        elif self._run is None:
            if now >= self._next:
                self._flower.stop_runs()  # of this server before a crash, or the one that was lost
                self._run, self._seen, self._submitted = self._flower.run(self._spec), False, now
                self._journal.note(
                    "submitted", {"run": self._run}, f"training is submitted as Flower's run {self._run}"
                )
        elif self._seen or now - self._submitted > _START_S:
            self._lose(self._flower, self._run, now)

    def _lose(self, flower: Flower, run: str, now: float) -> None:
        """A training that ended without a word: why, and when to try again."""
        status, details = flower.status(run)
        done = self._done()
        self._lost = 1 if done > self._rounds else self._lost + 1
        self._rounds, self._run = done, None
        self._next = now + min(_BACKOFF_FIRST_S * 2 ** (self._lost - 1), _BACKOFF_LAST_S)
        why = f"the training process ended without a word (Flower: {status}, {details})"
        self._journal.note("lost", {"run": run, "why": why}, f"{why}; it goes on from round {done}")
        if self._lost >= _MAX_LOST:
            log = self._home.logs / "superlink.log"
            training.leave_word(
                self._home,
                ServerError(f"Training ended {self._lost} times in a row without a round; see '{log}' and start anew."),
            )

    def _done(self) -> int:
        return len(RunFolder(self._home.run).rounds())

    def _check_certificate(self) -> None:
        days = self._home.certificate_days()
        if days < 30:
            state = "has expired: no device can connect" if days < 0 else f"ends in {days:.0f} days"
            why = f"the server's certificate {state}; run 'fedrec server renew'"
            self._journal.note("trouble", {"why": why}, why)

    def _raise_failure(self) -> None:
        found = training.failure(self._home)
        if found is not None:
            raise processes.brought_back(found)


def _log_to(path: Path) -> None:
    """What the gateway and its server log goes into a file that does not grow without end."""
    handler = RotatingFileHandler(path, maxBytes=_LOG_BYTES, backupCount=_LOGS, encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    for name in ("fedrec", "uvicorn"):
        logger = logging.getLogger(name)
        logger.handlers, logger.propagate = [handler], False
        logger.setLevel(logging.INFO)


def _quietly(server: uvicorn.Server) -> Callable[[], None]:
    """Runs it; uvicorn ends its thread by SystemExit where it cannot listen."""

    def run() -> None:
        with suppress(SystemExit):
            server.run()

    return run


def _end_process(pid: int | None) -> None:
    """End the trainer, which loses nothing by it; it holds its lock, so the number is its own."""
    if not pid:
        return
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
