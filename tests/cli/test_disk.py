"""A disk that is full or a home that cannot be written: one sentence, and what was done can be continued."""

from __future__ import annotations

import resource
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from fedrec.config import load
from fedrec.engines import simulate
from fedrec.reporting.folder import RunFolder

Fedrec = Callable[..., Any]

SETTINGS = ("federation.rounds=12", "evaluation.every=12", "privacy.noise_multiplier=12")
LONG = [part for setting in SETTINGS for part in ("--set", setting)]


@pytest.fixture
def whole(place: Path) -> Path:
    """The run as it is with enough space."""
    simulate.start(load("tiny.toml", SETTINGS), partial(RunFolder.create, place / "whole"))
    return place / "whole"


# No file may grow beyond the limit; the files differ in size, so each limit stops another one.
@pytest.mark.parametrize(
    ("limit", "stopped", "code", "kept"),
    [
        (500, "experiment.toml", 2, set()),
        (1200, "checkpoint.safetensors", 2, {"experiment.toml", "ledger.jsonl"}),
        (2500, "rounds.jsonl", 2, {"experiment.toml", "ledger.jsonl", "rounds.jsonl", "checkpoint.safetensors"}),
        (
            20_000,
            "report.html",
            2,
            {
                "experiment.toml",
                "ledger.jsonl",
                "rounds.jsonl",
                "checkpoint.safetensors",
                "model.safetensors",
                "ledger.checkpoint",
                "summary.json",
            },
        ),
    ],
)
def test_a_full_disk(place: Path, whole: Path, limit: int, stopped: str, code: int, kept: set[str]) -> None:
    command = [sys.executable, "-m", "fedrec.cli.main", "simulate", "tiny.toml", *LONG, "--out", "run"]
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        check=False,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)),
    )
    sentence = done.stderr.splitlines()[-1]
    assert sentence.startswith("fedrec: Cannot write ")
    assert stopped in sentence
    assert "File too large" in sentence
    assert "free some space" in sentence
    assert "Traceback" not in done.stderr
    assert done.returncode == code
    assert done.stdout == ""
    run = place / "run"
    if not kept:
        assert not run.exists()
        return
    assert {path.name for path in run.iterdir()} == kept
    simulate.resume(load("run"), RunFolder.open(run))
    for name in ("model.safetensors", "ledger.jsonl"):
        assert (run / name).read_bytes() == (whole / name).read_bytes()


def test_a_home_that_cannot_be_written_costs_no_round(
    fedrec: Fedrec, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setenv("FEDREC_HOME", str(place / "tiny.toml"))
        done = fedrec("simulate", "tiny.toml", "--out", "run")
    assert done.code == 2
    assert "set FEDREC_HOME to a folder that you can write" in done.err.splitlines()[-1]
    done = fedrec("simulate", "--resume", "run")
    assert done.code == 0, done.err
    assert "continuing after round 3 of 3" in done.err
