"""Locks, journals, status and metrics: what a server says of itself, from its files alone."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest

from fedrec.deployment import locks, metrics, training
from fedrec.deployment.journal import Follower, Journal, in_words
from fedrec.deployment.status import Watcher, as_json, words
from fedrec.deployment.superlink import nodes
from fedrec.deployment.supervisor import Supervisor
from fedrec.errors import ServerError
from tests.deployment.world import new_server

_HOLD = """
import sys, time
from pathlib import Path
from fedrec.deployment import locks
with locks.held(Path(sys.argv[1]), "at work") as tell:
    tell({"port": 7})
    print("held", flush=True)
    time.sleep(60)
"""

_BUSY = """
import os, sys
from pathlib import Path
from fedrec.deployment.home import ServerHome
from fedrec.deployment.superlink import Flower, SuperLink
from fedrec.deployment.supervisor import Supervisor
from fedrec.errors import RoundFailedError

class Busy(Flower):
    asked = []

    def answer(self, what):
        self.asked.append(what)
        if self.asked.count(what) == 1:
            raise RoundFailedError(f"'flwr {what}' failed.")
        return "7"

    def stop_runs(self):
        self.answer("stop")

    def run(self, spec):
        return self.answer("run")

SuperLink.start = lambda self: Busy({}, Path())
SuperLink.pid = property(lambda self: os.getpid())
supervisor = Supervisor(ServerHome.open(Path(sys.argv[1])), lambda said: said.endswith("run 7") and supervisor.stop())
supervisor.up(until_done=False)
print(*Busy.asked)
"""


def test_a_lock_ends_with_its_holder_however_that_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(locks, "_PATIENCE_S", 0.1)
    path = tmp_path / "lock"
    assert locks.holder(path) is None
    other = subprocess.Popen([sys.executable, "-c", _HOLD, str(path)], stdout=subprocess.PIPE)
    try:
        assert other.stdout is not None
        assert other.stdout.readline() == b"held\n"
        assert locks.holder(path) == {"pid": other.pid, "port": 7}
        with pytest.raises(ServerError, match=rf"Process {other.pid} is at work already"), locks.held(path, "at work"):
            pass
    finally:
        other.kill()
        other.communicate()
    assert locks.holder(path) is None
    with locks.held(path, "at work"):
        assert locks.holder(path) == {"pid": os.getpid()}


def test_a_journal_is_followed_line_by_line_and_a_line_cut_short_waits_for_its_end(tmp_path: Path) -> None:
    path, said = tmp_path / "log.jsonl", list[str]()
    follower = Follower(path)
    assert follower.lines() == []
    journal = Journal(path, clock=lambda: 5.0, echo=said.append)
    journal.note("one", {"round": 1}, "round 1")
    journal.note("two", {})
    assert follower.lines() == [{"at": 5.0, "event": "one", "round": 1}, {"at": 5.0, "event": "two"}]
    assert [line[9:] for line in said] == ["round 1"]
    with path.open("ab") as file:
        file.write(b'{"event": "thr')
    assert follower.lines() == []
    with path.open("ab") as file:
        file.write(b'ee"}\nnot json\n')
    assert follower.lines() == [{"event": "three"}]
    assert path.stat().st_mode & 0o077 == 0


def test_a_full_disk_does_not_end_what_the_journal_tells_of(tmp_path: Path) -> None:
    said = list[str]()
    Journal(tmp_path / "missing" / "log.jsonl", echo=said.append).note("stopping", {})
    assert said[0].endswith("stopping")


def test_the_trainings_lines_are_told_in_words() -> None:
    line = {"event": "round", "round": 2, "attempt": 1, "survivors": 5, "seconds": 3.21, "epsilon": 0.5}
    assert in_words(line) == "round 2, attempt 1 is done: 5 devices, 3.2 s, epsilon 0.5"
    whole = {"event": "phase", "asked": 5, "answered": 5}
    assert in_words(whole) == in_words({"event": "phase"}) == in_words({"event": "unknown"}) == ""


def test_status_of_a_server_that_has_never_run(tmp_path: Path) -> None:
    home = new_server(tmp_path / "server")
    found = Watcher(home).look()
    assert (found.state, found.round, found.rounds, found.enrolled, found.epsilon) == ("down", 0, None, 0, None)
    assert 364 <= found.certificate_days <= 366
    assert json.loads(as_json(found))["state"] == "down"
    assert re.search(r"^state +down$", words(found), re.MULTILINE)


def test_status_names_the_last_error_and_what_training_ended_with(tmp_path: Path) -> None:
    home = new_server(tmp_path / "server")
    Journal(home.logs / "server.jsonl").note("trouble", {"why": "the port is taken"})
    watcher = Watcher(home)
    assert watcher.look().last_error == "the port is taken"
    training.leave_word(home, ServerError("nothing goes"))
    found = watcher.look()
    assert (found.state, found.last_error) == ("stopped", "nothing goes")
    assert training.failure(home) == {"type": "ServerError", "message": "nothing goes"}
    training.forget_failure(home)
    assert watcher.look().state == "down"


def test_damaged_records_are_an_error_in_the_status_and_not_of_the_status(tmp_path: Path) -> None:
    home = new_server(tmp_path / "server")
    home.run.mkdir()
    (home.run / "rounds.jsonl").write_text("no json\n")
    (home.run / "ledger.jsonl").write_text("no json\n")
    (home.flwr / "state.db").write_text("no database")
    found = Watcher(home).look()
    assert "rounds.jsonl" in (found.last_error or "")
    assert found.epsilon is None
    with pytest.raises(ServerError, match=r"state\.db' cannot be read"):
        nodes(home.flwr / "state.db", time.time())


def test_metrics_are_in_the_form_that_prometheus_reads(tmp_path: Path) -> None:
    home = new_server(tmp_path / "server")
    journal = Journal(home.logs / training.LOG)
    numbers = {"asked": 5, "answered": 3, "refused": 1, "rejected": 0, "silent": 1, "up_bytes": 10, "down_bytes": 20}
    journal.note("recruited", {"round": 1, "attempt": 0})
    journal.note("phase", {"round": 1, "phase": "masked", "seconds": 1.25, **numbers})
    with metrics.serve(Watcher(home)) as server, urllib.request.urlopen(f"{server.url}/metrics") as found:  # noqa: S310
        text = found.read().decode()
        assert found.headers["Content-Type"].startswith("text/plain; version=0.0.4")
    kinds, seen = {}, {}
    for line in text.splitlines():
        if comment := re.fullmatch(r"# (HELP|TYPE) (\w+) (.+)", line):
            kinds[comment[2]] = comment[3]
        else:
            sample = re.fullmatch(r'(\w+)(\{state="\w+"\})? (-?[0-9.e+-]+)', line)
            assert sample, line
            assert sample[1] in kinds
            seen[sample[1]] = float(sample[3])
    assert seen["fedrec_attempts_total"] == 1
    assert (seen["fedrec_silent_total"], seen["fedrec_refused_total"]) == (1, 1)
    assert seen["fedrec_phase_seconds_total"] == 1.25


def test_a_run_folder_of_another_experiment_is_refused(tmp_path: Path) -> None:
    home = new_server(tmp_path / "server")
    training.run_folder(home)
    assert (home.run / "experiment.toml").read_text() == home.experiment_text()
    (home.run / "experiment.toml").write_text("other")
    with pytest.raises(ServerError, match="another experiment"):
        training.run_folder(home)


def test_a_line_that_a_crash_cut_short_is_cut_off_before_the_next(tmp_path: Path) -> None:
    path = tmp_path / "cohorts.jsonl"
    training.append(path, {"round": 1})
    with path.open("ab") as file:
        file.write(b'{"rou')
    training.append(path, {"round": 2})
    assert path.read_text() == '{"round": 1}\n{"round": 2}\n'


def test_two_trainers_never_work_in_one_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(locks, "_PATIENCE_S", 0.1)
    home = new_server(tmp_path / "server")
    path = home.root / training._LOCK
    other = subprocess.Popen([sys.executable, "-c", _HOLD, str(path)], stdout=subprocess.PIPE)
    try:
        assert other.stdout is not None
        other.stdout.readline()
        assert training.trainer(home) == other.pid
        with pytest.raises(ServerError, match=f"Process {other.pid} is training already"):
            training.train(home, lambda *_: pytest.fail("no engine is made"))
    finally:
        other.send_signal(signal.SIGKILL)
        other.communicate()
    assert training.trainer(home) is None


def test_a_server_with_a_damaged_catalogue_does_not_start_and_names_it(tmp_path: Path) -> None:
    home = new_server(tmp_path / "server")
    content = bytearray(home.catalogue_bytes())
    content[-1] ^= 1
    home.catalogue_file.write_bytes(content)
    said: list[object] = []
    with pytest.raises(ServerError, match=r"catalogue\.bin' is not the catalogue that .* restore it from a backup"):
        Supervisor(home, said.append).up(until_done=True)
    assert not said


def test_a_flower_that_is_too_busy_to_answer_at_the_start_is_asked_again(tmp_path: Path) -> None:
    home = new_server(tmp_path / "server")
    command = [sys.executable, "-c", _BUSY, str(home.root)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["stop", "stop", "run", "stop", "run"]
    events = [json.loads(line)["event"] for line in (home.logs / "server.jsonl").read_text().splitlines()]
    assert events == ["superlink-started", "gateway", "trouble", "trouble", "submitted", "stopping"]


def test_a_server_that_never_trained_says_so_in_words(tmp_path: Path) -> None:
    assert "none done yet" in words(Watcher(new_server(tmp_path / "server")).look())
