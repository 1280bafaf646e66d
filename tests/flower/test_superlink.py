"""A server has one SuperLink at a time: the next waits until that of a killed server has ended."""

from __future__ import annotations

import os
import sys
import threading
from pathlib import Path

import pytest

from fedrec.deployment import locks
from fedrec.errors import ServerError
from fedrec.flower import superlink


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """What Flower's command was started with, each time."""
    commands: list[list[str]] = []
    monkeypatch.setattr(superlink, "flower_superlink", lambda: commands.append(list(sys.argv)))
    monkeypatch.setattr(superlink, "end_with", lambda _: None)
    monkeypatch.setattr(sys, "argv", [])
    return commands


def test_it_starts_once_the_one_before_it_has_ended(started: list[list[str]], tmp_path: Path) -> None:
    lock, waiting = tmp_path / "lock", threading.Event()

    def next_one() -> None:
        waiting.set()
        superlink.main([str(os.getpid()), str(lock), "--port", "7"])

    with locks.held(lock, "there"):
        thread = threading.Thread(target=next_one)
        thread.start()
        waiting.wait()
        thread.join(0.3)
        assert not started
    thread.join()
    assert started == [["flower-superlink", "--port", "7"]]


def test_it_does_not_wait_for_ever(started: list[list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(superlink, "_PATIENCE_S", 0.1)
    with locks.held(tmp_path / "lock", "there"), pytest.raises(ServerError, match="is this server's SuperLink already"):
        superlink.main([str(os.getpid()), str(tmp_path / "lock")])
    assert not started
