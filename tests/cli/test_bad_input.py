"""Bad input: one clear sentence on stderr, exit code 2, and nothing is left behind."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

Fedrec = Callable[..., Any]


def tree(folder: Path) -> dict[str, bytes | None]:
    """Everything below a folder, with the files' contents."""
    return {str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None for path in folder.rglob("*")}


def refuses(fedrec: Fedrec, place: Path, *arguments: str | Path) -> str:
    """The sentence with which a command refuses."""
    before = tree(place)
    done = fedrec("simulate", *arguments)
    assert done.code == 2
    assert done.out == ""
    sentence: str = done.err.removesuffix("\n")
    assert sentence.startswith("fedrec: ")
    assert sentence.endswith((".", "?"))
    assert "\n" not in sentence
    assert "Traceback" not in sentence
    assert tree(place) == before
    return sentence


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("model=grm", "Did you mean 'gram'?"),
        ("model.name=grm", "Did you mean 'gram'?"),
        ("data=synthetik", "Did you mean 'synthetic'?"),
        ("privacy.epsilom=4", "unknown key 'privacy.epsilom'. Did you mean 'epsilon'?"),
        ("federation.round=3", "unknown key 'federation.round'. Did you mean 'rounds'?"),
        ("data.n_user=3", "unknown key 'data.n_user'. Did you mean 'n_users'?"),
        ("model.dimensions=3", "unknown key 'model.dimensions'. Did you mean 'dimension'?"),
        ("privaci.epsilon=4", "unknown key 'privaci'. Did you mean 'privacy'?"),
        ("privacy.epsilon=0", "privacy.epsilon: input should be greater than 0 (it is 0)."),
        ("privacy.epsilon=-2", "privacy.epsilon: input should be greater than 0 (it is -2)."),
        ("privacy.epsilon=much", "privacy.epsilon: input should be a valid number"),
        ("privacy.epsilon=nan", "privacy.epsilon: input should be"),
        ("privacy.delta=0", "privacy.delta: input should be greater than 0 (it is 0)."),
        ("privacy.delta=1", "privacy.delta: input should be less than 1 (it is 1)."),
        ("privacy.trust=nobody", "privacy.trust: input should be 'distributed', 'local' or 'central'"),
        ("federation.rounds=0", "federation.rounds: input should be greater than or equal to 1 (it is 0)."),
        ("federation.cohort=81", "federation.cohort = 81 is larger than the population of 80 users"),
        ("federation.min_cohort=81", "federation.min_cohort = 81 is larger than the cohort of 80 users"),
        ("evaluation.k=[]", "evaluation.k: "),
        ("seed=-1", "seed: input should be greater than or equal to 0 (it is -1)."),
        ("privacy", "--set privacy is not of the form key=value, such as privacy.epsilon=4."),
        ("privacy=4", "'privacy' is a section; set one of its keys, privacy.KEY=VALUE."),
        ("seed.a=4", "'seed' is not a section"),
    ],
)
def test_a_wrong_setting(fedrec: Fedrec, place: Path, override: str, says: str) -> None:
    assert says in refuses(fedrec, place, "tiny.toml", "--set", override, "--out", "run")


def test_an_unknown_engine(fedrec: Fedrec, place: Path) -> None:
    assert "Unknown engine 'flowers'. Did you mean 'flower'?" in refuses(fedrec, place, "--engine", "flowers")


def test_a_cohort_too_large_is_seen_before_flower_starts(fedrec: Fedrec, place: Path) -> None:
    pytest.importorskip("ray")
    arguments = ("tiny.toml", "--engine", "flower", "--set", "federation.cohort=81", "--out", "run")
    assert "is larger than the population" in refuses(fedrec, place, *arguments)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"[model\nname = 1", "broken.toml is not valid TOML: Expected ']'"),
        (b"seed = 1\nseed = 2\n", "broken.toml is not valid TOML: Cannot overwrite a value (at line 2"),
        (b"\xff\xfe", "Cannot read the experiment 'broken.toml': 'utf-8' codec can't decode"),
        (b"", "broken.toml: [data] needs a 'name', one of: "),
        (b"[data]\nname = 'synthetic'\n", "broken.toml: [model] needs a 'name', one of: "),
        (b"data = 4\n[model]\nname='gram'\n", "broken.toml: [data] needs a 'name', one of: "),
    ],
)
def test_a_broken_experiment_file(fedrec: Fedrec, place: Path, content: bytes, says: str) -> None:
    (place / "broken.toml").write_bytes(content)
    assert says in refuses(fedrec, place, "broken.toml")


def test_no_such_experiment(fedrec: Fedrec, place: Path) -> None:
    assert "no packaged experiment of that name. Did you mean 'default'?" in refuses(fedrec, place, "defualt")
    assert "No experiment file 'no/such.toml'" in refuses(fedrec, place, "no/such.toml")
    (place / "empty").mkdir()
    assert "No experiment file 'empty'" in refuses(fedrec, place, "empty")


