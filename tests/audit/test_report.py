"""The privacy report of real runs: the page shows the JSON and nothing else, and loads nothing."""

from __future__ import annotations

import copy
import json
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from fedrec.audit.empirical import RESULTS
from fedrec.audit.hazards import aggregation_status, hazards
from fedrec.audit.record import read_run
from fedrec.audit.report import JSON_NAME, PAGE_NAME, content, render, write
from fedrec.audit.words import shown
from fedrec.config import Experiment
from fedrec.engines import simulate
from fedrec.errors import BudgetExceededError, RunFolderError
from fedrec.reporting import figures
from fedrec.reporting import folder as names
from fedrec.reporting.folder import RunFolder
from tests.pages import Page

Tiny = Callable[..., Experiment]

HOSTILE = '<script>alert("x")</script><img src=https://evil.example/x.png>'


CANARIES = {
    "version": 1,
    "verdict": "consistent",
    "p_value": 0.25,
    "experiment": "0" * 64,
    "levels": {
        "user": {
            "epsilon": 2.5,
            "gaussian_epsilon": 2.4,
            "white_box": {"epsilon": 2.3, "low": 2.1, "high": 2.6},
            "black_box": {"epsilon": None, "low": None, "high": None},
            "one_run": {"epsilon": 1.1},
        }
    },
}
"""An audit's result, as far as the page shows it."""

ATTACKS = {
    "version": 1,
    "verdict": "weaker than declared",
    "view": "colluder",
    "sees": "everything",
    "attacks": {
        "interaction": {
            "private": {"advantage": 0.1, "low": 0.01, "high": 0.2},
            "without_privacy": {"advantage": 0.9, "low": 0.8, "high": 0.95},
            "bound": None,
        }
    },
}
"""The same for attacks."""


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, tiny: Tiny) -> Path:
    """A finished run with integer noise, a filter, and a title that is anyone's text."""
    path = tmp_path_factory.mktemp("runs") / "run"
    experiment = tiny("privacy.noise=skellam", "privacy.colluders=2", "data.k_core=2", "evaluation.baselines=true")
    simulate.start(experiment.model_copy(update={"name": HOSTILE}), lambda: RunFolder.create(path))
    return path


@pytest.fixture(scope="module")
def report(run: Path) -> dict[str, Any]:
    return content(run)


@pytest.fixture(scope="module")
def page(report: dict[str, Any]) -> Page:
    return Page(render(report))


def test_both_files_are_written_and_hold_the_same(run: Path, report: dict[str, Any], tmp_path: Path) -> None:
    found, place = write(run, tmp_path / "new" / "folder")
    assert place == tmp_path / "new" / "folder" / PAGE_NAME
    assert json.loads((place.parent / JSON_NAME).read_text()) == found == report
    assert place.read_text() == render(report)
    assert not (run / JSON_NAME).exists()
    assert write(run)[1] == run / PAGE_NAME


def test_the_schema_is_the_documented_one(report: dict[str, Any]) -> None:
    assert report["version"] == 1
    fields = {
        "version": None,
        "fedrec": None,
        "run": {"experiment", "id", "model", "engine", "rounds", "dataset", "finished"},
        "setting": None,
        "promise": {
            *("private", "unit", "adjacency", "adjacency_means", "trust", "delta", "budget", "epsilon", "guarantee"),
            *("headline", "plain_words", "warning"),
        },
        "observers": None,
        "coalitions": None,
        "mechanism": {"name", "noise_source", "releases"},
        "composition": {"method", "accountant", "second", "reckoning", "versions"},
        "trust": {"model", "means", "aggregation"},
        "unprotected": None,
        "data": {"filters", "settings", "split"},
        "tuning": {"accounted", "text"},
        "utility": {"text", "test"},
        "empirical": {"canary", "attack"},
        "hazards": None,
        "ledger": {"lines", "head", "root", "checkpoint"},
        "verification": {"sound", "checks"},
        "nist": None,
        "registry": {"deployment", "administrative", "to_fill"},
    }
    assert set(report) == set(fields)
    for name, inner in fields.items():
        assert inner is None or set(report[name]) == inner


def test_the_record_of_a_run_is_sound(report: dict[str, Any]) -> None:
    assert report["verification"]["sound"], report["verification"]["checks"]
    assert len(report["verification"]["checks"]) > 3


