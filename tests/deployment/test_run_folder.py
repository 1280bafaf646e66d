"""What a deployment leaves in its run folder: a checkpoint after every end of an attempt, and what the verbs read."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from flwr.app import Message

from fedrec.errors import FedrecError, ServerError
from fedrec.privacy.proofs import Checkpoint, verify_checkpoint
from fedrec.reporting.compare import as_json, page, read_runs
from tests.flower.deployed import Deployment, gone


def checked(deployment: Deployment) -> tuple[Checkpoint, list[bytes]]:
    """The checkpoint, which the key of the invitations has signed, and the ledger's lines."""
    run = deployment.home.run
    lines = (run / "ledger.jsonl").read_bytes().split(b"\n")[:-1]
    return verify_checkpoint((run / "ledger.checkpoint").read_text(), lines, deployment.home.public("ledger")), lines


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
