"""The Flower engine for real: a SuperLink, Ray and several nodes. Every run takes about half a minute."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tomli_w
from safetensors.numpy import load_file

from fedrec.config import Experiment
from fedrec.engines import simulate
from fedrec.engines.flower import superlink
from fedrec.errors import BudgetExceededError
from fedrec.privacy.proofs import verify_chain, verify_checkpoint
from fedrec.reporting.folder import RunFolder

pytestmark = pytest.mark.slow
pytest.importorskip("ray")

Tiny = Callable[..., Experiment]

PLAIN = ("privacy.epsilon=none", "privacy.noise_multiplier=none")
SIMULATE = [sys.executable, "-m", "fedrec.cli.main", "simulate", "experiment.toml", "--engine", "flower"]


def on_flower(experiment: Experiment, folder: Path) -> subprocess.CompletedProcess[str]:
    """``fedrec simulate --engine flower`` into folder/run."""
    (folder / "experiment.toml").write_text(experiment.to_toml())
    command = [*SIMULATE, "--out", "run", "--json"]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False, timeout=300)


def on_fleet(experiment: Experiment, folder: Path) -> Path:
    simulate.start(experiment, partial(RunFolder.create, folder))
    return folder


def assert_close(run: Path, other: Path) -> None:
    one, two = (load_file(folder / "model.safetensors") for folder in (run, other))
    assert set(one) == set(two)
    for name, array in one.items():
        np.testing.assert_allclose(array, two[name], rtol=0, atol=1e-6)


@pytest.fixture(scope="module")
def private(tiny: Tiny, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a private run on four nodes; its lists have another length than the progress line's 10."""
    folder = tmp_path_factory.mktemp("private")
    done = on_flower(tiny("evaluation.k=[5]"), folder)
    assert done.returncode == 0, done.stderr
    return folder / "run"


def test_without_noise_flower_agrees_with_the_fleet(tiny: Tiny, tmp_path: Path) -> None:
    experiment = tiny(*PLAIN)
    done = on_flower(experiment, tmp_path)
    assert done.returncode == 0, done.stderr
    summary = json.loads(done.stdout.splitlines()[-1])
    assert (summary["engine"], summary["rounds"], summary["rejected"]) == ("flower", 3, 0)
    assert_close(tmp_path / "run", on_fleet(experiment, tmp_path / "fleet"))
    assert not (tmp_path / "run" / "checkpoint.safetensors").exists()


def charges(run: Path) -> list[dict[str, Any]]:
    """The ledger but for the models, whose noise each node draws for itself, and the links over them."""
    events = verify_chain((run / "ledger.jsonl").read_bytes().splitlines())
    return [{key: value for key, value in event.items() if key not in ("model", "prev")} for event in events]


def test_a_private_run_has_the_fleets_charges(private: Path, tiny: Tiny, tmp_path: Path) -> None:
    fleet = on_fleet(tiny("evaluation.k=[5]", "privacy.noise=skellam"), tmp_path / "fleet")
    assert {path.name for path in private.iterdir()} == {path.name for path in fleet.iterdir()}
    assert charges(private) == charges(fleet)
    verify_checkpoint((private / "ledger.checkpoint").read_text(), (private / "ledger.jsonl").read_bytes().splitlines())
    one, two = (json.loads((folder / "summary.json").read_text())["privacy"] for folder in (private, fleet))
    assert {key for key in one if one[key] != two[key]} == {"aggregation", "unprotected"}


def test_a_refused_budget_exits_with_3(tiny: Tiny, tmp_path: Path) -> None:
    experiment = tiny("privacy.epsilon=2")
    done = on_flower(experiment, tmp_path)
    assert done.returncode == 3
    assert done.stdout == ""
    sentence = done.stderr.splitlines()[-1]
    assert sentence.startswith("fedrec: Round 2 would bring epsilon to 2.")
    assert sentence.endswith("The rounds done are kept in run.")
    assert "Traceback" not in done.stderr
    with pytest.raises(BudgetExceededError):
        on_fleet(tiny("privacy.epsilon=2", "privacy.noise=skellam"), tmp_path / "fleet")
    assert charges(tmp_path / "run") == charges(tmp_path / "fleet")


