"""How a server is, from its files alone, so that it can be asked when nothing runs."""

from __future__ import annotations

import json
import time
from collections import Counter
from dataclasses import asdict, dataclass
from typing import Any

from fedrec.deployment import locks
from fedrec.deployment.home import ServerHome
from fedrec.deployment.journal import Follower
from fedrec.deployment.superlink import nodes
from fedrec.deployment.training import LOG, failure, trainer
from fedrec.errors import FedrecError
from fedrec.privacy.accounting import filter_epsilon
from fedrec.privacy.events import from_fields
from fedrec.privacy.proofs import verify_chain
from fedrec.reporting import folder as names
from fedrec.reporting.folder import RunFolder

SERVER_LOCK = "server.lock"
"""Held by `fedrec server up`."""


@dataclass(frozen=True)
class Status:
    """One look at a server.

    Attributes:
        experiment, digest, model: what is trained.
        state: ``down``, ``waiting`` (for devices), ``training``, ``starting``, ``finished`` or ``stopped``.
        why: why it waits for devices, if it does.
        round, rounds: done, and of how many (None before training has started).
        attempt: at the next round.
        enrolled, online, revoked: devices.
        epsilon, budget: spent so far by the filter that decides refusals, and the most that may be.
        certificate_days: until the server's certificate ends.
        last_error: the latest of what went wrong, and since when (unix seconds).
        server, trainer: process ids.
        superlink: its process id; None if it does not run.
        metrics: where the metrics are.
    """

    experiment: str
    digest: str
    model: str
    state: str
    why: str | None
    round: int
    rounds: int | None
    attempt: int
    enrolled: int
    online: int
    revoked: int
    epsilon: float | None
    budget: float | None
    certificate_days: float
    last_error: str | None
    last_error_at: float | None
    server: int | None
    trainer: int | None
    superlink: int | None
    metrics: str | None

    def fields(self) -> dict[str, Any]:
        """As JSON has it."""
        return asdict(self)


class Watcher:
    """Looks at a server again and again, and reads only what is new in its logs and its ledger.

    Args:
        home: the server's.
    """

    def __init__(self, home: ServerHome) -> None:
        self._home = home
        self._logs = [Follower(home.logs / name) for name in (LOG, "server.jsonl")]
        self._latest: dict[str, dict[str, Any]] = {}
        self._last_error: dict[str, Any] | None = None
        self._priced: tuple[int, float | None] = (-1, None)
        self.totals: Counter[str] = Counter()
        """Of the whole training, whatever restarts it had: what `fedrec.deployment.metrics` shows."""

    def look(self) -> Status:
        """How the server is now.

        Raises:
            FedrecError: if the folder's configuration or registry cannot be read.
        """
        self._read()
        experiment, devices = self._home.experiment(), self._home.registry().devices()
        running = locks.holder(self._home.root / SERVER_LOCK)
        done, attempt, trouble = self._progress()
        state, last = self._state(running is not None), self._last_error or {}
        rounds = self._latest.get("started", {}).get("rounds")
        return Status(
            experiment=experiment.name,
            digest=experiment.digest(),
            model=experiment.model.name,
            state=state,
            why=self._waits() if state == "waiting" else None,
            round=done,
            rounds=rounds,
            attempt=attempt,
            enrolled=sum(device.revoked is None for device in devices),
            online=self._online({device.node_key for device in devices if device.revoked is None}) if running else 0,
            revoked=sum(device.revoked is not None for device in devices),
            epsilon=self._epsilon(),
            budget=experiment.privacy.epsilon,
            certificate_days=round(self._home.certificate_days(), 1),
            last_error=trouble or last.get("why"),
            last_error_at=None if trouble else last.get("at"),
            server=_number(running, "pid"),
            trainer=trainer(self._home),
            superlink=_number(running, "superlink"),
            metrics=None if running is None else str(running.get("metrics") or "") or None,
        )

    def _read(self) -> None:
        for log in self._logs:
            for line in log.lines():
                event = str(line.get("event"))
                self._latest[event] = line
                if event in {"failed", "stopped", "lost", "superlink-ended", "trouble"}:
                    self._last_error = line
                _count(self.totals, event, line)

    def _state(self, running: bool) -> str:
        if failure(self._home) is not None:
            return "stopped"
        if self._finished():
            return "finished"
        if not running:
            return "down"
        if trainer(self._home) is None:
            return "starting"
        return "training" if self._waits() is None else "waiting"

    def _waits(self) -> str | None:
        """Why training waits for devices; None if it does not."""
        recruited = self._latest.get("recruited", {}).get("at", 0.0)
        waits = [one for name in ("waiting", "released") if (one := self._latest.get(name)) is not None]
        latest = max(waits, key=lambda one: float(one["at"]), default=None)
        return str(latest.get("why")) if latest is not None and latest["at"] >= recruited else None

    def _finished(self) -> bool:
        return RunFolder(self._home.run).finished

    def _progress(self) -> tuple[int, int, str | None]:
        """Rounds done, the attempt at the next, and what is wrong with the records."""
        try:
            done = len(RunFolder(self._home.run).rounds())
        except FedrecError as error:
            return 0, 0, str(error)
        latest = self._latest.get("recruited", {})
        attempt = int(latest.get("attempt", 0)) if latest.get("round") == done + 1 else 0
        return done, attempt, None

    def _online(self, keys: set[bytes]) -> int:
        try:
            known = nodes(self._home.flwr / "state.db", time.time())
        except FedrecError:
            return 0
        return sum(node.online for key, node in known.items() if key in keys)

    def _epsilon(self) -> float | None:
        """From the ledger, priced again only when it has grown; None where there is none or it is damaged."""
        path = self._home.run / names.LEDGER
        size = path.stat().st_size if path.exists() else 0
        if size != self._priced[0]:
            try:
                self._priced = size, _spent(path.read_bytes()) if size else None
            except (FedrecError, OSError, KeyError, TypeError):
                self._priced = size, None
        return self._priced[1]


