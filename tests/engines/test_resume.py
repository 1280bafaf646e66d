"""A run that was killed, at whatever moment, continues to the result that it would have had."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from fedrec.audit.verify import verify
from fedrec.config import Experiment, load
from fedrec.engines import simulate
from fedrec.engines.base import Collected
from fedrec.engines.setting import Setting
from fedrec.errors import LedgerError, RunFolderError
from fedrec.federation.round import Plan
from fedrec.models.base import Shared
from fedrec.privacy.proofs import verify_chain, verify_checkpoint
from fedrec.reporting.folder import RunFolder

Tiny = Callable[..., Experiment]

ROUNDS = 60


@pytest.fixture(scope="module")
def long(tiny: Tiny) -> Experiment:
    """Long enough to be interrupted."""
    return tiny(f"federation.rounds={ROUNDS}", "privacy.noise_multiplier=12.0", "federation.server_momentum=0.5")


@pytest.fixture(scope="module")
def whole(long: Experiment, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The long run, never interrupted."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    simulate.start(long, partial(RunFolder.create, folder))
    return folder


def rounds(folder: Path) -> list[dict[str, Any]]:
    """The lines of rounds.jsonl but for the time that they took."""
    lines = [json.loads(line) for line in (folder / "rounds.jsonl").read_text().splitlines()]
    return [{key: value for key, value in line.items() if key != "seconds"} for line in lines]


def assert_same(folder: Path, whole: Path) -> None:
    assert {path.name for path in folder.iterdir()} == {path.name for path in whole.iterdir()}
    for name in ("model.safetensors", "ledger.jsonl"):
        assert (folder / name).read_bytes() == (whole / name).read_bytes()
    assert rounds(folder) == rounds(whole)
    verify_checkpoint((folder / "ledger.checkpoint").read_text(), (folder / "ledger.jsonl").read_bytes().splitlines())


def resume(folder: Path) -> None:
    simulate.resume(load(str(folder)), RunFolder.open(folder))


@pytest.fixture
def process(long: Experiment, tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """``fedrec simulate`` on the long experiment into tmp_path/run, as a process of its own."""
    (tmp_path / "long.toml").write_text(long.to_toml())
    command = [sys.executable, "-m", "fedrec.cli.main", "simulate", "long.toml", "--out", "run"]
    with subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as started:
        yield started
        started.kill()


def stop_after(process: subprocess.Popen[str], run: Path, lines: int, how: signal.Signals) -> tuple[str, str]:
    """Send a signal once so many rounds are recorded (-1: once there is a ledger); returns stdout and stderr."""
    deadline = time.monotonic() + 60
    log = run / "rounds.jsonl"
    while (
        not (run / "ledger.jsonl").exists() if lines < 0 else not log.exists() or log.read_bytes().count(b"\n") < lines
    ):
        assert process.poll() is None, "the run ended before it could be interrupted"
        assert time.monotonic() < deadline
        time.sleep(0.002)
    process.send_signal(how)
    out, err = process.communicate(timeout=30)
    return out, err


@pytest.mark.parametrize("lines", [-1, 30])
def test_a_killed_run_resumes_to_the_identical_result(
    process: subprocess.Popen[str], whole: Path, tmp_path: Path, lines: int
) -> None:
    stop_after(process, tmp_path / "run", lines, signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL
    assert not (tmp_path / "run" / "summary.json").exists()
    resume(tmp_path / "run")
    assert_same(tmp_path / "run", whole)


@pytest.mark.parametrize("lines", [-1, 5])
def test_ctrl_c_exits_with_130_and_says_how_to_continue(
    process: subprocess.Popen[str], whole: Path, tmp_path: Path, lines: int
) -> None:
    out, err = stop_after(process, tmp_path / "run", lines, signal.SIGINT)
    assert process.returncode == 130
    assert out == ""
    assert "Traceback" not in err
    assert "Interrupted. Continue with: fedrec simulate --resume run" in err.splitlines()
    resume(tmp_path / "run")
    assert_same(tmp_path / "run", whole)


def test_a_run_killed_twice_resumes(process: subprocess.Popen[str], whole: Path, tmp_path: Path) -> None:
    stop_after(process, tmp_path / "run", 3, signal.SIGKILL)
    command = [sys.executable, "-m", "fedrec.cli.main", "simulate", "--resume", "run"]
    with subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as second:
        stop_after(second, tmp_path / "run", 20, signal.SIGKILL)
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert re.match(rf"(continuing after round \d+ of {ROUNDS}\n)?round \d+/{ROUNDS}  ", done.stderr)
    assert_same(tmp_path / "run", whole)


CRASHES = """
import os, sys
from functools import partial
from pathlib import Path
from fedrec.config import load
from fedrec.engines import simulate
from fedrec.engines.base import Collected
from fedrec.engines.setting import Setting
from fedrec.reporting.folder import RunFolder

