"""What a deployment leaves in its run folder: a checkpoint after every end of an attempt, and what the verbs read."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from flwr.app import Message

from fedrec.audit.verify import verify
from fedrec.engines import run
from fedrec.errors import FedrecError, ServerError
from fedrec.privacy.proofs import Checkpoint, sign_checkpoint, verify_checkpoint
from fedrec.reporting.compare import as_json, page, read_runs
from tests.flower.deployed import Deployment, gone


def checked(deployment: Deployment) -> tuple[Checkpoint, list[bytes]]:
    """The checkpoint, which the key of the invitations has signed, and the ledger's lines."""
    folder = deployment.home.run
    lines = (folder / "ledger.jsonl").read_bytes().split(b"\n")[:-1]
    return verify_checkpoint((folder / "ledger.checkpoint").read_text(), lines, deployment.home.public("ledger")), lines


def test_an_aborted_attempt_is_in_the_checkpoint_before_the_next_one_is_asked(tmp_path: Path) -> None:
    deployment, few = Deployment(tmp_path), gone([1, 2], "masked")
    seen: list[int] = []

    def once(number: int, asked: Message, answer: Message) -> list[Message]:
        found, lines = checked(deployment)
        ends = [json.loads(line)["type"] for line in lines[: found.size]]
        seen.append(ends.count("abort"))
        return [answer] if ends.count("abort") else few(number, asked, answer)

    deployment.tamper = once
    deployment.train()
    assert set(seen) == {0, 1}
    found, lines = checked(deployment)
    assert found.size == len(lines)


def test_a_training_that_ends_with_an_abort_has_it_in_its_checkpoint(tmp_path: Path) -> None:
    deployment = Deployment(tmp_path)
    deployment.tamper = gone([1, 2], "masked")
    with pytest.raises(FedrecError):
        deployment.train()
    found, lines = checked(deployment)
    assert json.loads(lines[-1])["type"] == "abort"
    assert found.size == len(lines)


class KilledError(BaseException):
    """The process is gone."""


@pytest.fixture
def cut_short(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Deployment:
    """A server that was killed between the line that charges an attempt and its signature."""
    deployment = Deployment(tmp_path)

    def killed(point: str) -> None:
        if point == "run.reserved":
            raise KilledError

    with monkeypatch.context() as patch:
        patch.setattr(run, "reach", killed)
        with pytest.raises(KilledError):
            deployment.train()
    return deployment


def test_a_line_that_a_crash_kept_from_being_signed_is_a_remark_and_no_fault(cut_short: Deployment) -> None:
    found, lines = checked(cut_short)
    assert (found.size, len(lines)) == (1, 2)
    verdict = verify(cut_short.home.run)
    assert not verdict.faults
    remarks = [check.name for check in verdict.checks if "the last line is not signed yet" in check.detail]
    assert remarks == ["checkpoint"]
    cut_short.train()
    found, lines = checked(cut_short)
    assert found.size == len(lines)
    assert not verify(cut_short.home.run).faults


def test_of_a_crash_too_a_changed_or_missing_line_is_a_fault(cut_short: Deployment) -> None:
    ledger = cut_short.home.run / "ledger.jsonl"
    whole = ledger.read_bytes()
    first, last, _ = whole.split(b"\n")
    for content in (
        first.replace(b'"version":2', b'"version":3') + b"\n" + last + b"\n",  # a signed line
        first + b"\n" + last.replace(b'"attempt":0', b'"attempt":1').replace(b'"prev":"', b'"prev":"0') + b"\n",
        first + b"\n" + last + b"\n" + last + b"\n",  # more than one that is not signed
        b"",
    ):
        ledger.write_bytes(content)
        assert verify(cut_short.home.run).faults, content
    ledger.write_bytes(whole)
    assert not verify(cut_short.home.run).faults


def test_of_a_finished_run_every_line_is_signed(tmp_path: Path) -> None:
    deployment = Deployment(tmp_path)
    deployment.train()
    found, lines = checked(deployment)
    early = sign_checkpoint(lines[:-1], found.run, deployment.home.key("ledger"))
    (deployment.home.run / "ledger.checkpoint").write_text(early)
    assert [check.name for check in verify(deployment.home.run).faults] == ["checkpoint"]


def test_without_its_ledger_key_a_server_does_not_train(tmp_path: Path) -> None:
    deployment = Deployment(tmp_path)
    (deployment.home.keys / "ledger.key").unlink()
    with pytest.raises(ServerError, match=r"ledger\.key"):
        deployment.train()


def test_a_finished_deployment_can_be_read_and_compared(tmp_path: Path) -> None:
    deployment = Deployment(tmp_path)
    deployment.train()
    assert "Nothing is measured" in (deployment.home.run / "report.html").read_text()
    rows = read_runs([deployment.home.run])
    assert as_json(rows)[0]["hr@10"] is None
    assert "No run has test figures." in page(rows)
