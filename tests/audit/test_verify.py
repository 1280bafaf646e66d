"""`fedrec audit verify`: a real run is sound, and whatever is changed in its folder is found and named."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given, settings
from hypothesis import strategies as st

from fedrec.audit import checks
from fedrec.audit.verify import verify
from fedrec.config import parse
from fedrec.engines import simulate
from fedrec.engines.base import Collected
from fedrec.engines.setting import Setting
from fedrec.errors import BudgetExceededError, RunFolderError
from fedrec.federation.round import Plan
from fedrec.models.base import Shared
from fedrec.privacy.events import Event, GaussianEvent, SkellamEvent
from fedrec.privacy.proofs import sign_checkpoint
from tests.audit.folders import SETTINGS, Tiny, faults, forge, published, records, run_of

# Sound


def test_a_run_is_sound_and_a_simulation_is_called_one(run: Path) -> None:
    verdict = verify(run)
    assert verdict.sound
    names = "files, chain, checkpoint, opening, attempts, mechanism, survivors, budget, epsilon, second accountant"
    assert ", ".join(check.name for check in verdict.checks) == f"{names}, summary, rounds, model, guarantee"
    assert verdict.checks[-1].detail == "simulation: the record is sound, the noise guarantees nothing"


@pytest.mark.parametrize(
    ("overrides", "guarantee"),
    [
        (["privacy.epsilon=none"], "none was promised: the record is sound, and nothing was charged"),
        (["privacy.source=secure"], "the record is sound; the promise holds if clients and server did what it says"),
        pytest.param(
            ["privacy.trust=central"],
            "simulation: the record is sound, the noise guarantees nothing",
            marks=pytest.mark.slow,  # Opacus checks Gaussians, and takes seconds to load
        ),
        (
            ["privacy.unit=interaction", "model.user_vector=public", "privacy.noise=skellam"],
            "simulation: the record is sound, the noise guarantees nothing",
        ),
        (
            ["model.start=spectral", "privacy.noise_multiplier=none", "federation.cohort=60", "privacy.noise=skellam"],
            "simulation: the record is sound, the noise guarantees nothing",
        ),
        (
            ["privacy.trust=local", "privacy.noise=skellam"],
            "simulation: the record is sound, the noise guarantees nothing",
        ),
    ],
)
def test_runs_of_every_kind_are_sound(overrides: list[str], guarantee: str, tiny: Tiny, tmp_path: Path) -> None:
    verdict = verify(run_of(tiny(*overrides), tmp_path / "run"))
    assert verdict.faults == ()
    assert verdict.checks[-1].detail == guarantee


@dataclass(frozen=True, eq=False)
class FailsOnce:
    """The fleet, of which nobody answers the first attempt at round 2."""

    setting: Setting
    name: str = "fleet"

    def collect(self, plan: Plan, shared: Shared) -> Collected:
        collected = simulate.fleet(self.setting).collect(plan, shared)
        if (plan.round, plan.attempt) == (2, 0):
            return Collected((), 0, 0, 0, collected.senders, "nobody answered")
        return collected


def test_a_failed_attempt_stays_charged_and_is_sound(tiny: Tiny, tmp_path: Path) -> None:
    verdict = verify(run_of(tiny(*SETTINGS), tmp_path / "run", engine_for=FailsOnce))
    assert verdict.faults == ()
    assert "attempts: 4 reserved in order: 3 commit, 1 abort" in [f"{c.name}: {c.detail}" for c in verdict.checks]


def test_an_older_published_checkpoint_is_a_prefix(run: Path, key: Ed25519PrivateKey) -> None:
    lines = (run / "ledger.jsonl").read_bytes().splitlines()
    for size in range(1, len(lines) + 1):
        older = sign_checkpoint(lines[:size], records(run)[0]["run"], key)
        assert faults(run, older, key.public_key().public_bytes_raw()) == []


def test_an_unfinished_run_is_sound_as_far_as_it_goes(tiny: Tiny, tmp_path: Path) -> None:
    with pytest.raises(BudgetExceededError):
        run_of(tiny("privacy.epsilon=2", "privacy.noise=skellam"), tmp_path / "run")
    verdict = verify(tmp_path / "run")
    assert verdict.faults == ()
    assert verdict.checks[0].detail.startswith("not finished: ")


def test_a_crash_at_any_byte_of_the_last_line_leaves_a_sound_record(tiny: Tiny, tmp_path: Path) -> None:
    with pytest.raises(BudgetExceededError):
        run_of(tiny("privacy.epsilon=2", "privacy.noise=skellam"), tmp_path / "run")
    ledger = tmp_path / "run" / "ledger.jsonl"
    content = ledger.read_bytes()
    (tmp_path / "run" / "rounds.jsonl").write_bytes(b"")  # it follows the commit
    for size in range(content[:-1].rindex(b"\n") + 1, len(content)):
        ledger.write_bytes(content[:size])
        assert faults(tmp_path / "run") == []


def test_what_is_not_a_run_folder_is_refused(tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "none"):
        with pytest.raises(RunFolderError):
            verify(folder)


# The ledger's bytes


def edited(content: bytes, data: st.DataObject) -> tuple[bytes, int]:
    """Something done to a file, and the number of the first line that it touches."""
    lines = content.splitlines(keepends=True)
    n = len(lines)
    at, other = data.draw(st.integers(0, n - 1)), data.draw(st.integers(0, n - 1))
    match data.draw(st.sampled_from(["flip", "drop", "duplicate", "reorder", "insert", "truncate"])):
        case "flip":
            byte = data.draw(st.integers(0, len(content) - 1))
            value = content[byte] ^ data.draw(st.integers(1, 255))
            return content[:byte] + bytes([value]) + content[byte + 1 :], content[:byte].count(b"\n") + 1
        case "drop":
            return b"".join(lines[:at] + lines[at + 1 :]), at + 1
        case "duplicate":
            return b"".join([*lines[:at], lines[other], *lines[at:]]), at + 1
        case "reorder":
            lines[at], lines[other] = lines[other], lines[at]
            return b"".join(lines), min(at, other) + 1
        case "insert":
            return b"".join([*lines[:at], data.draw(st.binary(max_size=40)) + b"\n", *lines[at:]]), at + 1
    size = data.draw(st.integers(0, len(content) - 1))
    return content[:size], content[:size].count(b"\n") + 1


@settings(max_examples=250, deadline=None)
@given(st.data())
def test_every_edit_of_the_ledger_is_found_and_named(run: Path, scratch: Path, data: st.DataObject) -> None:
    content = (run / "ledger.jsonl").read_bytes()
    changed, line = edited(content, data)
    if changed == content:
        return
    (scratch / "ledger.jsonl").write_bytes(changed)
    found = faults(scratch, published(run))
    named = (f"ledger.jsonl, line {line}:", f"ledger.jsonl, line {line + 1}:")
    chain = any(fault.startswith("chain: ") and any(name in fault for name in named) for fault in found)
    last = line >= content.count(b"\n")
    assert (
        chain
        or (last and any(fault.startswith("published checkpoint: ledger.jsonl") for fault in found))
        or (
            # What is cut at the end leaves a sound chain: it is named by what was published.
            changed == content[: len(changed)]
            and any(fault.startswith("published checkpoint: ledger.jsonl has ") for fault in found)
        )
    )


def test_a_torn_or_added_tail_of_a_finished_run_is_found(copied: Path) -> None:
    with (copied / "ledger.jsonl").open("ab") as ledger:
        ledger.write(b'{"attempt":0,')
    assert faults(copied) == ["chain: ledger.jsonl: 13 bytes follow its last line end; a line was cut or added."]


def test_a_whole_ledger_rewritten_with_a_fresh_key_needs_an_anchor(
    run: Path, copied: Path, key: Ed25519PrivateKey
) -> None:
    """Whoever may write the folder can make it say something else; what was published says that it did not."""
    changed = records(copied)
    changed[2]["survivors"] = 71
    forge(copied, changed)
    rounds = (copied / "rounds.jsonl").read_text().splitlines()
    rounds[0] = json.dumps({**json.loads(rounds[0]), "survivors": 71})
    (copied / "rounds.jsonl").write_text("\n".join(rounds) + "\n")
    assert faults(copied) == []
    assert faults(copied, published(run)) == [
        "published checkpoint: ledger.jsonl does not hold the 7 lines that the published checkpoint signed.",
        "published checkpoint: ledger.checkpoint is signed by another key than the published checkpoint.",
    ]
    (fault,) = faults(copied, key=key.public_key().public_bytes_raw())
    assert fault.startswith("checkpoint: ledger.checkpoint: it is signed by another key")


def test_a_checkpoint_of_another_run_is_found(run: Path, tiny: Tiny, tmp_path: Path) -> None:
    other = run_of(tiny(*SETTINGS, "seed=2"), tmp_path / "other")
    found = faults(run, published(other))
    assert found[0].startswith("published checkpoint: the published checkpoint is about run ")
    assert found[1].startswith("published checkpoint: ledger.jsonl does not hold the 7 lines")


@pytest.mark.parametrize("text", ["", "{}", "not JSON", "null"])
def test_what_is_no_checkpoint_is_a_fault(text: str, run: Path, copied: Path) -> None:
    assert faults(run, text) == [
        "published checkpoint: the published checkpoint: its signature is not valid; it is damaged or was edited."
    ]
    (copied / "ledger.checkpoint").write_text(text)
    (fault,) = faults(copied)
    assert fault.startswith("checkpoint: ledger.checkpoint: its signature is not valid")


# The files beside it


@pytest.mark.parametrize(
    "name", ["summary.json", "rounds.jsonl", "ledger.jsonl", "ledger.checkpoint", "model.safetensors"]
)
def test_a_missing_file_is_named(name: str, copied: Path) -> None:
    (copied / name).unlink()
    assert any(fault.startswith("files: ") and name in fault for fault in faults(copied))


@pytest.mark.parametrize(
    ("name", "check"), [("summary.json", "files"), ("rounds.jsonl", "files"), ("experiment.toml", "files")]
)
def test_a_damaged_file_is_named_and_hides_nothing_else(name: str, check: str, copied: Path) -> None:
    (copied / name).write_bytes(b"\xff{\n")
    (copied / "model.safetensors").write_bytes(b"another model")
    found = faults(copied)
    assert any(fault.startswith(f"{check}: ") and name in fault for fault in found)
    assert "model: model.safetensors is not the model whose SHA-256 the last commit holds." in found


@pytest.mark.parametrize(
    ("key", "value", "check"),
    [
        ("epsilon", 1.0, "epsilon"),
        ("epsilon", None, "epsilon"),
        ("levels", {"user": 3.1, "interaction": 4.2}, "epsilon"),
        ("delta", 1e-6, "summary"),
        ("unit", "interaction", "summary"),
        ("trust", "local", "summary"),
        ("adjacency", "add-or-remove", "summary"),
        ("target_epsilon", 4.0, "summary"),
        ("noise_source", "a good one", "summary"),
        ("noise_multipliers", [2.5, 2.5], "summary"),
    ],
)
def test_an_edited_promise_is_found(key: str, value: Any, check: str, copied: Path) -> None:
    summary = json.loads((copied / "summary.json").read_text())
    summary["privacy"][key] = value
    (copied / "summary.json").write_text(json.dumps(summary))
    found = faults(copied)
    assert found
    assert all(fault.startswith(f"{check}: summary.json") and key in fault for fault in found)


@pytest.mark.parametrize(
    "change", [{"rounds": 2}, {"dataset": {"name": "x", "users": 79, "items": 1, "interactions": 1}}]
)
def test_an_edited_summary_is_found(change: dict[str, Any], copied: Path) -> None:
    summary = json.loads((copied / "summary.json").read_text())
    (copied / "summary.json").write_text(json.dumps({**summary, **change}))
    (fault,) = faults(copied)
    assert fault.startswith(f"summary: summary.json says {next(iter(change))}")


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("epsilon = 8.0", "epsilon = 80.0", "epsilon is 8.0, but experiment.toml gives 80.0"),
        ("delta = 1e-05", "delta = 1e-06", "delta is 1e-05, but experiment.toml gives 1e-06"),
        ('trust = "distributed"', 'trust = "local"', "trust is 'distributed', but experiment.toml gives 'local'"),
        ("min_cohort = 70", "min_cohort = 60", "min_cohort is 70, but the experiment's is 60"),
        ("colluders = 2", "colluders = 1", "colluders is 2, but the experiment's is 1"),
        ("clip_norm = 1.0", "clip_norm = 2.0", "clip_norm is 1.0"),
        ("noise_multiplier = 2.5", "noise_multiplier = 5.0", "but experiment.toml gives 5"),
        ("resolution = 64.0", "resolution = 32.0", "scale is "),
        ("seed = 1", "seed = 2", "run is "),
    ],
)
def test_an_edited_experiment_is_found(old: str, new: str, said: str, copied: Path) -> None:
    text = (copied / "experiment.toml").read_text()
    assert f"\n{old}\n" in text
    (copied / "experiment.toml").write_text(text.replace(f"\n{old}\n", f"\n{new}\n", 1))
    found = faults(copied)
    assert any(fault.startswith("opening: ledger.jsonl, line 1: run is ") for fault in found)
    # A statistic may have clip norm 1 whatever the experiment's is, so there the run's id alone tells.
    assert said == "clip_norm is 1.0" or any(said in fault for fault in found)


def test_a_comment_in_the_experiment_changes_nothing(copied: Path) -> None:
    text = (copied / "experiment.toml").read_text()
    (copied / "experiment.toml").write_text(f"# as run on Monday\n{text}")
    assert faults(copied) == []
    assert parse(text).digest() == records(copied)[0]["run"]


@pytest.mark.parametrize(
    ("key", "value"),
    [("survivors", 79), ("attempt", 1), ("noise_multiplier", 5.0), ("cohort", 79), ("release", "x"), ("epsilon", 9.0)],
)
def test_an_edited_round_is_found(key: str, value: Any, copied: Path) -> None:
    lines = [json.loads(line) for line in (copied / "rounds.jsonl").read_text().splitlines()]
    lines[-1][key] = value
    (copied / "rounds.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (fault,) = faults(copied)
    assert fault.startswith("rounds: rounds.jsonl")
    assert key in fault


@pytest.mark.parametrize("drop", [0, 1, 2])
def test_a_missing_round_is_found(drop: int, copied: Path) -> None:
    lines = (copied / "rounds.jsonl").read_text().splitlines(keepends=True)
    (copied / "rounds.jsonl").write_text("".join(lines[:drop] + lines[drop + 1 :]))
    assert f"rounds: rounds.jsonl and the commits of ledger.jsonl differ in round {drop + 1}." in faults(copied)


@pytest.mark.parametrize(
    "event", [SkellamEvent(1e8, 2e3, 4e4), pytest.param(GaussianEvent(2.5), marks=pytest.mark.slow)]
)
def test_accountants_that_disagree_are_found(event: Event) -> None:
    events = (event,) * 3
    reported = checks.price(events, 1e-5)
    assert reported is not None
    assert checks.second(events, 1e-5, reported)[1] == []
    for wrong in (reported - 0.03, reported + 0.03):
        assert checks.second(events, 1e-5, wrong)[1]
