"""The command line, driven in process: its entry point with arguments, exit code and both streams."""

from __future__ import annotations

import signal
import sys
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from fedrec.cli.main import main
from fedrec.config import Experiment


@dataclass(frozen=True)
class Done:
    """What a command did."""

    code: int
    out: str
    err: str


@pytest.fixture
def fedrec(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., Done]:
    """Runs ``fedrec …`` and returns what came of it."""

    def run(*arguments: str | Path) -> Done:
        capsys.readouterr()
        handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP)}
        with monkeypatch.context() as patch, warnings.catch_warnings():
            patch.setattr(sys, "argv", ["fedrec", *(str(argument) for argument in arguments)])
            with pytest.raises(SystemExit) as stop:
                main()
        for number, handler in handlers.items():
            signal.signal(number, handler)
        written = capsys.readouterr()
        return Done(int(stop.value.code or 0), written.out, written.err)

    return run


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny: Callable[..., Experiment]) -> Path:
    """A working folder that holds the tiny experiment as tiny.toml, and nothing else."""
    folder = tmp_path / "place"
    folder.mkdir()
    (folder / "tiny.toml").write_text(tiny().to_toml())
    monkeypatch.chdir(folder)
    return folder
