"""``fedrec bench``: what it prints, when it fails, and that the pages say what was measured."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fedrec as package
from simulations.benchmarks import mf, page
from simulations.benchmarks.__main__ import WORKS, run
from simulations.benchmarks.peers.serving import Task
from simulations.benchmarks.rows import BenchmarkError, ratio

ROOT = Path(page.__file__).parents[2]


@pytest.fixture
def task() -> Task:
    generator = np.random.default_rng(1)
    return Task(
        table=generator.standard_normal((7, 3)).astype(np.float32),
        bias=np.zeros(7, np.float32),
        personal=generator.standard_normal((2, 3)).astype(np.float32),
        indptr=np.array([0, 2, 5]),
        positives=np.array([0, 1, 2, 3, 4]),
        negatives=np.array([5, 6, 5, 6, 0]),
        batch_size=2,
        learning_rate=0.05,
        clip_norm=1.0,
        noise_std=1.0,
    )


@pytest.mark.slow
def test_json_is_the_last_line_and_all_of_stdout() -> None:
    command = [sys.executable, "-m", "fedrec.cli.main", "bench", "--only", "secagg", "--repeats", "1", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    report = json.loads(done.stdout)
    assert {row["work"] for row in report["rows"]} == {"secagg"}
    assert all(row["spread"][0] <= row["value"] <= row["spread"][1] for row in report["rows"])
    assert report["machine"]["cores"] >= 1
    assert report["versions"]["fedrec"] == package.__version__


def test_a_wheel_says_that_it_has_no_benchmarks(
    fedrec: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(package, "__file__", str(tmp_path / "site-packages" / "fedrec" / "__init__.py"))
    done = fedrec("bench", "--only", "mf")
    assert done.code == 2
    assert done.err == (
        "fedrec: This fedrec is installed without its benchmarks; clone the repository and run 'make bench' there.\n"
    )


def test_an_unknown_work_is_bad_usage_and_the_known_ones_are_named(capfd: pytest.CaptureFixture[str]) -> None:
    command = [sys.executable, "-m", "simulations.benchmarks", "--only", "nothing"]
    assert subprocess.run(command, cwd=ROOT, check=False).returncode == 2
    said = capfd.readouterr().err
    assert all(name in said for name in WORKS)


def test_a_work_that_fails_is_told_in_a_sentence(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fails(repeats: int) -> list[object]:
        raise BenchmarkError(f"It cannot be done {repeats} times.")

    monkeypatch.setattr("simulations.benchmarks.workers.rows", fails)
    assert run("workers", 3) == ([], {"workers": "It cannot be done 3 times."})
    assert "fedrec bench: workers: It cannot be done 3 times.\n" in capsys.readouterr().err


def test_a_peer_that_learns_something_else_fails(task: Task) -> None:
    ours = {"table": np.ones((7, 3)), "bias": np.ones(7)}
    theirs = {"table": np.ones((7, 3)) * (1 + 2 * mf.TOLERANCE), "bias": np.ones(7)}
    mf.check(task, {"fedrec-numba": ours, "peer": {**ours, "table": ours["table"] * (1 + mf.TOLERANCE / 2)}})
    with pytest.raises(BenchmarkError, match="'peer' does not do the work of 'fedrec-numba'"):
        mf.check(task, {"fedrec-numba": ours, "peer": theirs})
    with pytest.raises(BenchmarkError, match="'peer' does not do the work"):
        mf.check(task, {"fedrec-numba": ours, "peer": {**ours, "bias": np.full(7, np.nan)}})


def test_a_task_comes_back_from_its_file(task: Task, tmp_path: Path) -> None:
    np.savez(tmp_path / "task.npz", **vars(task))
    back = Task.read(tmp_path / "task.npz")
    assert back.clients == 2
    assert all(np.array_equal(value, vars(back)[name]) for name, value in vars(task).items())


def test_a_ratio_is_of_medians_and_its_spread_of_turns() -> None:
    row = ratio("mf", "one over other", fast=[1.0, 2.0, 3.0], slow=[10.0, 10.0, 40.0])
    assert row.value == 5.0
    assert row.spread == (5.0, 40.0 / 3.0)


@pytest.mark.parametrize(("value", "said"), [(0.0, "0"), (0.01234, "0.0123"), (9.996, "10.00"), (12345.6, "12,300")])
def test_figures_have_three_digits(value: float, said: str) -> None:
    assert page.figure(value) == said


@pytest.mark.parametrize("name", page.PAGES)
def test_the_pages_say_what_the_kept_measurement_says(name: str) -> None:
    report = json.loads((ROOT / "docs" / "bench.json").read_text(encoding="utf-8"))
    text = (ROOT / name).read_text(encoding="utf-8")
    assert page.MARKED.search(text)
    assert page.filled(text, report) == text


def test_the_drawing_is_of_the_kept_measurement() -> None:
    report = json.loads((ROOT / "docs" / "bench.json").read_text(encoding="utf-8"))
    assert page.drawing(report["rows"]) == (ROOT / page.DRAWING).read_text(encoding="utf-8")


@pytest.mark.slow
def test_fedrec_and_a_plain_loop_do_the_same_work() -> None:
    found = mf.measured(1, ["fedrec-numpy", "torch-loop"])
    assert [row.name for row in found] == ["fedrec-numpy", "torch-loop", "fedrec-numpy over torch-loop"]
    assert found[2].value > 1
