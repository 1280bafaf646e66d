"""`fedrec audit verify`: what it prints, its exit codes, and what it refuses."""

from __future__ import annotations

import base64
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fedrec.config import Experiment
from fedrec.data.home import home
from fedrec.engines import simulate
from fedrec.privacy.keys import signing_key
from fedrec.reporting.folder import RunFolder

Fedrec = Callable[..., Any]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, tiny: Callable[..., Experiment]) -> Path:
    path = tmp_path_factory.mktemp("runs") / "run"
    simulate.start(tiny("privacy.noise=skellam"), lambda: RunFolder.create(path))
    return path


@pytest.fixture(scope="module")
def key(run: Path) -> str:
    """The public key that signed the run."""
    text: str = json.loads((run / "ledger.checkpoint").read_text())["key"]
    assert base64.b64decode(text) == signing_key(home()).public_key().public_bytes_raw()
    return text


@pytest.fixture
def edited(run: Path, tmp_path: Path) -> Path:
    """The run with another figure in its summary, and a ledger without its last line."""
    folder = Path(shutil.copytree(run, tmp_path / "edited"))
    summary = json.loads((folder / "summary.json").read_text())
    summary["privacy"]["epsilon"] = 0.5
    (folder / "summary.json").write_text(json.dumps(summary))
    lines = (folder / "ledger.jsonl").read_bytes().splitlines(keepends=True)
    (folder / "ledger.jsonl").write_bytes(b"".join(lines[:-1]))
    return folder


def test_a_sound_run_exits_with_0(fedrec: Fedrec, run: Path, key: str) -> None:
    done = fedrec("audit", "verify", run, "--checkpoint", run / "ledger.checkpoint", "--key", key)
    assert (done.code, done.err) == (0, "")
    lines = done.out.splitlines()
    assert all(line.startswith("ok     ") for line in lines[:-1])
    assert lines[0] == "ok     files: complete"
    assert lines[2].endswith("signed by the trusted key")
    assert lines[-2:] == ["ok     guarantee: simulation: the record is sound, the noise guarantees nothing", "sound"]


def test_every_fault_is_printed_and_the_exit_code_is_1(fedrec: Fedrec, edited: Path, run: Path) -> None:
    done = fedrec("audit", "verify", edited, "--checkpoint", run / "ledger.checkpoint")
    assert (done.code, done.err) == (1, "")
    said = [line for line in done.out.splitlines() if line.startswith("FAULT")]
    names = {line.split(":")[0].removeprefix("FAULT  ") for line in said}
    assert {"checkpoint", "published checkpoint", "attempts", "epsilon", "summary", "rounds"} <= names
    assert done.out.splitlines()[-1] == f"{len(said)} faults found"


def test_the_last_line_is_json_where_it_is_asked_for(fedrec: Fedrec, edited: Path, run: Path) -> None:
    for folder, sound in ((run, True), (edited, False)):
        found = json.loads(fedrec("audit", "verify", folder, "--json").out.splitlines()[-1])
        assert found["sound"] == sound
        assert {"name", "ok", "detail"} == set(found["checks"][0])
        assert all(check["ok"] for check in found["checks"]) == sound


def test_another_key_is_a_fault_and_what_is_no_key_is_refused(
    fedrec: Fedrec, run: Path, key: str, tmp_path: Path
) -> None:
    (tmp_path / "key.txt").write_text(key + "\n")
    assert fedrec("audit", "verify", run, "--key", tmp_path / "key.txt").code == 0
    other = base64.b64encode(b"\x01" * 32).decode()
    done = fedrec("audit", "verify", run, "--key", other)
    assert done.code == 1
    assert "FAULT  checkpoint: ledger.checkpoint: it is signed by another key" in done.out
    refused = fedrec("audit", "verify", run, "--key", "AAAA")
    assert (refused.code, refused.out) == (2, "")
    assert refused.err.startswith("fedrec: 'AAAA' is not a public key")


@pytest.mark.parametrize("wrong", ["no such folder", "no run", "no checkpoint"])
def test_bad_input_exits_with_2_and_one_sentence(fedrec: Fedrec, wrong: str, run: Path, tmp_path: Path) -> None:
    missing = tmp_path / "none"
    arguments: dict[str, list[Path | str]] = {
        "no such folder": [missing],
        "no run": [tmp_path],
        "no checkpoint": [run, "--checkpoint", missing],
    }
    done = fedrec("audit", "verify", *arguments[wrong])
    assert (done.code, done.out) == (2, "")
    assert done.err.count("\n") == 1
    assert done.err.startswith("fedrec: ")