experiment, base, really = load(sys.argv[1]), Path(sys.argv[2]), os.fsync
simulate.start(experiment, partial(RunFolder.create, base / "whole"))  # so that no child has anything left to import
for moment in range(1, 1000):
    child = os.fork()
    if child == 0:
        left = moment
        def fsync(descriptor):
            global left
            left -= 1
            if left == 0:
                os._exit(9)
            really(descriptor)
        os.fsync = fsync
        simulate.start(experiment, partial(RunFolder.create, base / str(moment)))
        os._exit(0)
    if os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0:
        break
"""


def test_a_crash_at_any_write_loses_no_charge_and_no_result(tiny: Tiny, tmp_path: Path) -> None:
    """The process dies, without any clean-up, at the first write to the disk, at the second, and so on."""
    # Much noise, since the accountant is quick then: the run is finished some twenty times.
    experiment = tiny("federation.rounds=2", "federation.server_momentum=0.5", "privacy.noise_multiplier=40.0")
    (tmp_path / "tiny.toml").write_text(experiment.to_toml())
    base = tmp_path / "crashes"
    base.mkdir()
    subprocess.run(
        [sys.executable, "-c", CRASHES, str(tmp_path / "tiny.toml"), str(base)], check=True, capture_output=True
    )
    whole = base / "whole"
    moments = len(list(base.iterdir())) - 1
    assert moments > 15
    for moment in range(1, moments):
        run = base / str(moment)
        if not (run / "experiment.toml").exists():
            assert moment <= 2
            assert not (run / "ledger.jsonl").exists()  # nothing was charged
            continue
        charged = events(run)
        if not RunFolder.open(run).finished:
            resume(run)
        assert events(run)[: len(charged)] == charged
        assert_same(run, whole)


def events(run: Path) -> list[Any]:
    """The acknowledged events of a run's ledger; a line without its end was not."""
    ledger = run / "ledger.jsonl"
    return list(verify_chain(ledger.read_bytes().split(b"\n")[:-1])) if ledger.exists() else []


class Stopping:
    """A fleet that someone interrupts in the third round."""

    name = "fleet"

    def __init__(self, setting: Setting) -> None:
        self.fleet = simulate.fleet(setting)

    def collect(self, plan: Plan, shared: Shared) -> Collected:
        if plan.round == 3:
            raise KeyboardInterrupt
        return self.fleet.collect(plan, shared)


@pytest.fixture
def interrupted(tiny: Tiny, tmp_path: Path) -> Path:
    """A run that stopped in its third round, after the reservation."""

    with pytest.raises(KeyboardInterrupt):
        simulate.start(tiny(), partial(RunFolder.create, tmp_path / "run"), Stopping)
    return tmp_path / "run"


def test_secure_noise_is_never_drawn_twice_for_one_attempt(tiny: Tiny, tmp_path: Path) -> None:
    """Whoever saw a first sum could subtract a second one with the same vectors and other noise."""
    experiment = tiny("privacy.source=secure", "privacy.noise_multiplier=4.0")
    with pytest.raises(KeyboardInterrupt):
        simulate.start(experiment, partial(RunFolder.create, tmp_path / "run"), Stopping)
    resume(tmp_path / "run")
    told = [(event["type"], event["round"], event["attempt"]) for event in events(tmp_path / "run")[5:]]
    assert told == [("reserve", 3, 0), ("abort", 3, 0), ("reserve", 3, 1), ("commit", 3, 1)]


def test_a_commit_whose_model_was_lost_is_not_drawn_again(tiny: Tiny, tmp_path: Path) -> None:
    """It was on record before the checkpoint was written: with secure noise the round takes another attempt."""
    experiment = tiny("privacy.source=secure", "privacy.noise_multiplier=4.0")
    folder = RunFolder.create(tmp_path / "run")
    checkpoint = folder.path("checkpoint.safetensors")

    class Keeping(Stopping):
        """Keeps the checkpoint from before round 2, and stops in round 3."""

        def collect(self, plan: Plan, shared: Shared) -> Collected:
            if plan.round == 2:
                (tmp_path / "before").write_bytes(checkpoint.read_bytes())
            return super().collect(plan, shared)

    with pytest.raises(KeyboardInterrupt):
        simulate.start(experiment, lambda: folder, Keeping)
    checkpoint.write_bytes((tmp_path / "before").read_bytes())
    ledger = folder.path("ledger.jsonl")
    ledger.write_bytes(b"".join(ledger.read_bytes().splitlines(keepends=True)[:5]))
    resume(folder.root)
    told = [(event["type"], event["round"], event["attempt"]) for event in events(folder.root)[3:]]
    assert told == [
        ("reserve", 2, 0),
        ("commit", 2, 0),
        ("reserve", 2, 1),
        ("commit", 2, 1),
        ("reserve", 3, 0),
        ("commit", 3, 0),
    ]
    assert verify(folder.root).faults == ()


