"""`fedrec privacy plan`, `fedrec privacy explain` and `fedrec audit report`: output, exit codes, refusals."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Fedrec = Callable[..., Any]


def test_a_plan_is_printed(fedrec: Fedrec) -> None:
    done = fedrec("privacy", "plan", "--users", "200", "--rounds", "2", "--epsilon", "4")
    assert done.code == 0, done.err
    assert done.out.startswith("Plan: 200 users asked in each of 2 rounds; unit user, trust distributed, delta 1e-5\n")
    assert "this plan" in done.out
    assert "secure aggregation: 200 participants with k = " in done.out


def test_a_plan_as_json_is_one_object(fedrec: Fedrec) -> None:
    options = ("--users", "200", "--noise-multiplier", "3", "--unit", "interaction", "--interaction-clip", "0.2")
    done = fedrec("privacy", "plan", *options, "--json")
    assert done.code == 0, done.err
    found = json.loads(done.out)
    assert found["question"]["interaction"] == 0.2
    assert found["noises"][0]["noise_multiplier"] == 3
    assert found["noises"][0]["epsilon"]["interaction"] < found["noises"][0]["epsilon"]["user"]


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (
            ["--users", "100"],
            "Give --epsilon to plan its noise, or --noise-multiplier to learn its epsilon, one of them.",
        ),
        (["--users", "0", "--epsilon", "1"], "--users must be from 2 to 1e9, not 0."),
        (["--users", "100", "--epsilon", "1", "--unit", "usr"], "--unit cannot be 'usr'. Did you mean 'user'?"),
        (["--users", "3", "--epsilon", "1"], "or --trust local."),
    ],
)
def test_a_plan_that_cannot_be_is_refused_in_one_sentence(fedrec: Fedrec, options: list[str], says: str) -> None:
    done = fedrec("privacy", "plan", *options)
    assert (done.code, done.out) == (2, "")
    assert done.err.startswith("fedrec: ")
    assert done.err.endswith(f"{says}\n")
    assert done.err.count("\n") == 1


def test_a_run_is_explained_and_reported(fedrec: Fedrec, place: Path) -> None:
    assert fedrec("simulate", "tiny.toml", "--set", "privacy.noise=skellam", "--out", "run").code == 0
    told = fedrec("privacy", "explain", "run")
    assert told.code == 0, told.err
    assert "times as likely" in told.out
    as_json = json.loads(fedrec("privacy", "explain", "run", "--json").out)
    assert as_json["faults"] == []
    done = fedrec("audit", "report", "run")
    assert done.code == 0, done.err
    assert "run/privacy-report.html" in done.out
    found = json.loads((place / "run" / "privacy-report.json").read_text())
    assert found["promise"]["epsilon"] == as_json["epsilon"]
    printed = fedrec("audit", "report", "run", "--out", "elsewhere", "--json")
    assert json.loads(printed.out.splitlines()[-1]) == json.loads(
        (place / "elsewhere" / "privacy-report.json").read_text()
    )


def test_a_summary_that_was_edited_exits_with_1(fedrec: Fedrec, place: Path) -> None:
    assert fedrec("simulate", "tiny.toml", "--set", "privacy.noise=skellam", "--out", "run").code == 0
    path = place / "run" / "summary.json"
    summary = json.loads(path.read_text())
    summary["privacy"]["epsilon"] = 1.0
    path.write_text(json.dumps(summary))
    told = fedrec("privacy", "explain", "run")
    assert told.code == 1
    assert "summary.json says privacy.epsilon = 1.0, but the ledger gives" in told.out
    done = fedrec("audit", "report", "run")
    assert done.code == 1
    assert (place / "run" / "privacy-report.html").is_file()


@pytest.mark.parametrize("verb", [("privacy", "explain"), ("audit", "report")])
def test_what_is_no_run_is_refused_in_one_sentence(fedrec: Fedrec, place: Path, verb: tuple[str, str]) -> None:
    for folder, says in (("nowhere", "No run folder 'nowhere'"), (place, "is not a run folder")):
        done = fedrec(*verb, folder)
        assert (done.code, done.out) == (2, "")
        assert says in done.err
        assert done.err.count("\n") == 1
