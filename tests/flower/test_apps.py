"""Whole runs of the real ServerApp and ClientApp in this process, and what each refuses of the other."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr.app import ArrayRecord, Context, Error, Message, RecordDict
from flwr.serverapp import Grid
from safetensors.numpy import load_file

from fedrec.config import Experiment
from fedrec.engines import simulate
from fedrec.engines.setting import prepare
from fedrec.errors import ConfigError, FedrecError, RoundFailedError, RunFolderError
from fedrec.flower import serverapp, transport
from fedrec.flower.codec import decode, encode
from fedrec.flower.strategy import FederationStrategy
from fedrec.reporting.folder import RunFolder

Tiny = Callable[..., Experiment]
Nodes = Callable[..., Any]
"""Makes a grid of nodes in this process."""

PLAIN = ("privacy.epsilon=none", "privacy.noise_multiplier=none")


@pytest.fixture
def tiny(tiny: Tiny) -> Tiny:
    """Experiments on Flower, whose clients send integers."""
    return lambda *overrides: tiny(*overrides).replaced(engine={"name": "flower"})


def run(experiment: Experiment, grid: Grid, folder: Path) -> dict[str, Any]:
    FederationStrategy(partial(simulate.start, experiment, partial(RunFolder.create, folder))).start(
        grid, ArrayRecord()
    )
    return RunFolder.open(folder).read_summary()


@pytest.mark.parametrize("count", [1, 3])
def test_a_run_over_nodes_equals_the_fleet(tiny: Tiny, nodes: Nodes, tmp_path: Path, count: int) -> None:
    experiment = tiny(*PLAIN, "model.start=spectral")
    summary = run(experiment, nodes(experiment, count), tmp_path / "nodes")
    simulate.start(experiment, partial(RunFolder.create, tmp_path / "fleet"))
    one, other = (load_file(tmp_path / name / "model.safetensors") for name in ("nodes", "fleet"))
    assert set(one) == set(other)
    for name, array in one.items():
        np.testing.assert_allclose(array, other[name], rtol=0, atol=1e-6)
    assert summary["engine"] == "flower"


def test_the_order_of_nodes_and_replies_changes_no_bit(tiny: Tiny, nodes: Nodes, tmp_path: Path) -> None:
    for order in (1, 2):
        run(tiny(), nodes(tiny(), 4, order=order), tmp_path / str(order))
    for name in ("model.safetensors", "ledger.jsonl"):
        assert (tmp_path / "1" / name).read_bytes() == (tmp_path / "2" / name).read_bytes()


def one_bad(asked: Message, answer: Message) -> list[Message]:
    """Partition 2 answers with an error."""
    bad = decode(answer).number("partition") == 2
    return [Message(Error(2, "out of memory"), reply_to=asked) if bad else answer]


def test_a_run_goes_on_without_a_bad_node_where_the_minimum_cohort_allows(
    tiny: Tiny, nodes: Nodes, tmp_path: Path
) -> None:
    experiment = tiny("federation.min_cohort=60")
    summary = run(experiment, nodes(experiment, 4, one_bad), tmp_path / "run")
    assert summary["rejected"] == 3
    lines = [json.loads(line) for line in (tmp_path / "run" / "rounds.jsonl").read_text().splitlines()]
    assert [(line["cohort"], line["survivors"], line["rejected"]) for line in lines] == [(80, 60, 1)] * 3


def test_a_bad_node_ends_the_run_where_everyone_is_needed(tiny: Tiny, nodes: Nodes, tmp_path: Path) -> None:
    with pytest.raises(RoundFailedError, match="Round 1 failed 3 times"):
        run(tiny(), nodes(tiny(), 4, one_bad), tmp_path / "run")


def test_nodes_that_do_not_come_are_not_waited_for_forever(tiny: Tiny, nodes: Nodes) -> None:
    grid = nodes(tiny(), 3)
    grid.contexts.popitem()
    with pytest.raises(RoundFailedError, match=r"2 of 3 nodes registered within 0\.1 s"):
        transport.gather_nodes(grid, 0.1)
    grid.contexts.clear()
    with pytest.raises(RoundFailedError, match=r"0 of 1 nodes registered within 0\.1 s"):
        transport.gather_nodes(grid, 0.1)


def test_two_nodes_with_one_partition_are_refused(tiny: Tiny, nodes: Nodes) -> None:
    grid = nodes(tiny(), 3)
    for context in grid.contexts.values():
        context.node_config["partition-id"] = 0
    with pytest.raises(RoundFailedError, match="The nodes do not hold the partitions 0 to 2, one each"):
        transport.gather_nodes(grid, 1.0)


def ask(tiny: Tiny, nodes: Nodes, arrays: dict[str, Any], config: dict[str, Any]) -> Message:
    """The reply of the node with partition 0 of 2 to a hand-made training message."""
    grid = nodes(tiny(), 2)
    (name,) = grid.push_messages([Message(encode(arrays, config), next(iter(grid.contexts)), "train")])
    reply: Message
    (reply,) = grid.pull_messages([name])
    return reply


def test_a_client_takes_the_mechanism_from_its_experiment_alone(tiny: Tiny, nodes: Nodes) -> None:
    shared = dict(prepare(tiny()).federation.start().shared)
    plain = decode(ask(tiny, nodes, shared, {"round": 1, "attempt": 0}))
    pushed = {"noise_multiplier": 0.0, "clip_norm": 1e9, "trust": "central", "seed": 7, "cohort": 1}
    other = decode(ask(tiny, nodes, shared, {"round": 1, "attempt": 0, **pushed}))
    np.testing.assert_array_equal(plain.arrays["items"], other.arrays["items"])
    assert np.abs(plain.arrays["items"]).min() > 0  # noise on every row


@pytest.mark.parametrize(
    "config", [{"round": 0, "attempt": 0}, {"round": 4, "attempt": 0}, {"attempt": 0}, {"round": 1, "attempt": "0"}]
)
def test_a_client_refuses_a_round_that_is_not_its_experiments(tiny: Tiny, nodes: Nodes, config: dict[str, Any]) -> None:
    assert ask(tiny, nodes, {}, config).has_error()


def serve(experiment: Experiment, nodes: Nodes, **config: Any) -> None:
    """The ServerApp itself, on two nodes."""
    run_config = {"experiment": experiment.to_toml(), "output-dir": "", "resume": False, "failure-file": "", **config}
    serverapp.app(nodes(experiment, 2), Context(1, 1, {}, RecordDict(), run_config))


def test_the_serverapp_writes_a_run_folder(tiny: Tiny, nodes: Nodes, tmp_path: Path, home: Path) -> None:
    serve(tiny(), nodes, **{"output-dir": str(tmp_path / "run")})
    assert RunFolder.open(tmp_path / "run").finished
    serve(tiny(), nodes)
    assert RunFolder.open(home / "runs" / "tiny-1").finished


def test_the_serverapp_resumes_to_the_identical_result(tiny: Tiny, nodes: Nodes, tmp_path: Path) -> None:
    answers = 0

    def interrupt(asked: Message, answer: Message) -> list[Message]:  # noqa: ARG001 - a Tamper's arguments
        nonlocal answers
        answers += 1
        if answers == 4:  # the second node of the second round
            raise KeyboardInterrupt
        return [answer]

    with pytest.raises(KeyboardInterrupt):
        serve(tiny(), partial(nodes, tamper=interrupt), **{"output-dir": str(tmp_path / "run")})
    assert not RunFolder.open(tmp_path / "run").finished
    serve(tiny(), nodes, **{"output-dir": str(tmp_path / "run"), "resume": True})
    serve(tiny(), nodes, **{"output-dir": str(tmp_path / "whole")})
    for name in ("model.safetensors", "ledger.jsonl"):
        assert (tmp_path / "run" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


@pytest.mark.parametrize(
    ("output", "resume", "kind"),
    [("relative/run", False, ConfigError), ("missing", True, RunFolderError), ("taken", False, RunFolderError)],
)
def test_the_serverapp_leaves_word_of_its_failure(
    tiny: Tiny, nodes: Nodes, tmp_path: Path, output: str, resume: bool, kind: type[FedrecError]
) -> None:
    (tmp_path / "taken").write_text("")
    place = output if "/" in output else str(tmp_path / output)
    with pytest.raises(kind):
        serve(tiny(), nodes, **{"output-dir": place, "resume": resume, "failure-file": str(tmp_path / "failure.json")})
    failure = json.loads((tmp_path / "failure.json").read_text())
    assert failure["type"] == kind.__name__
    assert output in failure["message"]
