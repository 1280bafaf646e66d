"""A server's figures in the text format that Prometheus reads, version 0.0.4."""

from __future__ import annotations

import threading
from collections import Counter

from fedrec.deployment.loopback import Loopback
from fedrec.deployment.status import Status, Watcher

_STATES = ("down", "starting", "waiting", "training", "finished", "stopped")
_KIND = "text/plain; version=0.0.4; charset=utf-8"

_COUNTERS = {
    "rounds": "Rounds that were committed.",
    "attempts": "Attempts at rounds, each of which was charged unless it was released.",
    "released": "Attempts that ended before any vector was asked for, which cost nothing.",
    "failed": "Attempts that too few devices went through.",
    "lost": "Trainings that ended without a word and were started anew.",
    "asked": "Messages to devices.",
    "answered": "Replies that counted.",
    "silent": "Messages without a reply in time.",
    "refused": "Refusals of devices.",
    "rejected": "Replies that were malformed or broke the protocol.",
    "up_bytes": "Bytes of what devices sent.",
    "down_bytes": "Bytes of what devices were sent.",
}


def render(status: Status, totals: Counter[str]) -> str:
    """All figures as one text."""
    lines: list[str] = []
    for name, about in _COUNTERS.items():
        lines += _metric(f"fedrec_{name}_total", "counter", about, totals[name])
    lines += _metric("fedrec_phase_seconds_total", "counter", "Time spent on replies.", totals["milliseconds"] / 1000)
    gauges: dict[str, tuple[str, float | None]] = {
        "round": ("Rounds done.", status.round),
        "rounds_planned": ("Rounds of the experiment.", status.rounds),
        "devices_enrolled": ("Devices that are enrolled and not revoked.", status.enrolled),
        "devices_online": ("Of these, those that Flower has heard of lately.", status.online),
        "devices_revoked": ("Devices that are shut out.", status.revoked),
        "epsilon": ("Privacy budget spent, by the filter that decides refusals.", status.epsilon),
        "epsilon_budget": ("The most that may be spent.", status.budget),
        "certificate_days": ("Days until the server's certificate ends.", status.certificate_days),
        "superlink_up": ("Whether the SuperLink runs.", float(status.superlink is not None)),
        "trainer_up": ("Whether a training process runs.", float(status.trainer is not None)),
    }
    for name, (about, value) in gauges.items():
        if value is not None:
            lines += _metric(f"fedrec_{name}", "gauge", about, value)
    lines += ["# HELP fedrec_state The server's state.", "# TYPE fedrec_state gauge"]
    lines += [f'fedrec_state{{state="{state}"}} {int(state == status.state)}' for state in _STATES]
    return "\n".join(lines) + "\n"


def serve(watcher: Watcher, port: int = 0) -> Loopback:
    """Answers ``GET /metrics`` on loopback, and nothing else.

    Args:
        watcher: of the server.
        port: 0 takes a free one.
    """
    looking = threading.Lock()

    def answer(method: str, path: str, body: bytes) -> tuple[str, bytes] | None:  # noqa: ARG001 - an Answer's arguments
        if (method, path) != ("GET", "/metrics"):
            return None
        with looking:
            return _KIND, render(watcher.look(), watcher.totals).encode()

    return Loopback(answer, port)


def _metric(name: str, kind: str, about: str, value: float) -> list[str]:
    return [f"# HELP {name} {about}", f"# TYPE {name} {kind}", f"{name} {value:.10g}"]
