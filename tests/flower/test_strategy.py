"""The strategy over real ClientApps in this process: what a node may not send, and that the rest still counts."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from flwr.app import ArrayRecord, Error, Message, RecordDict
from flwr.serverapp import Grid

from fedrec.config import Experiment
from fedrec.engines.base import Collected
from fedrec.engines.setting import prepare
from fedrec.errors import ContributionError
from fedrec.federation.cohort import partition_of
from fedrec.federation.round import client_round
from fedrec.flower import strategy
from fedrec.flower.codec import decode, encode
from fedrec.flower.strategy import FederationStrategy
from fedrec.privacy.mechanism import ShardSum

Tiny = Callable[..., Experiment]
Nodes = Callable[..., Any]
"""Makes a grid of nodes in this process."""
Tamper = Callable[[Message, Message], list[Message]]
"""From what a node was asked and what it answers to what it sends instead."""

PLAIN = ("privacy.epsilon=none", "privacy.noise_multiplier=none")


@pytest.fixture
def tiny(tiny: Tiny) -> Tiny:
    """Experiments on Flower whose clients send floats: the server adds the noise."""
    return lambda *overrides: tiny("privacy.trust=central", *overrides).replaced(engine={"name": "flower"})


def collect(experiment: Experiment, grid: Grid, round_: int = 1) -> Collected:
    """What the strategy makes of one attempt at a round, from the model before the first."""
    found: list[Collected] = []

    def loop(bind: Any) -> None:
        setting = prepare(experiment)
        federation = setting.federation
        found.append(bind(setting).collect(federation.plan(round_), federation.start().shared))

    FederationStrategy(loop).start(grid, ArrayRecord())
    return found[0]


def expected(experiment: Experiment, count: int) -> list[ShardSum]:
    """What each partition sends in the first round."""
    setting = prepare(experiment)
    federation = setting.federation
    plan = federation.plan(1)
    parts = [partition_of(plan.cohort, part, count, federation.population) for part in range(count)]
    train, shared = setting.split.train, federation.start().shared
    return [client_round(federation.model, shared, train.take(users), plan, part) for part, users in enumerate(parts)]


def assert_shards(found: Collected, wanted: list[ShardSum]) -> None:
    assert len(found.shards) == len(wanted)
    for shard, right in zip(found.shards, wanted, strict=True):
        assert shard.n_users == right.n_users
        for name, array in right.arrays.items():
            np.testing.assert_array_equal(shard.arrays[name], array)


@pytest.mark.parametrize("order", [1, 2, 3])
def test_shards_come_back_in_the_order_of_partitions(tiny: Tiny, nodes: Nodes, order: int) -> None:
    found = collect(tiny(), nodes(tiny(), 4, order=order))
    assert found.rejected == 0
    assert found.up_bytes == 4 * 8 * (60 * 4 + 60)
    assert_shards(found, expected(tiny(), 4))


def changed(arrays: Callable[[dict[str, Any]], dict[str, Any]] = dict, **config: Any) -> Tamper:
    """Partition 2 answers with other arrays or other values."""

    def tamper(asked: Message, answer: Message) -> list[Message]:
        packet = decode(answer)
        if packet.number("partition") != 2:
            return [answer]
        return [Message(encode(arrays(dict(packet.arrays)), {**packet.config, **config}), reply_to=asked)]

    return tamper


def instead(make: Callable[[Message, Message], list[Message]]) -> Tamper:
    """Partition 2 answers with other messages."""

    def tamper(asked: Message, answer: Message) -> list[Message]:
        return make(asked, answer) if decode(answer).number("partition") == 2 else [answer]

    return tamper


def holding(array: np.ndarray[Any, Any], value: float) -> np.ndarray[Any, Any]:
    """A copy with one value changed."""
    copy = array.copy()
    copy.flat[3] = value
    return copy


@pytest.mark.parametrize(
    ("tamper", "says"),
    [
        (changed(lambda a: {**a, "items": holding(a["items"], np.nan)}), "'items' holds values that are not finite"),
        (changed(lambda a: {**a, "bias": holding(a["bias"], np.inf)}), "'bias' holds values that are not finite"),
        (changed(lambda a: {**a, "items": a["items"][:-1]}), r"'items' has shape \(59, 4\), not \(60, 4\)"),
        (changed(lambda a: {**a, "items": a["items"].T}), r"'items' has shape \(4, 60\), not \(60, 4\)"),
        (changed(lambda a: {**a, "items": a["items"].astype(np.int64)}), "'items' holds int64, not float64"),
        (changed(lambda a: {"items": a["items"]}), r"wants the arrays \['bias', 'items'\], not \['items'\]"),
        (changed(lambda a: {**a, "more": a["bias"]}), r"not \['bias', 'items', 'more'\]"),
        (changed(lambda a: {"rows": a["items"], "bias": a["bias"]}), r"not \['bias', 'rows'\]"),
        (changed(lambda _: {}), r"not \[\]"),
        (changed(users=19), "partition 2 speaks for 19 users, which it does not hold"),
        (changed(users=80), "partition 2 speaks for 80 users"),
        (changed(users=20.0), "the message's 'users' is 20.0, not an integer"),
        (changed(round=2), "the reply is of another attempt"),
        (changed(partition=1), "the sender does not hold partition 1"),
        (changed(partition=4), "the sender does not hold partition 4"),
        (changed(partition=-2), "the sender does not hold partition -2"),
        (changed(protocol=1), "speaks protocol 1, not 2"),
        (instead(lambda asked, _: [Message(Error(2, "out of memory"), reply_to=asked)]), "answered with error 2"),
        (instead(lambda asked, _: [Message(RecordDict(), reply_to=asked)]), "speaks protocol None"),
    ],
)
def test_a_bad_reply_is_rejected_and_the_others_count(
    tiny: Tiny, nodes: Nodes, tamper: Tamper, says: str, caplog: pytest.LogCaptureFixture
) -> None:
    found = collect(tiny(), nodes(tiny(), 4, tamper))
    assert found.rejected == 1
    right = expected(tiny(), 4)
    assert_shards(found, [*right[:2], right[3]])
    (record,) = (record for record in caplog.records if record.name == "fedrec")
    assert record.levelname == "WARNING"
    with pytest.raises(ContributionError, match=says):
        raise record.args[1]  # type: ignore[index,misc] # the warning's last argument is the error


def test_a_second_answer_of_a_partition_is_rejected(tiny: Tiny, nodes: Nodes) -> None:
    found = collect(tiny(), nodes(tiny(), 4, instead(lambda _, answer: [answer, answer])))
    assert found.rejected == 1
    assert_shards(found, expected(tiny(), 4))


def test_a_node_that_stays_silent_is_rejected(tiny: Tiny, nodes: Nodes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(strategy, "ROUND_TIMEOUT_S", 0.2)
    found = collect(tiny(), nodes(tiny(), 4, instead(lambda _, __: [])))
    assert found.rejected == 1
    right = expected(tiny(), 4)
    assert_shards(found, [*right[:2], right[3]])


@pytest.mark.parametrize("trust", ["distributed", "local"])
def test_integers_come_back_as_ring_elements(tiny: Tiny, nodes: Nodes, trust: str) -> None:
    experiment = tiny(f"privacy.trust={trust}", "privacy.noise=skellam")
    found = collect(experiment, nodes(experiment, 4))
    assert found.up_bytes == 4 * 4 * (60 * 4 + 60)
    assert_shards(found, expected(experiment, 4))
    assert found.aggregation.startswith("plain ring sum: 4 nodes" if trust == "distributed" else "plain sum")
    floats = collect(experiment, nodes(experiment, 4, changed(lambda a: {**a, "items": a["items"].astype(np.float64)})))
    assert floats.rejected == 1


def test_no_reply_carries_more_than_the_noised_sum_and_what_the_server_knows(tiny: Tiny, nodes: Nodes) -> None:
    """A count of usable vectors, a loss or a metric would be private data in the clear."""
    answers: list[Message] = []

    def note(_: Message, answer: Message) -> list[Message]:
        answers.append(answer)
        return [answer]

    collect(tiny(), nodes(tiny(), 4, note))
    for answer in answers:
        packet = decode(answer)
        assert set(packet.config) == {"protocol", "partition", "round", "attempt", "users"}
        assert set(packet.arrays) == {"items", "bias"}
        assert not answer.content.metric_records


def test_nodes_without_users_of_the_cohort_are_not_asked(tiny: Tiny, nodes: Nodes) -> None:
    experiment = tiny("federation.cohort=3")
    asked: list[int] = []

    def note(message: Message, answer: Message) -> list[Message]:
        asked.append(message.metadata.dst_node_id)
        return [answer]

    found = collect(experiment, nodes(experiment, 20, note))
    assert len(asked) == len(found.shards) <= 3
    assert sum(shard.n_users for shard in found.shards) == 3
    assert found.rejected == 0