def test_every_figure_of_the_page_is_one_of_the_json(report: dict[str, Any], page: Page) -> None:
    promise = report["promise"]
    for unit in ("user", "interaction"):
        assert f"Epsilon, {unit} {shown(promise['epsilon'][unit])} " in page.flat
    assert f"Delta {figures.short(promise['delta'])} " in page.flat
    for view in report["observers"]:
        told = [shown(view["epsilon"][unit]) if view["epsilon"] else figures.DASH for unit in ("user", "interaction")]
        assert f"{view['observer']} {told[0]} {told[1]} {view['sees']}; {view['why']}" in page.flat
    for one in report["coalitions"]:
        assert f"%) {shown(one['epsilon']['user'])} {shown(one['epsilon']['interaction'])}" in page.flat
    second, reckoning = report["composition"]["second"], report["composition"]["reckoning"]
    assert f"{second['accountant']}, an independent check {shown(second['epsilon'])}" in page.flat
    for name in ("gaussian_pld", "gaussian_rdp", "skellam_rdp"):
        assert f" {shown(reckoning[name])} " in page.flat
    for one in report["mechanism"]["releases"]:
        cells = (one["round"], one["attempt"], one["release"], figures.number(one["coordinates"]))
        assert " ".join(str(cell) for cell in cells) in page.flat
        assert f"{one['noise_multiplier']:.4g}" in page.flat
    for key in ("head", "root"):
        assert report["ledger"][key] in page.text
    assert report["ledger"]["checkpoint"]["signature"] in page.text
    for check in report["verification"]["checks"]:
        assert check["name"] in page.text
    for text in (*report["unprotected"], *report["data"]["filters"], *(one["text"] for one in report["hazards"])):
        assert re.sub(r"\s+", " ", text) in page.flat


def test_a_changed_figure_changes_the_page(report: dict[str, Any]) -> None:
    other = copy.deepcopy(report)
    other["promise"]["epsilon"]["user"] = 77.125
    other["observers"][2]["epsilon"]["user"] = 66.25
    page = Page(render(other))
    assert "Epsilon, user 77.125 " in page.flat
    assert "another client 66.25 " in page.flat


def test_the_page_is_self_contained(report: dict[str, Any], page: Page) -> None:
    html = render(report)
    assert page.open == []
    assert not {"script", "link", "img", "iframe", "object", "embed", "base", "form"} & {tag for tag, _ in page.tags}
    for _, attributes in page.tags:
        assert not {"src", "href", "srcset", "action", "xlink:href", "onload", "style"} & set(attributes)
    style = re.search(r"<style>(.*?)</style>", html, re.S)
    assert style is not None
    assert not re.search(r"url\(|@import|https?:", style.group(1))
    assert "default-src 'none'" in html


def test_titles_cannot_become_markup(report: dict[str, Any]) -> None:
    hostile = json.loads(
        json.dumps(report),
        object_hook=lambda of: {
            key: HOSTILE if type(value) is str and key != "unit" else value for key, value in of.items()
        },
    )
    hostile["empirical"] = {"canary": {**CANARIES, "verdict": HOSTILE}, "attack": {**ATTACKS, "sees": HOSTILE}}
    for found in (report, hostile):
        html = render(found)
        assert "<script" not in html
        assert "<img" not in html
        assert HOSTILE in Page(html).text


def test_audits_are_shown_where_they_were_run(run: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(run, tmp_path / "copy"))
    before = Page(render(content(folder))).flat
    for name in RESULTS:
        assert f"Not run. In the run folder: fedrec audit {name} experiment.toml --out ." in before
    (folder / RESULTS["canary"]).write_text(json.dumps(CANARIES))
    (folder / RESULTS["attack"]).write_text(json.dumps(ATTACKS))
    found = content(folder)
    assert found["empirical"] == {"canary": CANARIES, "attack": ATTACKS}
    after = Page(render(found)).flat
    assert "Consistent (smallest p-value of all tests, after Holm: 0.25)" in after
    assert "user 2.500 2.400 2.300 (2.100 to 2.600) none (none to none) 1.100" in after
    assert after.count("An audit objects. What it measured is weaker than declared") == 1
    assert "From the view of: colluder, which sees everything" in after
    assert "interaction 0.100 (0.010 to 0.200) 0.900 (0.800 to 0.950) none" in after
    (folder / RESULTS["canary"]).write_text(json.dumps({**CANARIES, "p_value": "low"}))
    with pytest.raises(RunFolderError, match=r"audit-canary\.json' is damaged: 'p_value'"):
        render(content(folder))
    (folder / RESULTS["canary"]).write_text("[]")
    with pytest.raises(RunFolderError, match=r"audit-canary\.json' is damaged"):
        content(folder)