def refuses(run: Path, kind: type[Exception], says: str) -> None:
    """Resuming fails with that sentence and touches nothing."""
    before = {path.name: path.read_bytes() for path in run.iterdir()}
    with pytest.raises(kind, match=says):
        resume(run)
    assert {path.name: path.read_bytes() for path in run.iterdir()} == before


def test_a_finished_run_is_not_resumed(whole: Path) -> None:
    refuses(whole, RunFolderError, "is finished; there is nothing to resume")


def test_another_experiments_checkpoint_is_refused(interrupted: Path, tiny: Tiny) -> None:
    (interrupted / "ledger.jsonl").unlink()  # it would be refused first
    (interrupted / "experiment.toml").write_text(tiny("seed=2").to_toml())
    with pytest.raises(RunFolderError, match="belongs to another experiment than the experiment"):
        resume(interrupted)


def test_another_experiments_ledger_is_refused(interrupted: Path, tiny: Tiny) -> None:
    (interrupted / "experiment.toml").write_text(tiny("federation.rounds=4").to_toml())
    refuses(interrupted, LedgerError, "belongs to another experiment")


@pytest.mark.parametrize("size", [0, 7, 100, -1])
def test_a_truncated_checkpoint_is_refused(interrupted: Path, size: int) -> None:
    file = interrupted / "checkpoint.safetensors"
    file.write_bytes(file.read_bytes()[:size])
    refuses(interrupted, RunFolderError, r"checkpoint\.safetensors' is damaged .*; start the run again in a new folder")


def test_a_checkpoint_that_is_no_checkpoint_is_refused(interrupted: Path, whole: Path) -> None:
    (interrupted / "checkpoint.safetensors").write_bytes((whole / "model.safetensors").read_bytes())
    refuses(interrupted, RunFolderError, r"checkpoint\.safetensors' is damaged")


def test_a_ledger_with_a_missing_last_line_is_refused(interrupted: Path) -> None:
    ledger = interrupted / "ledger.jsonl"
    lines = ledger.read_bytes().splitlines(keepends=True)
    assert len(lines) == 6  # the reservation of round 3 came after the checkpoint
    ledger.write_bytes(b"".join(lines[:4]))
    refuses(interrupted, LedgerError, "holds 4 lines where the checkpoint knows 5: events are missing")


def test_a_ledger_with_a_missing_inner_line_is_refused(interrupted: Path) -> None:
    ledger = interrupted / "ledger.jsonl"
    lines = ledger.read_bytes().splitlines(keepends=True)
    ledger.write_bytes(b"".join(lines[:2] + lines[3:]))
    refuses(interrupted, LedgerError, "ledger.jsonl, line 3: does not follow the line before it")


def test_a_missing_ledger_is_refused(interrupted: Path) -> None:
    (interrupted / "ledger.jsonl").unlink()
    before = (interrupted / "checkpoint.safetensors").read_bytes()
    with pytest.raises(LedgerError, match="holds 1 lines where the checkpoint knows 5: events are missing"):
        resume(interrupted)
    assert (interrupted / "checkpoint.safetensors").read_bytes() == before


def test_a_damaged_round_record_is_refused(interrupted: Path) -> None:
    log = interrupted / "rounds.jsonl"
    log.write_bytes(log.read_bytes().splitlines(keepends=True)[0])
    refuses(interrupted, RunFolderError, "has 1 of the 2 rounds of the checkpoint")


def test_a_half_written_round_is_dropped(interrupted: Path, tiny: Tiny, tmp_path: Path) -> None:
    with (interrupted / "rounds.jsonl").open("ab") as log:
        log.write(b'{"round": 3, "att')
    with (interrupted / "ledger.jsonl").open("ab") as ledger:
        ledger.write(b'{"attempt":0,')
    resume(interrupted)
    simulate.start(tiny(), partial(RunFolder.create, tmp_path / "whole"))
    assert_same(interrupted, tmp_path / "whole")
