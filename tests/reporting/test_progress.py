import contextlib
import io
import os
import pty
import re
from typing import TextIO

import pytest

from fedrec.reporting.progress import Progress


def test_plain_lines_where_there_is_no_terminal() -> None:
    now = iter([0.0, 0.0, 30.0, 60.0, 90.0])
    stream = io.StringIO()
    with Progress("HR@10", stream, clock=lambda: next(now)) as progress:
        progress.start(3)
        progress.update(1, 0.25, epsilon=1.0, budget=8.0)
        progress.update(2, None, epsilon=2.5, budget=8.0)
        progress.update(3, "HR@10 .3", epsilon=8.0, budget=8.0)
        progress.finish("done")
    assert stream.getvalue().splitlines() == [
        "round 1/3  HR@10 0.250  epsilon 1 of 8  1 min 00 s left",
        "round 2/3  HR@10 0.250  epsilon 2.5 of 8  30 s left",
        "round 3/3  HR@10 .3  epsilon 8 of 8",
        "done",
    ]


def test_a_resumed_run_counts_its_own_rounds_only() -> None:
    now = iter([0.0, 0.0, 10.0])
    stream = io.StringIO()
    progress = Progress(stream=stream, clock=lambda: next(now))
    progress.start(10, done=6)
    progress.update(7)
    assert stream.getvalue().splitlines() == ["continuing after round 6 of 10", "round 7/10  no privacy  30 s left"]


def _interrupted(stream: TextIO) -> None:
    with Progress("HR@10", stream) as progress:
        progress.start(4)
        progress.update(2, 0.25, epsilon=1.0, budget=8.0)
        raise KeyboardInterrupt


def test_a_terminal_gets_a_bar_and_is_given_back_after_ctrl_c(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "100")
    master, slave = pty.openpty()
    with os.fdopen(slave, "w", encoding="utf-8") as stream, pytest.raises(KeyboardInterrupt):
        _interrupted(stream)
    shown = _everything(master)
    last = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", shown).replace("\r", "\n").strip().splitlines()[-1]
    assert re.search(r"round 2/4 .*HR@10 0\.250 epsilon 1 of 8", last)
    assert shown.rindex("\x1b[?25h") > shown.rindex("\x1b[?25l")  # the cursor is back


def _everything(master: int) -> str:
    """What a terminal was shown, which comes in pieces on a busy machine."""
    pieces = []
    with contextlib.suppress(OSError):  # as Linux ends a terminal whose other side is closed
        while piece := os.read(master, 1 << 16):
            pieces.append(piece)
    os.close(master)
    return b"".join(pieces).decode()
