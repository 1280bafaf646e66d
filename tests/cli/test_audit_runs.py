"""``fedrec audit canary`` and ``attack``: what they print and write, and how they end."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.audit.faults import FAULTS

Run = Callable[..., Any]


def test_canaries_are_told_in_words_and_in_json_and_written_beside_a_run(fedrec: Run, place: Path) -> None:
    done = fedrec("audit", "canary", "tiny.toml", "--canaries", "60", "--out", "audit", "--json")
    assert (done.code, done.err) == (0, "")
    printed = json.loads(done.out.splitlines()[-1])
    assert printed == json.loads((place / "audit" / "audit-canary.json").read_text())
    assert printed["canaries"] == 60
    white = printed["levels"]["user"]["white_box"]
    assert f"white-box   epsilon {white['epsilon']:.3f}  [{white['low']:.3f}, {white['high']:.3f}]" in done.out
    assert all(finding["detail"] in done.out for finding in printed["findings"])
    assert "consistent with what is declared" in done.out


@pytest.mark.usefixtures("place")
def test_an_attack_is_told_in_words_and_in_json(fedrec: Run) -> None:
    done = fedrec(
        "audit", "attack", "tiny.toml", "--view", "public", "--targets", "8", "--shadows", "2", "--runs", "1", "--json"
    )
    assert (done.code, done.err) == (0, "")
    printed = json.loads(done.out.splitlines()[-1])
    assert printed["view"] == "public"
    for name, one in printed["attacks"].items():
        (line,) = (line for line in done.out.splitlines() if line.startswith(f"  {name} "))
        assert f"{one['private']['advantage']:+.3f}" in line
        assert f"{one['without_privacy']['high']:+.3f}" in line


@pytest.mark.usefixtures("place")
def test_a_release_that_is_weaker_than_declared_ends_with_1(fedrec: Run) -> None:
    with FAULTS["half the noise"].plant():
        done = fedrec("audit", "canary", "tiny.toml", "--canaries", "20")
    assert done.code == 1
    assert "WEAKER than declared" in done.out


@pytest.mark.usefixtures("place")
@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (("canary", "tiny.toml", "--canaries", "1000"), "with --canaries"),
        (("canary", "tiny.toml", "--set", "privacy.epsilon=none"), "no privacy to audit"),
        (("canary", "nowhere.toml"), "No experiment file"),
        (("attack", "tiny.toml", "--view", "severs"), "Did you mean 'server'?"),
        (("attack", "tiny.toml", "--targets", "1000"), "with --targets"),
        (("attack", "tiny.toml", "--shadows", "0"), "2 shadow runs"),
        (("canary", "tiny.toml", "--canaries", "20", "--out", "tiny.toml"), "choose another --out"),
    ],
)
def test_bad_input_is_one_sentence(fedrec: Run, arguments: tuple[str, ...], why: str) -> None:
    done = fedrec("audit", *arguments)
    assert done.code == 2
    assert why in done.err
    assert done.err.startswith("fedrec: ")
    assert done.err.count("\n") == 1
