"""A device's ClientApp: whatever comes in, a reply of the handler goes out, or the one constant."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict

from fedrec.device import preparation
from fedrec.device.answers import Question
from fedrec.device.supernode import DEVICE_HOME
from fedrec.flower import deviceapp
from fedrec.flower.codec import encode
from fedrec.secagg.messages import Phase
from tests.device.fleet import Fleet

CONSTANT = {"protocol": 2, "refused": 1}

LIGHT = """
import json, sys
import flwr.clientapp, flwr.supernode.runtime.run_clientapp
before = set(sys.modules)
import fedrec.flower.deviceapp, fedrec.models.mf, fedrec.models.gram
print(json.dumps(sorted({name.partition(".")[0] for name in set(sys.modules) - before})))
"""


@pytest.fixture
def fleet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Fleet:
    made = Fleet(tmp_path)
    made.clock.now = time.time()
    monkeypatch.setenv(DEVICE_HOME, str(made.homes[1].root))
    return made


def message(content: RecordDict, kind: str) -> Message:
    made = Message(content, dst_node_id=1, message_type=kind)
    made.metadata.__dict__["_message_id"] = made.object_id
    return made


def ask(content: RecordDict, kind: str, experiment: str = "") -> Message:
    context = Context(run_id=1, node_id=1, node_config={}, state=RecordDict(), run_config={"experiment": experiment})
    return deviceapp.app(message(content, kind), context)


def of(question: Question) -> RecordDict:
    config = {"request": question.request, "message": question.message}
    return encode(question.arrays, config | ({"roster": question.roster} if question.roster else {}))


def config_of(reply: Message) -> dict[str, Any]:
    """All that a reply holds, if it is no array."""
    assert not reply.has_error()
    assert not any(reply.content.array_records.values())
    assert not reply.content.metric_records
    return dict(reply.content.config_records["config"])


def test_an_honest_question_gets_the_handlers_answer(fleet: Fleet) -> None:
    server = fleet.server()
    question = fleet.question(fleet.request("advert"), server.routes[1])
    reply = config_of(ask(of(question), "train.advert", fleet.text))
    given = fleet.handler(1).answer(question)
    assert reply == {"protocol": 2, "message": given.message, "signature": given.signature}


def test_the_same_masked_question_gets_the_same_bytes_and_one_charge(fleet: Fleet) -> None:
    server = fleet.until(Phase.MASKED)
    question = fleet.question(fleet.request("masked"), server.routes[1])
    first, second = (config_of(ask(of(question), "train.masked", fleet.text)) for _ in range(2))
    assert first == second
    assert set(first) == {"protocol", "message", "signature"}
    assert len(fleet.charges(1)) == 1


def test_a_refusal_says_nothing_but_that_it_is_one(fleet: Fleet) -> None:
    fleet.set_policy(1, "opt_in = false")
    question = fleet.question(fleet.request("advert"), fleet.server().routes[1])
    assert config_of(ask(of(question), "train.advert", fleet.text)) == CONSTANT
    assert fleet.codes(1) == ["opted-out"]


def huge() -> RecordDict:
    data = ArrayRecord({f"a{i}": Array(np.zeros(1, np.float32)) for i in range(65)})
    return RecordDict({"arrays": data, "config": ConfigRecord({"protocol": 2, "request": b"", "message": b""})})


def wrong(**config: Any) -> Callable[[], RecordDict]:
    return lambda: RecordDict({"config": ConfigRecord({"protocol": 2, "request": b"", "message": b"", **config})})


@pytest.mark.parametrize("kind", ["train.advert", "train.masked", "train", "query", "evaluate", "train.nothing"])
@pytest.mark.parametrize(
    "content",
    [
        RecordDict,
        huge,
        wrong(),
        wrong(request="text"),
        wrong(message=[b"a", b"list"]),
        wrong(message=b"x" * (1 << 24), request=b"x"),
        wrong(protocol=1),
        lambda: RecordDict({"config": MetricRecord({"protocol": 2})}),
    ],
    ids=["empty", "many arrays", "no signature", "text", "list", "large", "protocol", "metrics"],
)
def test_nonsense_gets_the_one_constant(fleet: Fleet, content: Callable[[], RecordDict], kind: str) -> None:
    assert config_of(ask(content(), kind, fleet.text)) == CONSTANT
    assert not fleet.charges(1)


def test_without_a_device_there_is_the_one_constant(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(DEVICE_HOME, raising=False)
    assert config_of(ask(wrong()(), "train.advert")) == CONSTANT


@pytest.mark.parametrize(("trust", "kind"), [("distributed", "train.advert"), ("local", "train")])
def test_the_first_question_waits_until_the_agent_has_prepared_the_experiment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, trust: str, kind: str
) -> None:
    fleet = Fleet(tmp_path, [f"privacy.trust={trust}"])
    fleet.clock.now = time.time()
    monkeypatch.setenv(DEVICE_HOME, str(fleet.homes[1].root))
    with fleet.homes[1].open_store() as store:
        store.remove(f"calibration-{fleet.experiment.digest()}")
    prepared: list[str] = []

    def agent() -> None:
        with fleet.homes[1].open_store() as store:
            while not (waiting := preparation.wanted(store)):
                time.sleep(0.05)
            preparation.prepare(store, waiting[0])
        prepared.extend(waiting)

    thread = threading.Thread(target=agent)
    thread.start()
    message = fleet.server().routes[1] if trust == "distributed" else b""
    phase = kind.rpartition(".")[2]
    question = fleet.question(fleet.request(phase), message, roster=fleet.roster.text)
    reply = ask(of(question), kind, fleet.text)
    thread.join()
    assert prepared == [fleet.text]
    assert set(reply.content.config_records["config"]) == {"protocol", "message", "signature"}
    assert len(fleet.charges(1)) == (trust == "local")


def test_a_device_that_nobody_prepares_refuses_in_time(fleet: Fleet, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(deviceapp, "PREPARATION_SHARE", 0.01)  # of the default minute
    with fleet.homes[1].open_store() as store:
        store.remove(f"calibration-{fleet.experiment.digest()}")
    question = fleet.question(fleet.request("advert"), fleet.server().routes[1])
    assert config_of(ask(of(question), "train.advert", fleet.text)) == CONSTANT
    assert fleet.codes(1) == ["unprepared"]  # once, however often it was tried


def test_it_loads_nothing_heavy_that_flower_does_not() -> None:
    done = subprocess.run([sys.executable, "-c", LIGHT], capture_output=True, text=True, check=True)
    loaded = set(json.loads(done.stdout))
    assert loaded.isdisjoint(
        {"torch", "scipy", "dp_accounting", "opacus", "fastapi", "uvicorn", "httpx", "typer", "rich", "sqlalchemy"}
    )