def marked(mark: str) -> list[str]:
    """The command lines of all living processes that inherited a mark in their environment."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if mark.encode() in (process / "environ").read_bytes():
                found.append((process / "cmdline").read_bytes().replace(b"\0", b" ").decode())
        except (OSError, ProcessLookupError):
            continue  # it ended meanwhile
    return found


@pytest.mark.skipif(sys.platform != "linux", reason="reads processes from /proc")
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM], ids=str)
def test_a_signal_stops_every_process(tiny: Tiny, tmp_path: Path, how: signal.Signals) -> None:
    (tmp_path / "experiment.toml").write_text(tiny(*PLAIN, "federation.rounds=5000").to_toml())
    mark = f"FEDREC_TEST_MARK={uuid.uuid4().hex}"
    environment = os.environ | dict([mark.split("=")])
    command = [*SIMULATE, "--out", "run"]
    with subprocess.Popen(
        command, cwd=tmp_path, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        deadline = time.monotonic() + 120
        while not (tmp_path / "run" / "rounds.jsonl").exists():
            assert process.poll() is None, process.communicate()
            assert time.monotonic() < deadline
            time.sleep(0.1)
        assert any("flower-superlink" in line for line in marked(mark))
        process.send_signal(how)
        _, err = process.communicate(timeout=90)
    assert process.returncode == (130 if how == signal.SIGINT else 128 + how)
    assert "Traceback" not in err
    if how == signal.SIGINT:
        assert "Interrupted. Continue with: fedrec simulate --resume run" in err.splitlines()
    deadline = time.monotonic() + 5
    while marked(mark) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert marked(mark) == []
    assert (tmp_path / "run" / "checkpoint.safetensors").exists()


def checkout(folder: Path) -> dict[str, bytes]:
    """Copy what is under version control; returns the content of every file."""
    root = Path(__file__).parents[2]
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=root, check=True, capture_output=True, text=True)  # noqa: S607 - git of the PATH
    for name in filter(None, listed.stdout.split("\0")):
        if (root / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(root / name, folder / name)
    return content(folder)


def content(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def flwr(environment: Mapping[str, str], folder: Path, *arguments: str) -> dict[str, Any]:
    """A ``flwr`` command's JSON answer."""
    command = [str(Path(sys.executable).parent / "flwr"), *arguments, "--format", "json"]
    done = subprocess.run(command, cwd=folder, env=dict(environment), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    answer: dict[str, Any] = json.loads(done.stdout[done.stdout.index("{") :])
    assert answer.get("success"), answer
    return answer


def test_flwr_run_in_a_checkout_gives_the_same_model(private: Path, tmp_path: Path) -> None:
    before = checkout(tmp_path / "checkout")
    experiment = (private / "experiment.toml").read_text()
    (tmp_path / "run.toml").write_text(
        tomli_w.dumps({"experiment": experiment, "output-dir": str(tmp_path / "run")}, multiline_strings=True)
    )
    with superlink(tmp_path / "flwr") as environment:
        federation = ("--federation-config", "num-supernodes=4 client-resources-num-cpus=1")
        config = ("--run-config", str(tmp_path / "run.toml"))
        run_id = str(flwr(environment, tmp_path / "checkout", "run", ".", "local", *config, *federation)["run-id"])
        deadline = time.monotonic() + 120
        row: dict[str, str] = {"status": "pending"}
        while not row["status"].startswith("finished") and time.monotonic() < deadline:
            time.sleep(1)
            row = flwr(environment, tmp_path, "ls", "local", "--run-id", run_id)["runs"][0]
    assert row["status"] == "finished:completed", row
    for name in ("experiment.toml", "model.safetensors", "ledger.jsonl"):
        assert (tmp_path / "run" / name).read_bytes() == (private / name).read_bytes()
    assert content(tmp_path / "checkout") == before
