"""The progress of a run on stderr: a bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING, TextIO

from fedrec.reporting import figures

if TYPE_CHECKING:
    from rich.progress import Progress as Bar
    from rich.progress import TaskID


class Progress:
    """Round, metric, epsilon spent and time left. A context manager; leaving it in any way gives the terminal back.

    Args:
        metric: what the metric is called, such as ``HR@10``.
        stream: where to; none is stderr.
        clock: seconds that only grow.
    """

    def __init__(
        self, metric: str = "HR@10", stream: TextIO | None = None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._metric = metric
        self._stream = sys.stderr if stream is None else stream
        self._clock = clock
        self._total = 0
        self._first = 0
        self._started = clock()
        self._value = ""
        self._bar: Bar | None = None
        self._task: TaskID | None = None

    def __enter__(self) -> Progress:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._stop()

    def start(self, total_rounds: int, done: int = 0) -> None:
        """Begin; ``done`` rounds were finished before, in a run that is resumed."""
        self._stop()
        self._total, self._first, self._started, self._value = total_rounds, done, self._clock(), ""
        if _is_terminal(self._stream):
            self._bar, self._task = _rich_bar(self._stream, total_rounds, done)
            self._bar.start()
        elif done:
            self._say(f"continuing after round {done} of {total_rounds}")

    def update(
        self, round_: int, metric: str | float | None = None, epsilon: float | None = None, budget: float | None = None
    ) -> None:
        """Show that round ``round_`` (from 1) is finished.

        Args:
            round_: the round.
            metric: its value, or a text in its place; none keeps the last one (not every round is measured).
            epsilon: spent so far; none for a run without privacy.
            budget: what may be spent.
        """
        if metric is not None:
            self._value = metric if isinstance(metric, str) else f"{self._metric} {metric:.3f}"
        spent = "no privacy" if epsilon is None else f"epsilon {figures.epsilon(epsilon)}"
        if epsilon is not None and budget is not None:
            spent += f" of {figures.epsilon(budget)}"
        left = self.seconds_left(round_)
        remaining = "" if left is None else f"{figures.duration(left)} left"
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, completed=round_, value=self._value, spent=spent, left=remaining)
        else:
            parts = [f"round {round_}/{self._total}", self._value, spent, remaining]
            self._say("  ".join(part for part in parts if part))

    def finish(self, message: str = "") -> None:
        """End, with a last line."""
        self._stop()
        if message:
            self._say(message)

    def seconds_left(self, round_: int) -> float | None:
        """The mean time of the rounds of this session times those that are left; None when there is no telling."""
        done = round_ - self._first
        if done <= 0 or round_ >= self._total:
            return None
        return (self._clock() - self._started) / done * (self._total - round_)

    def _stop(self) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = self._task = None

    def _say(self, line: str) -> None:
        print(line, file=self._stream, flush=True)


def _is_terminal(stream: TextIO) -> bool:
    return stream.isatty() and os.environ.get("TERM", "") not in ("", "dumb")


def _rich_bar(stream: TextIO, total: int, done: int) -> tuple[Bar, TaskID]:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

    console = Console(file=stream)
    columns = [
        TextColumn("round"),
        MofNCompleteColumn(),
        BarColumn(bar_width=16),
        TextColumn("{task.fields[value]}", markup=False),
        TextColumn("{task.fields[spent]}", markup=False),
        TextColumn("{task.fields[left]}", markup=False),
    ]
    # stdout stays as it is: it may be a pipe that waits for --json, while warnings on stderr go above the bar.
    bar = Progress(*columns, console=console, redirect_stdout=False)
    return bar, bar.add_task("", total=total, completed=done, value="", spent="", left="")
