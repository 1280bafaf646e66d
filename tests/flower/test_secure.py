"""Secure aggregation over Flower's messages, with the real ClientApp on every node of this process."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr.app import ArrayRecord, Error, Message
from flwr.serverapp import Grid

from fedrec.config import Experiment
from fedrec.engines import simulate
from fedrec.engines.setting import prepare
from fedrec.errors import BudgetExceededError, ContributionError, RoundFailedError
from fedrec.federation.cohort import partition_of
from fedrec.federation.round import client_round
from fedrec.flower import clientapp, strategy
from fedrec.flower.codec import decode, encode
from fedrec.flower.node import Node
from fedrec.flower.strategy import FederationStrategy
from fedrec.reporting.folder import RunFolder

Tiny = Callable[..., Experiment]
Nodes = Callable[..., Any]
"""Makes a grid of nodes in this process."""

COUNT = 8
PHASES = ("advert", "shares", "masked", "agree", "unmask")


@pytest.fixture
def experiment(tiny: Tiny) -> Experiment:
    """Eighty users on eight nodes, of whom six users are enough: there are more nodes than that."""
    return tiny("federation.min_cohort=6", "privacy.noise_multiplier=20.0").replaced(engine={"name": "flower"})


def run(experiment: Experiment, grid: Grid, folder: Path) -> dict[str, Any]:
    FederationStrategy(partial(simulate.start, experiment, partial(RunFolder.create, folder))).start(
        grid, ArrayRecord()
    )
    return RunFolder.open(folder).read_summary()


def rounds(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "rounds.jsonl").read_text().splitlines()]


def partition(grid: Any, message: Message) -> int:
    return int(grid.contexts[message.metadata.dst_node_id].node_config["partition-id"])


def test_a_masked_run_is_the_plain_run_bit_for_bit(
    experiment: Experiment, nodes: Nodes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    summary = run(experiment, nodes(experiment, COUNT), tmp_path / "masked")
    assert {line["aggregation"] for line in rounds(tmp_path / "masked")} == {summary["privacy"]["aggregation"]}
    assert summary["privacy"]["aggregation"].startswith("secure aggregation: 8 participants with k = 7 neighbours")
    for module in (strategy, clientapp):
        monkeypatch.setattr(module, "masks", lambda *_: False)
    run(experiment, nodes(experiment, COUNT), tmp_path / "plain")
    for name in ("model.safetensors", "ledger.jsonl"):
        assert (tmp_path / "masked" / name).read_bytes() == (tmp_path / "plain" / name).read_bytes()


def test_a_node_answers_four_messages_a_round_and_shows_no_vector(
    experiment: Experiment, nodes: Nodes, tmp_path: Path
) -> None:
    asked: Counter[tuple[int, str]] = Counter()
    vectors: list[np.ndarray[Any, Any]] = []
    grid: Any = None

    def note(message: Message, answer: Message) -> list[Message]:
        packet = decode(message)
        asked[packet.number("round"), message.metadata.message_type.removeprefix("train.")] += 1
        reply = decode(answer)
        assert set(reply.config) == {"protocol", "message"}
        assert not reply.arrays
        if message.metadata.message_type == "train.masked" and packet.number("round") == 1:
            vectors.append(np.frombuffer(reply.blob("message"), "<u4", offset=len(reply.blob("message")) - 4 * 300))
        return [answer]

    grid = nodes(experiment, COUNT, note)
    run(experiment, grid, tmp_path / "run")
    # Adverts are asked for once; later ones come with the last reply of the round before.
    wanted = [(1, "advert"), *((round_, phase) for round_ in (1, 2, 3) for phase in PHASES[1:])]
    assert asked == dict.fromkeys(wanted, COUNT)
    setting = prepare(experiment)
    federation = setting.federation
    plan, shared = federation.plan(1), federation.start().shared
    for part in range(COUNT):
        users = partition_of(plan.cohort, part, COUNT, federation.population)
        shard = client_round(federation.model, shared, setting.split.train.take(users), plan, part)
        # A masked vector is uniform: it agrees with the vector under it in 1 of 2**32 coordinates.
        assert all(np.mean(masked == plan.release.flatten(shard.arrays)) < 0.01 for masked in vectors)


@pytest.mark.parametrize("phase", PHASES[1:])
def test_a_node_that_drops_out_in_any_phase_costs_no_more_than_its_own_users(
    experiment: Experiment, nodes: Nodes, tmp_path: Path, phase: str
) -> None:
    grid: Any = None

    def tamper(message: Message, answer: Message) -> list[Message]:
        gone = partition(grid, message) == 3 and message.metadata.message_type == f"train.{phase}"
        return [Message(Error(2, "out of memory"), reply_to=message)] if gone else [answer]

    grid = nodes(experiment, COUNT, tamper)
    run(experiment, grid, tmp_path / "run")
    survivors = 80 if phase in {"agree", "unmask"} else 70  # its vector was in, and the others open the sum
    assert [line["survivors"] for line in rounds(tmp_path / "run")] == [survivors] * 3


def test_below_the_minimum_cohort_nothing_is_unmasked_and_the_attempt_stays_charged(
    tiny: Tiny, nodes: Nodes, tmp_path: Path
) -> None:
    experiment = tiny("federation.min_cohort=8", "privacy.noise_multiplier=20.0").replaced(engine={"name": "flower"})
    phases: Counter[str] = Counter()
    grid: Any = None

    def tamper(message: Message, answer: Message) -> list[Message]:
        phases[message.metadata.message_type] += 1
        gone = message.metadata.message_type == "train.masked" and partition(grid, message) > 0
        return [] if gone else [answer]

    def few(asked: Message, answer: Message) -> list[Message]:
        answers = tamper(asked, answer)
        return answers or [Message(Error(2, "out of memory"), reply_to=asked)]

    grid = nodes(experiment, COUNT, few)
    # One node of ten users is left: more than eight users, but its self mask has nobody else's share.
    with pytest.raises((RoundFailedError, BudgetExceededError)):
        run(experiment, grid, tmp_path / "run")
    assert not phases["train.agree"]
    assert not phases["train.unmask"]
    lines = (tmp_path / "run" / "ledger.jsonl").read_text().splitlines()
    assert Counter(json.loads(line)["type"] for line in lines) == {"open": 1, "reserve": 3, "abort": 3}


def test_no_secret_is_left_after_the_run(experiment: Experiment, nodes: Nodes, tmp_path: Path) -> None:
    run(experiment, nodes(experiment, COUNT), tmp_path / "run")
    folders = sorted((tmp_path / "flwr" / "fedrec").iterdir())
    assert len(folders) == COUNT
    for folder in folders:
        names = {path.name.split("-")[0] for path in folder.iterdir() if not path.name.startswith(".")}
        assert names == {"identity", "roster", "used", "seen"}  # no advert, no attempt
        assert folder.stat().st_mode & 0o077 == 0


def test_a_replayed_message_is_refused(experiment: Experiment, nodes: Nodes, tmp_path: Path) -> None:
    kept: list[Message] = []
    grid: Any = None

    def note(message: Message, answer: Message) -> list[Message]:
        if partition(grid, message) == 0:
            kept.append(message)
        return [answer]

    grid = nodes(experiment, COUNT, note)
    run(experiment, grid, tmp_path / "run")
    assert len(kept) == 1 + 3 * 4
    for message in list(kept):
        packet = decode(message)
        again = Message(
            encode(packet.arrays, packet.config), message.metadata.dst_node_id, message.metadata.message_type
        )
        (name,) = grid.push_messages([again])
        (reply,) = grid.pull_messages([name])
        assert reply.has_error()


def test_a_node_keeps_the_first_roster_that_it_is_shown(experiment: Experiment, nodes: Nodes) -> None:
    contexts = list(nodes(experiment, COUNT).contexts.values())
    members = {int(context.node_config["partition-id"]): Node(context).join() for context in contexts}
    first = b"".join(members[part].identity + members[part].channel for part in range(COUNT))
    strangers = first[:-64] + bytes(64)
    for context in contexts[1:]:
        node = Node(context)
        if node.partition == COUNT - 1:
            with pytest.raises(ContributionError, match="does not hold partition"):
                node.pin(strangers)
            continue
        node.pin(first)
        with pytest.raises(ContributionError, match="another than the one that this node knows"):
            node.pin(strangers)
        with pytest.raises(ContributionError, match="does not hold"):
            node.pin(first[:-1])


def test_with_too_few_nodes_the_plain_ring_sum_is_used_and_said(tiny: Tiny, nodes: Nodes, tmp_path: Path) -> None:
    experiment = tiny().replaced(engine={"name": "flower"})
    summary = run(experiment, nodes(experiment, 4), tmp_path / "run")
    wanted = "plain ring sum: 4 nodes are fewer than the minimum cohort of 80 users"
    assert summary["privacy"]["aggregation"].startswith(wanted)
    assert wanted in (tmp_path / "run" / "report.html").read_text()


def test_a_node_answers_no_masked_attempt_in_the_clear_and_no_attempt_beyond_the_public_number(
    experiment: Experiment, nodes: Nodes
) -> None:
    grid = nodes(experiment, COUNT)
    shared = dict(prepare(experiment).federation.start().shared)
    for attempt, arrays in ((0, shared), (3, shared), (10**6, shared)):
        message = Message(encode(arrays, {"round": 1, "attempt": attempt}), next(iter(grid.contexts)), "train")
        (name,) = grid.push_messages([message])
        (reply,) = grid.pull_messages([name])
        assert reply.has_error()


def test_with_secret_noise_a_plain_attempt_is_answered_once(tiny: Tiny, nodes: Nodes) -> None:
    """Answers with other noise could be averaged."""
    experiment = tiny("privacy.source=secure", "privacy.noise=skellam").replaced(engine={"name": "flower"})
    grid = nodes(experiment, 4)
    shared, errors = dict(prepare(experiment).federation.start().shared), []
    for _ in range(2):
        message = Message(encode(shared, {"round": 1, "attempt": 0}), next(iter(grid.contexts)), "train")
        (name,) = grid.push_messages([message])
        (reply,) = grid.pull_messages([name])
        errors.append(reply.has_error())
    assert errors == [False, True]
