import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from fedrec.errors import RunFolderError
from fedrec.reporting import folder as names
from fedrec.reporting.folder import RunFolder, replace_file

_FULL_DISK = """
import resource, sys
from pathlib import Path
from fedrec.errors import RunFolderError
from fedrec.reporting.folder import RunFolder
run = RunFolder(Path(sys.argv[1]))
resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000))  # a file beyond this fails like a full disk
try:
    if sys.argv[2] == "summary":
        run.write_summary({"padding": "x" * 5000})
    else:
        for number in range(3, 1000):
            run.append_round({"round": number, "padding": "x" * 90})
except RunFolderError as error:
    sys.exit(str(error))
"""


def _on_a_full_disk(run: RunFolder, what: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", _FULL_DISK, str(run.root), what],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env={**os.environ, "PYTHONPATH": str(Path(names.__file__).parents[2])},
    )
    assert done.returncode == 1
    return done.stderr


def test_a_new_folder_is_made_with_its_parents(tmp_path: Path) -> None:
    run = RunFolder.create(tmp_path / "a" / "b")
    assert run.root.is_dir()
    assert list(run.root.iterdir()) == []


def test_an_empty_folder_may_be_used(tmp_path: Path) -> None:
    assert RunFolder.create(tmp_path).root == tmp_path


def test_an_existing_run_is_not_touched(tmp_path: Path) -> None:
    (tmp_path / "summary.json").write_text("{}")
    with pytest.raises(RunFolderError, match="choose another --out or continue it with --resume"):
        RunFolder.create(tmp_path)
    assert [entry.name for entry in tmp_path.iterdir()] == ["summary.json"]


