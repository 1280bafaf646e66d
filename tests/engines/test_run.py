"""A run in process: what it leaves behind, what it promises, and what it refuses."""

from __future__ import annotations

import json
import tomllib
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from fedrec.config import Experiment, parse
from fedrec.engines import simulate
from fedrec.engines.setting import prepare
from fedrec.errors import BudgetExceededError, ConfigError, LedgerError, PrivacyWarning, RunFolderError
from fedrec.privacy.accounting import gaussian_epsilon
from fedrec.privacy.proofs import verify_chain, verify_checkpoint
from fedrec.reporting.folder import RunFolder

Tiny = Callable[..., Experiment]

FILES = {
    "experiment.toml",
    "summary.json",
    "rounds.jsonl",
    "ledger.jsonl",
    "ledger.checkpoint",
    "model.safetensors",
    "report.html",
}


def run(experiment: Experiment, folder: Path) -> dict[str, Any]:
    return simulate.start(experiment, partial(RunFolder.create, folder))


def lines(folder: Path) -> list[bytes]:
    return (folder / "ledger.jsonl").read_bytes().splitlines()


def rounds(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "rounds.jsonl").read_text().splitlines()]


def untimed(folder: Path) -> list[dict[str, Any]]:
    return [{key: value for key, value in line.items() if key != "seconds"} for line in rounds(folder)]


