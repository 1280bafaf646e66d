"""Explanations: figures are recomputed from the ledger of a real run, and a summary that differs is caught."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import cast

import pytest

from fedrec.audit.explain import as_json, explain
from fedrec.audit.record import read_run
from fedrec.audit.views import UNITS
from fedrec.audit.words import explanation_lines
from fedrec.config import Experiment
from fedrec.engines import simulate
from fedrec.errors import BudgetExceededError, LedgerError, RunFolderError
from fedrec.privacy.accounting import report_epsilon
from fedrec.privacy.events import SkellamEvent, from_fields
from fedrec.privacy.ledger import Ledger, Outcome
from fedrec.reporting import folder as names
from fedrec.reporting.folder import RunFolder

Tiny = Callable[..., Experiment]

_QUIET = ("federation.min_cohort=70", "privacy.colluders=2", "privacy.noise_multiplier=6")


def run_of(experiment: Experiment, path: Path) -> Path:
    simulate.start(experiment, lambda: RunFolder.create(path))
    return path


@pytest.fixture(scope="module")
def integers(tmp_path_factory: pytest.TempPathFactory, tiny: Tiny) -> Path:
    """A finished run with Skellam noise, sized for fewer users than take part, two of whom collude."""
    return run_of(tiny("privacy.noise=skellam", *_QUIET), tmp_path_factory.mktemp("runs") / "integers")


@pytest.fixture(scope="module")
def floats(tmp_path_factory: pytest.TempPathFactory, tiny: Tiny) -> Path:
    """The same with Gaussian noise."""
    return run_of(tiny("privacy.noise=gaussian", *_QUIET), tmp_path_factory.mktemp("runs") / "floats")


@pytest.fixture(scope="module")
def unfinished(tmp_path_factory: pytest.TempPathFactory, tiny: Tiny) -> Path:
    """A run whose second round the budget refused."""
    path = tmp_path_factory.mktemp("runs") / "unfinished"
    with pytest.raises(BudgetExceededError):
        run_of(tiny("privacy.epsilon=2", "privacy.noise=skellam"), path)
    return path


@pytest.fixture
def copied(integers: Path, tmp_path: Path) -> Path:
    """A run folder that a test may damage."""
    return Path(shutil.copytree(integers, tmp_path / "copy"))


@pytest.mark.parametrize("noise", ["integers", "floats"])
def test_the_ledger_of_a_run_agrees_with_its_summary(noise: str, request: pytest.FixtureRequest) -> None:
    path: Path = request.getfixturevalue(noise)
    told = explain(read_run(path))
    summary = json.loads((path / names.SUMMARY).read_text())
    assert told.faults == ()
    assert told.finished
    assert told.epsilon["user"] == pytest.approx(summary["privacy"]["epsilon"], rel=1e-9)
    # Recomputed here from the lines alone.
    lines = [json.loads(line) for line in (path / names.LEDGER).read_text().splitlines()]
    for unit in UNITS:
        events = [from_fields(line["events"][unit]) for line in lines if line["type"] == "reserve"]
        assert told.epsilon[unit] == report_epsilon(events, 1e-5)
    assert told.second is not None
    assert told.second[1] == pytest.approx(told.epsilon["user"], abs=0.015)


def test_the_same_noise_is_reckoned_in_three_ways(integers: Path, floats: Path) -> None:
    one, other = explain(read_run(integers)).reckoning, explain(read_run(floats)).reckoning
    assert one is not None
    assert other is not None
    assert (one.declared, other.declared) == ("skellam", "gaussian")
    # What a run says of the noise that it did not add is what the other run declares.
    assert other.skellam_rdp == pytest.approx(one.skellam_rdp, rel=1e-9)
    assert one.gaussian_pld == pytest.approx(other.gaussian_pld, rel=1e-9)
    assert one.gaussian_rdp == pytest.approx(other.gaussian_rdp, rel=1e-9)
    assert (one.gaussian_pld or 0) < (one.gaussian_rdp or 0) < (one.skellam_rdp or 0) < 1.02 * (one.gaussian_rdp or 0)


def test_every_observer_has_a_figure_at_both_units(integers: Path) -> None:
    told = explain(read_run(integers))
    by_name = {view.observer: view.epsilon for view in told.views}
    assert list(by_name) == [
        "the server", "the server with 2 clients", "another client", "the public", "the device itself"
    ]  # fmt: skip
    assert by_name["the server with 2 clients"] == told.epsilon
    assert [one.colluders for one in told.coalitions] == [0, 1, 2, 7, 35]


def test_the_text_says_it_in_plain_words(integers: Path) -> None:
    told = explain(read_run(integers))
    text = "\n".join(explanation_lines(told))
    for part in (
        told.statement.headline,
        "times as likely",
        "Simulation: no guarantee.",
        "another client sees every shared model that it receives, and its own share of the noise",
        "if on integers (Skellam), under the same conversion",
        "3 charges; Rényi divergences",
        "Single vectors: simulated: every client is in this process",
        "- participation: who was asked and how many answered is public",
    ):
        assert part in text
    assert "at fault" not in text


def test_the_json_holds_the_same(integers: Path) -> None:
    told = explain(read_run(integers))
    found = json.loads(json.dumps(as_json(told), allow_nan=False))
    assert found["epsilon"] == dict(told.epsilon)
    assert [one["epsilon"] for one in found["observers"]] == [dict(view.epsilon) for view in told.views]
    assert [one["outcome"] for one in found["releases"]] == ["commit"] * 3
    event = from_fields(found["releases"][0]["events"]["user"])
    assert isinstance(event, SkellamEvent)
    assert event == told.run.attempts[0].events["user"]


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("epsilon", 1.5),
        ("epsilon", None),
        ("levels", {"interaction": 1.5}),
        ("delta", 1e-6),
        ("unit", "interaction"),
        ("target_epsilon", 3.0),
    ],
)
def test_a_summary_that_says_something_else_is_caught(copied: Path, key: str, value: object) -> None:
    summary = json.loads((copied / names.SUMMARY).read_text())
    summary["privacy"][key] = value
    (copied / names.SUMMARY).write_text(json.dumps(summary))
    told = explain(read_run(copied))
    assert len(told.faults) == 1
    named = f"levels.interaction = {value['interaction']}" if isinstance(value, dict) else f"{key} = {value}"
    assert told.faults[0].startswith(f"summary.json says privacy.{named}, but the ledger gives ")
    assert told.faults[0] in "\n".join(explanation_lines(told))


def test_an_edited_ledger_is_refused_with_its_line(copied: Path) -> None:
    lines = (copied / names.LEDGER).read_bytes().splitlines(keepends=True)
    lines[1] = lines[1].replace(b'"cohort":80', b'"cohort":90')
    (copied / names.LEDGER).write_bytes(b"".join(lines))
    with pytest.raises(LedgerError, match="line 3"):
        read_run(copied)


def test_failed_attempts_stay_charged_and_released_ones_do_not(copied: Path) -> None:
    path = copied / names.LEDGER
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    opening = {key: value for key, value in lines[0].items() if key not in ("type", "version", "prev")}
    declared = {
        key: value for key, value in lines[1].items() if key not in ("type", "round", "attempt", "prev", "events")
    }
    events = {unit: from_fields(fields) for unit, fields in lines[1]["events"].items()}
    ledger = Ledger(path, opening)
    for attempt, outcome in ((0, "abort"), (1, "release"), (2, None)):
        ledger.reserve(4, attempt, declared, events)
        if outcome is not None:
            ledger.close(4, attempt, cast("Outcome", outcome))
    told = explain(read_run(copied))
    assert [attempt.outcome for attempt in told.run.attempts] == ["commit"] * 3 + ["abort", "open"]
    assert told.epsilon["user"] == ledger.epsilon()
    assert "5 charges, 2 of them for attempts that released nothing" in told.composition
    assert any("privacy.epsilon" in fault for fault in told.faults)


def test_a_run_that_is_not_finished_tells_what_it_spent_so_far(unfinished: Path) -> None:
    told = explain(read_run(unfinished))
    assert not told.finished
    assert told.faults == ()
    assert [attempt.outcome for attempt in told.run.attempts] == ["commit"]
    assert 0 < (told.epsilon["user"] or 0) <= 2
    text = "\n".join(explanation_lines(told))
    assert "(not finished: what was spent so far)" in text
    assert "Epsilon of all 1 charge at delta 1e-5" in text


def test_a_run_without_privacy_promises_nothing(tmp_path: Path, tiny: Tiny) -> None:
    told = explain(read_run(run_of(tiny("privacy.epsilon=none"), tmp_path / "open")))
    assert told.faults == ()
    assert told.epsilon == {}
    assert told.views == ()
    assert told.statement.headline == "This run has no privacy guarantee."
    assert as_json(told)["guarantee"] == "none: the run was without privacy"


@pytest.mark.parametrize("trust", ["local", "central"])
def test_other_models_of_trust(tmp_path: Path, tiny: Tiny, trust: str) -> None:
    told = explain(read_run(run_of(tiny(f"privacy.trust={trust}", "privacy.noise_multiplier=6"), tmp_path / trust)))
    assert told.faults == ()
    assert told.coalitions == ()
    server = told.views[0].epsilon
    assert server == (told.epsilon if trust == "local" else {"user": None, "interaction": None})
    assert told.reckoning is not None
    assert (told.reckoning.skellam_rdp is None) == (trust == "central")


def test_an_interaction_counts_by_its_own_bound(tmp_path: Path, tiny: Tiny) -> None:
    experiment = tiny("model.user_vector=public", "privacy.unit=interaction", "privacy.noise=skellam")
    told = explain(read_run(run_of(experiment, tmp_path / "run")))
    assert told.faults == ()
    assert told.run.opening.unit == "interaction"
    assert (told.epsilon["interaction"] or 0) < (told.epsilon["user"] or 0)
    assert told.reckoning is not None
    assert (told.reckoning.gaussian_rdp or 0) <= (told.reckoning.skellam_rdp or 0)


def test_what_is_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RunFolderError, match="No run folder"):
        read_run(tmp_path / "nowhere")
    with pytest.raises(RunFolderError, match="is not a run folder"):
        read_run(tmp_path)