def _spent(ledger: bytes) -> float | None:
    records = verify_chain(ledger.split(b"\n")[:-1])
    if not records:
        return None
    released = {(one["round"], one["attempt"]) for one in records if one["type"] == "release"}
    unit = str(records[0]["unit"])
    charged = [one for one in records if one["type"] == "reserve" and (one["round"], one["attempt"]) not in released]
    events = [from_fields(one["events"][unit]) for one in charged]
    return filter_epsilon(events, float(records[0]["delta"])) if events else 0.0


def _count(totals: Counter[str], event: str, line: dict[str, Any]) -> None:
    """What a line adds to the totals."""
    if event == "recruited":
        totals["attempts"] += 1
    elif event == "round":
        totals["rounds"] += 1
    elif event in {"failed", "released", "lost"}:
        totals[event] += 1
    elif event == "phase":
        for name in ("asked", "answered", "refused", "rejected", "silent", "up_bytes", "down_bytes"):
            totals[name] += int(line.get(name, 0))
        totals["milliseconds"] += round(1000 * float(line.get("seconds", 0.0)))


def _number(facts: dict[str, str | int | None] | None, name: str) -> int | None:
    value = (facts or {}).get(name)
    return value if isinstance(value, int) else None


def words(status: Status) -> str:
    """A status for people, a fact a line."""
    done = "none done yet" if status.rounds is None and not status.round else f"{status.round} done"
    if status.rounds is not None:
        done = f"{status.round} of {status.rounds} done"
    epsilon = "-" if status.epsilon is None else f"{status.epsilon:.4g}"
    when = (
        "" if status.last_error_at is None else time.strftime(" (%Y-%m-%d %H:%M)", time.localtime(status.last_error_at))
    )
    lines = {
        "experiment": f"{status.experiment} ({status.model}), {status.digest[:16]}",
        "state": status.state + (f": {status.why}" if status.why else ""),
        "round": done + (f", attempt {status.attempt}" if status.attempt else ""),
        "devices": f"{status.online} online of {status.enrolled} enrolled, {status.revoked} revoked",
        "epsilon": f"{epsilon} of {status.budget}",
        "certificate": _certificate(status.certificate_days),
        "processes": ", ".join(
            f"{name} {'down' if pid is None else pid}"
            for name, pid in (("server", status.server), ("SuperLink", status.superlink), ("trainer", status.trainer))
        ),
        "metrics": status.metrics or "-",
        "last error": f"{status.last_error or '-'}{when}",
    }
    return "\n".join(f"{name:<12}{value}" for name, value in lines.items())


def _certificate(days: float) -> str:
    if days < 0:
        return f"EXPIRED {-days:.1f} days ago: devices cannot connect; run 'fedrec server renew'"
    return f"{days:.0f} days left" + ("; run 'fedrec server renew'" if days < 30 else "")


def as_json(status: Status) -> str:
    """A status for programs."""
    return json.dumps(status.fields())
