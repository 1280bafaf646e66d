"""What happened, one JSON object a line: for people who look for an error, and for status and metrics."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

Fields = Mapping[str, str | int | float | None]


class Journal:
    """A file that grows by whole lines; several processes have one each.

    Args:
        path: the file.
        clock: unix seconds.
        echo: also told each line in words, for a terminal.
    """

    def __init__(
        self, path: Path, clock: Callable[[], float] = time.time, echo: Callable[[str], object] | None = None
    ) -> None:
        self._path, self._clock, self._echo = path, clock, echo

    def note(self, event: str, fields: Fields, words: str = "") -> None:
        """Write a line: ``at``, ``event`` and the fields.

        A full disk must not end what the journal tells of, so a line that cannot be written is left out.
        """
        now = self._clock()
        text = json.dumps({"at": round(now, 3), "event": event, **fields}) + "\n"
        try:
            descriptor = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
            try:
                os.write(descriptor, text.encode())
            finally:
                os.close(descriptor)
        except OSError:
            words = words or event
        if self._echo is not None and words:
            self._echo(f"{time.strftime('%H:%M:%S', time.localtime(now))} {words}")


class Follower:
    """Reads the lines that a journal has got since the last time."""

    def __init__(self, path: Path) -> None:
        self._path, self._offset = path, 0

    def lines(self) -> list[dict[str, Any]]:
        """Whole lines only; one that is no JSON object is passed over."""
        try:
            with self._path.open("rb") as file:
                file.seek(self._offset)
                data = file.read()
        except FileNotFoundError:
            return []
        whole = data[: data.rfind(b"\n") + 1]
        self._offset += len(whole)
        return [line for raw in whole.splitlines() if isinstance(line := _parsed(raw), dict)]


def in_words(line: Mapping[str, Any]) -> str:
    """A line of the training's journal for people; "" for what only status and metrics read."""
    form = _WORDS.get(str(line.get("event")), "")
    if line.get("event") == "phase" and line.get("answered") == line.get("asked"):
        return ""
    known = {"round": "?", "attempt": 0, **line}
    attempt = f", attempt {known['attempt']}" if known["attempt"] else ""
    try:
        return form.format(**{**known, "where": f"round {known['round']}{attempt}"})
    except (KeyError, ValueError, TypeError):  # a line of another version
        return ""


_WORDS = {
    "started": "training: process {pid}, {done} of {rounds} rounds done",
    "waiting": "{where} waits: {online} devices online, {wanted} needed; {why}",
    "recruited": "{where}: {cohort} of {online} devices online are asked",
    "phase": "{where}, {phase}: {answered} of {asked} answered ({silent} silent, {refused} refused, {rejected} wrong)",
    "released": "{where} cost nothing and waits: {why}; tried again in {pause_s:.0f} s",
    "round": "{where} is done: {survivors} devices, {seconds:.1f} s, epsilon {epsilon:.4g}",
    "failed": "{where} failed: {why}",
}


def _parsed(raw: bytes) -> Any:
    try:
        return json.loads(raw)
    except ValueError:
        return None