def test_filters_are_data_dependencies(report: dict[str, Any]) -> None:
    assert any("core" in text for text in report["data"]["filters"])
    assert report["data"]["settings"]["k_core"] == 2


def test_hazards_follow_the_run(run: Path, report: dict[str, Any], tmp_path: Path, tiny: Tiny) -> None:
    status = {hazard["name"]: hazard["status"] for hazard in report["hazards"]}
    assert status["Floating-point noise"] == "met"
    assert status["Seeded noise"] == "open"
    assert status["Single vectors in the server's sight"] == "open"
    masked = replace(read_run(run), aggregation="secure aggregation: 80 participants")
    assert aggregation_status(masked) == "real"
    assert {one.name: one.status for one in hazards(masked)}["Single vectors in the server's sight"] == "met"
    simulate.start(
        tiny("privacy.trust=central", "privacy.noise_multiplier=6"), lambda: RunFolder.create(tmp_path / "central")
    )
    other = {hazard["name"]: hazard["status"] for hazard in content(tmp_path / "central")["hazards"]}
    assert other["Floating-point noise"] == "open"
    assert other["A trusted server"] == "assumed"
    assert "Others' noise" not in other


def test_the_registry_draft_leaves_open_only_what_the_deployer_knows(report: dict[str, Any]) -> None:
    def empty(of: dict[str, Any], prefix: str) -> set[str]:
        inner = {key: value for key, value in of.items() if isinstance(value, dict)}
        here = {f"{prefix}{key}" for key, value in of.items() if value is None or value == ""}
        return here.union(*(empty(value, f"{prefix}{key}.") for key, value in inner.items()))

    draft = report["registry"]
    assert empty(draft, "") == set(draft["to_fill"])
    assert draft["deployment"]["privacy_loss"]["privacy_parameters"]["epsilon"] == report["promise"]["epsilon"]["user"]
    assert set(draft["deployment"]) == {"basic", "dp_variant", "privacy_loss", "deployment_model", "implementation"}


def test_the_pyramid_is_named_from_top_to_bottom(report: dict[str, Any]) -> None:
    assert [line["component"] for line in report["nist"]] == [
        "Privacy parameters", "Unit of privacy", "Algorithms and correctness", "Utility", "Bias", "Access control",
        "Trust model", "Side channels", "Data collection exposure",
    ]  # fmt: skip
    assert all(line["statement"] and line["fields"] for line in report["nist"])


def test_a_record_at_fault_is_said_first(run: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(run, tmp_path / "copy"))
    summary = json.loads((folder / names.SUMMARY).read_text())
    summary["privacy"]["epsilon"] = 0.5
    (folder / names.SUMMARY).write_text(json.dumps(summary))
    found = content(folder)
    assert not found["verification"]["sound"]
    assert "The record is at fault." in Page(render(found)).flat


def test_a_run_that_is_not_finished_is_reported_too(tmp_path: Path, tiny: Tiny) -> None:
    path = tmp_path / "unfinished"
    with pytest.raises(BudgetExceededError):
        simulate.start(tiny("privacy.epsilon=2", "privacy.noise=skellam"), lambda: RunFolder.create(path))
    found = content(path)
    assert not found["run"]["finished"]
    assert found["ledger"]["checkpoint"] is None
    assert "not finished: what was spent so far" in Page(render(found)).flat


def test_a_run_without_privacy_has_a_page_that_says_so(tmp_path: Path, tiny: Tiny) -> None:
    simulate.start(tiny("privacy.epsilon=none"), lambda: RunFolder.create(tmp_path / "open"))
    found = content(tmp_path / "open")
    assert found["promise"]["epsilon"] == {}
    assert found["hazards"] == []
    page = Page(render(found))
    assert "This run has no privacy guarantee." in page.flat
    assert page.open == []


def test_a_folder_that_cannot_be_made_is_refused(run: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(RunFolderError, match="choose another --out"):
        write(run, tmp_path / "file" / "out")