def test_a_file_is_no_folder(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(RunFolderError, match=r"file.*is a file"):
        RunFolder.create(tmp_path / "file")
    with pytest.raises(RunFolderError, match="Cannot write the run folder"):
        RunFolder.create(tmp_path / "file" / "run")


def test_a_failure_leaves_no_folder_behind(tmp_path: Path) -> None:
    too_long = tmp_path / "a" / "b" / ("x" * 300)
    with pytest.raises(RunFolderError, match="x" * 300):
        RunFolder.create(too_long)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_an_unwritable_place_is_named(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(RunFolderError, match=r"run.*Permission denied"):
        RunFolder.create(tmp_path / "run")
    tmp_path.chmod(0o700)


def test_a_place_no_user_can_write_is_named() -> None:
    with pytest.raises(RunFolderError, match=r"'/proc/fedrec-run'.*choose another --out"):
        RunFolder.create(Path("/proc/fedrec-run"))


def test_default_names_take_the_next_free_number(tmp_path: Path) -> None:
    first = RunFolder.create_next("my experiment/../x", tmp_path)
    (tmp_path / "my-experiment-..-x-7").mkdir()
    second = RunFolder.create_next("my experiment/../x", tmp_path)
    assert [first.root.name, second.root.name] == ["my-experiment-..-x-1", "my-experiment-..-x-8"]
    assert RunFolder.create_next("..", tmp_path).root.name == "run-1"


def test_opening_names_what_is_missing(tmp_path: Path) -> None:
    with pytest.raises(RunFolderError, match="No run folder"):
        RunFolder.open(tmp_path / "nothing")
    with pytest.raises(RunFolderError, match=r"no experiment\.toml"):
        RunFolder.open(tmp_path)


def test_what_is_written_is_read(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    run.write_summary(
        {"a": np.float32(0.5), "n": np.int64(3), "list": np.arange(2), "nan": float("nan"), "t": (1, None)}
    )
    assert run.read_summary() == {"a": 0.5, "n": 3, "list": [0, 1], "nan": None, "t": [1, None]}
    run.write_bytes(names.MODEL, b"\x00\xff")
    assert run.read_bytes(names.MODEL) == b"\x00\xff"


def test_a_run_is_finished_once_its_checkpoint_is_gone(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    run.write_bytes(names.CHECKPOINT, b"state")
    run.write_summary({})
    assert not run.finished
    run.remove(names.CHECKPOINT)
    run.remove(names.CHECKPOINT)
    assert run.finished


def test_a_full_disk_keeps_the_old_file(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    run.write_summary({"old": 1})
    message = _on_a_full_disk(run, "summary")
    assert "summary.json': File too large; what it held is kept: free some space" in message
    assert "Traceback" not in message
    assert run.read_summary() == {"old": 1}
    assert [entry.name for entry in tmp_path.iterdir()] == ["summary.json"]


def test_a_full_disk_keeps_the_whole_lines(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    run.append_round({"round": 1})
    run.append_round({"round": 2})
    assert "rounds.jsonl" in _on_a_full_disk(run, "rounds")
    text = run.read_text(names.ROUNDS)
    assert text.endswith("}\n")
    assert [line["round"] for line in run.rounds()] == list(range(1, text.count("\n") + 1))
    assert len(run.rounds()) > 5


def test_an_interrupted_write_leaves_no_temporary_file(tmp_path: Path) -> None:
    replace_file(tmp_path / "x", b"old")
    with pytest.raises(RunFolderError, match=r"(?i)is a directory"):
        replace_file(tmp_path, b"new")
    assert [entry.name for entry in tmp_path.iterdir()] == ["x"]
    assert not (tmp_path.parent / f".{tmp_path.name}.tmp").exists()


@pytest.mark.parametrize("torn", ['{"round": 3, "se', '{"round": 3}'])
def test_a_torn_last_line_is_dropped(tmp_path: Path, torn: str) -> None:
    run = RunFolder(tmp_path)
    run.append_round({"round": 1})
    run.append_round({"round": 2})
    with run.path(names.ROUNDS).open("a") as file:
        file.write(torn)
    assert [line["round"] for line in run.rounds()] == [1, 2]
    run.append_round({"round": 3})
    assert [line["round"] for line in run.rounds()] == [1, 2, 3]


def test_rounds_beyond_the_checkpoint_are_cut(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    run.truncate_rounds(0)
    for number in (1, 2, 3):
        run.append_round({"round": number})
    with run.path(names.ROUNDS).open("a") as file:
        file.write("damaged\n")
    run.truncate_rounds(2)
    assert [line["round"] for line in run.rounds()] == [1, 2]
    with pytest.raises(RunFolderError, match="has 2 of the 3 rounds"):
        run.truncate_rounds(3)


def test_a_damaged_line_is_named(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    run.path(names.ROUNDS).write_text('{"round": 1}\n[]\n{"round": 3}\n')
    with pytest.raises(RunFolderError, match="line 2 is not a JSON object"):
        run.rounds()


@pytest.mark.parametrize("content", [b"{", b"[]", b"\xff", b"[" * 100_000])
def test_a_damaged_summary_is_named(tmp_path: Path, content: bytes) -> None:
    RunFolder(tmp_path).path(names.SUMMARY).write_bytes(content)
    with pytest.raises(RunFolderError, match=r"summary.json' is damaged"):
        RunFolder(tmp_path).read_summary()


def test_a_missing_summary_says_whether_to_resume(tmp_path: Path, write_run: Callable[..., RunFolder]) -> None:
    run = write_run(tmp_path)
    run.remove(names.SUMMARY)
    with pytest.raises(RunFolderError, match="repeat the run"):
        run.read_summary()
    run.write_bytes(names.CHECKPOINT, b"")
    with pytest.raises(RunFolderError, match="fedrec simulate --resume"):
        run.read_summary()


def test_the_summary_is_valid_json_for_strict_readers(tmp_path: Path) -> None:
    RunFolder(tmp_path).write_summary({"x": float("inf"), "title": "\ud800 é"})
    raw = RunFolder(tmp_path).path(names.SUMMARY).read_text()
    assert json.loads(raw, parse_constant=pytest.fail)["x"] is None