@pytest.fixture(scope="module")
def private(tiny: Tiny, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished private run with everything on, its noise calibrated to epsilon 1."""
    folder = tmp_path_factory.mktemp("private") / "run"
    calibrated = ("privacy.epsilon=1.0", "privacy.noise_multiplier=none")
    run(tiny("evaluation.sampled=99", "evaluation.baselines=true", *calibrated), folder)
    return folder


@pytest.fixture(scope="module")
def summary(private: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((private / "summary.json").read_text())
    return content


def test_a_finished_run_leaves_exactly_the_promised_files(private: Path) -> None:
    assert {path.name for path in private.iterdir()} == FILES


def test_the_summary_has_the_promised_keys(summary: dict[str, Any]) -> None:
    assert summary["dataset"] == {"name": "synthetic", "users": 80, "items": 60, "interactions": 1588}
    assert (summary["model"], summary["engine"], summary["rounds"], summary["seed"]) == ("mf", "fleet", 3, 1)
    privacy = {"unit", "adjacency", "trust", "epsilon", "delta", "noise_multiplier", "clip_norm", "accountant"}
    assert privacy <= set(summary["privacy"])
    for metrics in (summary["metrics"], *summary["baselines"].values()):
        for view in ("validation", "test"):
            assert {"hr@10", "ndcg@10"} <= set(metrics[view]["full"])
            assert {"hr@10", "ndcg@10"} <= set(metrics[view]["sampled99"])
    assert set(summary["baselines"]) == {"popularity", "non_private"}
    assert set(summary["communication"]) == {"up_bytes_per_client", "down_bytes_per_client", "total_bytes"}
    assert set(summary["time"]) == {"wall_s", "train_s", "clients_per_s"}
    assert summary["memory"]["peak_rss_mb"] > 0
    assert {"python", "fedrec", "numpy", "dp-accounting"} <= set(summary["versions"])


def test_bytes_are_counted_as_sent(summary: dict[str, Any]) -> None:
    up, model = 8 * (60 * 4 + 60), 4 * (60 * 4 + 60 + 60)  # float64 updates up; table, bias and item weights down
    sent = summary["communication"]
    assert sent["up_bytes_per_client"] == 3 * up
    assert sent["down_bytes_per_client"] == 3 * model + model
    assert sent["total_bytes"] == 80 * (3 * up + 4 * model)


def test_epsilon_stays_within_the_budget_and_uses_it(summary: dict[str, Any], private: Path) -> None:
    assert 1.0 - 0.01 <= summary["privacy"]["epsilon"] <= 1.0
    spent = [line["epsilon"] for line in rounds(private)]
    assert spent == sorted(spent)
    assert spent[-1] <= 1.0


def test_the_ledger_verifies_and_holds_a_charge_for_each_round(private: Path) -> None:
    events = verify_chain(lines(private))
    verify_checkpoint((private / "ledger.checkpoint").read_text(), lines(private))
    assert [event["type"] for event in events] == ["open", *["reserve", "commit"] * 3]
    assert (events[0]["epsilon"], events[0]["delta"], events[0]["unit"]) == ("1.0", "1e-05", "user")


def test_the_resolved_experiment_reproduces_the_run(private: Path, tmp_path: Path) -> None:
    text = (private / "experiment.toml").read_text()
    run(parse(text), tmp_path / "again")
    assert (tmp_path / "again" / "experiment.toml").read_text() == text
    for name in ("model.safetensors", "ledger.jsonl"):
        assert (tmp_path / "again" / name).read_bytes() == (private / name).read_bytes()
    assert untimed(tmp_path / "again") == untimed(private)


def test_another_seed_gives_another_model(tiny: Tiny, tmp_path: Path) -> None:
    for seed in (1, 2):
        run(tiny(f"seed={seed}"), tmp_path / str(seed))
    one, two = ((tmp_path / seed / "model.safetensors").read_bytes() for seed in ("1", "2"))
    assert one != two


def test_without_privacy_there_is_no_epsilon_and_the_report_says_so(tiny: Tiny, tmp_path: Path) -> None:
    summary = run(tiny("privacy.epsilon=none", "privacy.noise_multiplier=none"), tmp_path / "run")
    assert summary["privacy"]["epsilon"] is None
    assert summary["privacy"]["unprotected"] == ["everything: this run is without privacy"]
    assert [line["epsilon"] for line in rounds(tmp_path / "run")] == [None] * 3
    assert "without privacy" in (tmp_path / "run" / "report.html").read_text()
    assert [event["type"] for event in verify_chain(lines(tmp_path / "run"))] == ["open"]
    assert tomllib.loads((tmp_path / "run" / "experiment.toml").read_text())["privacy"]["epsilon"] == "none"


def test_a_delta_that_may_fail_for_a_whole_user_warns(tiny: Tiny) -> None:
    with pytest.warns(PrivacyWarning, match=r"privacy\.delta = 0\.0125 is not below 1/users"):
        prepare(tiny("privacy.delta=0.0125"))


def test_a_delta_below_one_over_users_or_a_run_without_privacy_does_not_warn(tiny: Tiny) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        prepare(tiny("privacy.delta=0.0124"))
        prepare(tiny("privacy.delta=0.5", "privacy.epsilon=none", "privacy.noise_multiplier=none"))


def test_a_budget_is_refused_before_the_round_that_would_exceed_it(tiny: Tiny, tmp_path: Path) -> None:
    budget = gaussian_epsilon((2.5 / 4.0) ** 0.5, 1e-5)  # noise 2 a round: enough for two and a half
    experiment = tiny(f"privacy.epsilon={budget}", "privacy.noise_multiplier=2.0")
    folder = tmp_path / "run"
    with pytest.raises(BudgetExceededError, match="Round 3 would bring epsilon to") as refused:
        run(experiment, folder)
    assert refused.value.exit_code == 3
    assert [line["round"] for line in rounds(folder)] == [1, 2]
    assert [event["type"] for event in verify_chain(lines(folder))] == ["open", *["reserve", "commit"] * 2]
    assert {path.name for path in folder.iterdir()} == {
        "experiment.toml",
        "rounds.jsonl",
        "ledger.jsonl",
        "checkpoint.safetensors",
    }


def test_a_refused_run_cannot_be_resumed_with_a_larger_budget(tiny: Tiny, tmp_path: Path) -> None:
    experiment = tiny("privacy.epsilon=1.0", "privacy.noise_multiplier=4.0")
    with pytest.raises(BudgetExceededError):
        run(experiment, tmp_path / "run")
    folder = RunFolder.open(tmp_path / "run")
    before = {path.name: path.read_bytes() for path in folder.root.iterdir()}
    with pytest.raises(BudgetExceededError):
        simulate.resume(experiment, folder)
    with pytest.raises(LedgerError, match="belongs to another experiment"):
        simulate.resume(experiment.replaced(privacy={"epsilon": 8.0}), folder)
    assert {path.name: path.read_bytes() for path in folder.root.iterdir()} == before


def test_a_finished_run_has_nothing_to_resume(private: Path) -> None:
    folder = RunFolder.open(private)
    with pytest.raises(RunFolderError, match="is finished; there is nothing to resume"):
        simulate.resume(parse(folder.read_text("experiment.toml")), folder)


def test_a_sampled_cohort_is_asked_afresh_in_every_round(tiny: Tiny, tmp_path: Path) -> None:
    experiment = tiny("federation.cohort=30")
    summary = run(experiment, tmp_path / "run")
    everyone = run(tiny(), tmp_path / "everyone")
    assert [(line["cohort"], line["survivors"]) for line in rounds(tmp_path / "run")] == [(30, 30)] * 3
    events = verify_chain(lines(tmp_path / "run"))
    assert [(e["cohort"], e["cohort_choice"]) for e in events if e["type"] == "reserve"] == [
        (30, "uniform without replacement")
    ] * 3
    assert summary["privacy"]["epsilon"] == everyone["privacy"]["epsilon"]  # no amplification is claimed
    federation = prepare(experiment).federation
    cohorts = {tuple(federation.plan(round_).cohort.users) for round_ in (1, 2, 3)}
    assert len(cohorts) == 3


@pytest.mark.parametrize("override", ["federation.cohort=81", "federation.min_cohort=81"])
def test_a_cohort_larger_than_the_population_leaves_no_folder(tiny: Tiny, tmp_path: Path, override: str) -> None:
    with pytest.raises(ConfigError, match=r"federation\.(min_)?cohort = 81 is larger than"):
        run(tiny(override), tmp_path / "run")
    assert not (tmp_path / "run").exists()