TABLE = ("--set", 'data={name="table", path="events.csv", rating="rating", time="time"}', "--set", "model=popularity")
HEADER = "user_id,item_id,rating,time\n"


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("", ["events.csv", "empty"]),
        (HEADER, ["events.csv"]),
        (HEADER + "1,1,4,10\n", ["'events'", "no user has three interactions"]),
        (HEADER + "1,1,4,10\n1,2,good,20\n", ["events.csv", "line 3", "rating", "good"]),
        (HEADER + "1,1,4,10\n1,2,4,yesterday\n", ["events.csv", "line 3", "time", "yesterday"]),
        (HEADER + "1,1,4,10\n1,2\n", ["events.csv", "line 3"]),
        ("user,item,rating,time\n1,1,4,10\n", ["events.csv", "user_id"]),
    ],
)
def test_a_broken_data_file(fedrec: Fedrec, place: Path, content: str, says: Sequence[str]) -> None:
    (place / "events.csv").write_text(content)
    sentence = refuses(fedrec, place, "tiny.toml", *TABLE, "--out", "run")
    for part in says:
        assert part in sentence


def test_a_missing_data_file(fedrec: Fedrec, place: Path) -> None:
    assert "events.csv" in refuses(fedrec, place, "tiny.toml", *TABLE, "--out", "run")


def test_a_user_with_one_interaction_takes_part(fedrec: Fedrec, place: Path) -> None:
    lines = [f"{user},{item},5,{user + item}" for user in range(6) for item in range(user, user + 6)]
    (place / "events.csv").write_text(HEADER + "\n".join([*lines, "lonely,3,5,3"]) + "\n")
    done = fedrec("simulate", "tiny.toml", *TABLE, "--out", "run")
    assert done.code == 0, done.err
    assert '"users": 7' in (place / "run" / "summary.json").read_text()


def test_a_file_in_the_way_of_the_run_folder(fedrec: Fedrec, place: Path) -> None:
    (place / "taken").write_text("mine")
    assert "'taken' is a file, not a folder: choose another --out." in refuses(
        fedrec, place, "tiny.toml", "--out", "taken"
    )
    assert "Cannot write the run folder 'taken/run'" in refuses(fedrec, place, "tiny.toml", "--out", "taken/run")


@pytest.mark.skipif(sys.platform != "linux", reason="needs a place where not even root can write")
def test_a_place_where_nobody_can_write(fedrec: Fedrec, place: Path) -> None:
    assert "Cannot write the run folder '/proc/run/here'" in refuses(
        fedrec, place, "tiny.toml", "--out", "/proc/run/here"
    )


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_without_permission(fedrec: Fedrec, place: Path) -> None:
    closed = place / "closed"
    closed.mkdir(mode=0o500)
    assert "Permission denied; choose another --out" in refuses(fedrec, place, "tiny.toml", "--out", "closed/run")
    assert "Permission denied; choose another --out" in refuses(fedrec, place, "tiny.toml", "--out", "closed")


def test_an_existing_run_is_never_overwritten(fedrec: Fedrec, place: Path) -> None:
    (place / "run").mkdir()
    (place / "run" / "experiment.toml").write_text("old")
    sentence = refuses(fedrec, place, "tiny.toml", "--out", "run")
    assert "exists already and is not empty: choose another --out or continue it with --resume run." in sentence


@pytest.mark.parametrize(
    "more", [("--set", "seed=2"), ("--out", "other"), ("tiny.toml",)], ids=["--set", "--out", "EXPERIMENT"]
)
def test_resume_takes_the_run_as_it_was(fedrec: Fedrec, place: Path, more: Sequence[str]) -> None:
    assert "--resume continues a run as it was" in refuses(fedrec, place, *more, "--resume", "run")


def test_resume_of_what_is_no_run(fedrec: Fedrec, place: Path) -> None:
    assert "No run folder 'run'" in refuses(fedrec, place, "--resume", "run")
    assert "No run folder 'tiny.toml'" in refuses(fedrec, place, "--resume", "tiny.toml")
    (place / "run").mkdir()
    assert "it has no experiment.toml" in refuses(fedrec, place, "--resume", "run")


def test_no_network_and_no_cache(fedrec: Fedrec, place: Path, monkeypatch: pytest.MonkeyPatch, home: Path) -> None:
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")  # the discard port: refused at once
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.delenv("PIP_FIND_LINKS", raising=False)
    sentence = refuses(fedrec, place, "default", "--out", "run")
    assert "Cannot fetch ml-100k." in sentence
    assert "Connect to a network once, or put u.data and u.item into a folder" in sentence
    assert [path for path in home.rglob("*") if path.is_file()] == []


def test_wrong_usage_exits_with_2(fedrec: Fedrec) -> None:
    for arguments in (("simulate", "--nope"), ("nope",), ("simulate", "a", "b")):
        done = fedrec(*arguments)
        assert done.code == 2
        assert "Traceback" not in done.err


def test_debug_shows_the_traceback(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from fedrec.cli.main import main
    from fedrec.errors import UnknownNameError

    monkeypatch.setattr(sys, "argv", ["fedrec", "simulate", "tiny.toml", "--set", "model=grm", "--debug"])
    with pytest.raises(UnknownNameError, match="grm"):
        main()
    assert [path.name for path in place.iterdir()] == ["tiny.toml"]
