"""All that leaves a device, on Flower's way and to the gateway, byte by byte: nothing in it tells of the history."""

from __future__ import annotations

import base64
import shutil
import struct
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from flwr.app import ConfigRecord, Context, Message, RecordDict
from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects
from flwr.supercore.task_identity import TaskIdentity
from starlette.types import Message as Event
from starlette.types import Receive, Scope, Send

from fedrec.deployment.gateway import Gateway
from fedrec.device import history, rounds
from fedrec.device.gateway import enrol, sync
from fedrec.device.home import DeviceHome
from fedrec.device.supernode import DEVICE_HOME
from fedrec.flower import deviceapp
from fedrec.flower.codec import encode
from fedrec.secagg.messages import Phase
from tests.deployment.world import new_device, world
from tests.device.fleet import Fleet
from tests.flower.deployed import Deployment

FEW, MANY = 1, 1_009
"""What two users have met; the larger number is unlikely to turn up by chance."""
TIME = 1_700_123_456
TEXTS = ("item-7", "item-11", "a title nobody else knows", "loss=0.6931")
NUMBERS = (MANY, TIME)


def encodings() -> Iterator[bytes]:
    """The secrets as a program might write them, by themselves or in the midst of something."""
    texts = [text.encode() for text in TEXTS] + [str(number).encode() for number in NUMBERS]
    for text in texts:
        yield from (text, text.decode().encode("utf-16-le"), text.hex().encode())
        for shift in range(3):  # base64 reads three bytes at a time: the middle is the same wherever they begin
            yield base64.b64encode(bytes(shift) + text)[4 if shift else 0 : -4] or text
    for number in NUMBERS:
        for form in ("<i", ">i", "<q", ">q", "<d", ">d", "<f", ">f"):
            yield struct.pack(form, number)


def holding(sent: bytes) -> list[bytes]:
    return [secret for secret in encodings() if secret in sent]


def on_the_wire(sent: Message | RecordDict) -> bytes:
    """Everything that Flower would carry of a message or its content, but for the hashes by which it names parts of it:
    those are of what is looked at here, and would hold any four digits by chance.
    """
    parts = get_all_nested_objects(sent)
    whole = b"".join(parts[name].deflate() for name in sorted(parts))
    for name in parts:
        whole = whole.replace(name.encode(), b"")
    return whole


@pytest.fixture(autouse=True)
def _identity(monkeypatch: pytest.MonkeyPatch) -> None:
    """Messages carry the identity of the process that made them, which Flower's runtime gives it."""
    for name in ("_task_id", "_run_id", "_node_id"):
        monkeypatch.setattr(TaskIdentity, name, 1)


def remember(home: DeviceHome, times: int, catalogue: tuple[str, ...]) -> None:
    """Put a history in the place of the one that is there."""
    with home.open_store() as store:
        with store.transaction() as connection:
            connection.execute("DELETE FROM interactions")
        for number in range(times):
            history.record(store, catalogue[number % len(catalogue)], at=TIME + number, rating=5.0)


def test_the_search_finds_what_it_is_for() -> None:
    assert holding(b"..." + b"item-7")
    assert holding(base64.b64encode(b"xy" + b"a title nobody else knows" + b"z"))
    assert holding(b"\0" + struct.pack("<q", MANY))
    assert not holding(b"item-" + bytes(100))
    leak = RecordDict({"config": ConfigRecord({"note": "item-7"})})
    assert holding(on_the_wire(leak))


def test_what_flower_carries_is_the_same_in_form_and_size_whatever_was_met(tmp_path: Path) -> None:
    deployment = Deployment(tmp_path, federation={"rounds": 2})
    for number, times in ((1, FEW), (2, MANY)):
        remember(deployment.devices[number], times, ("item-7", "item-11"))
    sent: dict[tuple[str, int], list[Message]] = defaultdict(list)

    def capture(number: int, asked: Message, answer: Message) -> list[Message]:
        sent[asked.metadata.message_type, number].append(answer)
        return [answer]

    deployment.tamper = capture
    deployment.train()
    kinds = {kind for kind, _ in sent}
    assert kinds == {f"train.{phase}" for phase in ("advert", "shares", "masked", "agree", "unmask")}
    for (kind, number), answers in sent.items():
        assert len(answers) == (1 if kind == "train.advert" else 2)
        for answer, other in zip(answers, sent[kind, 1], strict=True):
            assert set(answer.content) == {"arrays", "config"}
            assert not any(answer.content.array_records.values())
            assert set(answer.content.config_records["config"]) == {"protocol", "message", "signature"}
            assert not holding(on_the_wire(answer)), (kind, number)
            assert len(on_the_wire(answer)) == len(on_the_wire(other)), (kind, number)


Failure = Callable[[DeviceHome, pytest.MonkeyPatch], object]


def talkative(_: DeviceHome, patch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise ValueError(f"no row for {TEXTS}, {MANY} interactions")

    patch.setattr(rounds, "contribution", fail)


def spent(device: DeviceHome, _: pytest.MonkeyPatch) -> None:
    text = device.policy_path.read_text()
    device.policy_path.write_text(text.replace("epsilon_total = 40.0", "epsilon_total = 0.001"))


FAILURES: dict[str, Failure] = {
    "an exception that tells it all": talkative,
    "a policy that says no": lambda device, _: device.policy_path.write_text("opt_in = false\n"),
    "a policy that cannot be read": lambda device, _: device.policy_path.write_text("[a title nobody else knows"),
    "a budget that is spent": spent,
    "a store that is damaged": lambda device, _: device.store_path.write_bytes(b"item-7" * 1000),
    "a store that is gone": lambda device, _: device.store_path.rename(device.root / "item-7"),
    "a hook that says no": lambda device, _: device.policy_path.write_text(
        device.policy_path.read_text() + 'hook = ["false"]\n'
    ),
}


def test_every_refusal_is_the_same_to_the_byte_whatever_went_wrong(tmp_path: Path) -> None:
    fleet = Fleet(tmp_path / "fleet")
    fleet.clock.now = time.time()
    remember(fleet.homes[1], MANY, ("item-7", "item-11"))
    asked = fleet.question(fleet.request("masked"), fleet.until(Phase.MASKED).routes[1])
    content = encode(asked.arrays, {"request": asked.request, "message": asked.message})
    refusals = set()
    for place, fail in enumerate(FAILURES.values()):
        device = DeviceHome(shutil.copytree(fleet.homes[1].root, tmp_path / str(place)))
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv(DEVICE_HOME, str(device.root))
            fail(device, patch)
            refusals.add(replied(content, fleet.text))
    (refusal,) = refusals
    assert not holding(refusal)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(DEVICE_HOME, str(fleet.homes[1].root))
        assert replied(content, fleet.text) != refusal, "the question itself was good"


def replied(content: RecordDict, experiment: str) -> bytes:
    """All that is in a device's reply."""
    message = Message(content, dst_node_id=1, message_type="train.masked")
    message.metadata.__dict__["_message_id"] = message.object_id
    context = Context(run_id=1, node_id=1, node_config={}, state=RecordDict(), run_config={"experiment": experiment})
    return on_the_wire(deviceapp.app(message, context).content)


def test_what_the_gateway_hears_is_the_same_whatever_was_met(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    heard: list[tuple[Scope, bytearray]] = []
    genuine = Gateway.__call__

    async def listening(self: Gateway, scope: Scope, receive: Receive, send: Send) -> None:
        body = bytearray()

        async def overheard() -> Event:
            event = await receive()
            body.extend(event.get("body", b""))
            return event

        if scope["type"] == "http":  # now: when the call has ended, its client is already on with the next
            heard.append((scope, body))
        await genuine(self, scope, overheard, send)

    monkeypatch.setattr(Gateway, "__call__", listening)
    calls = {}
    with world(tmp_path / "world") as here:
        items = tuple(map(str, here.home.catalogue().ids[:2]))
        for times in (FEW, MANY):
            device = new_device(tmp_path / f"device-{times}")
            remember(device, times, (*items, *TEXTS))
            heard.clear()
            enrol(device, here.home.invitation(here.invite()))
            sync(device)
            sync(device)
            calls[times] = [(scope, bytes(body)) for scope, body in heard]
    assert len(calls[FEW]) == len(calls[MANY]) > 5
    for (one, body), (other, other_body) in zip(calls[FEW], calls[MANY], strict=True):
        assert (one["method"], one["raw_path"], one["query_string"]) == (
            other["method"],
            other["raw_path"],
            other["query_string"],
        )
        assert [(name, len(value)) for name, value in one["headers"]] == [
            (name, len(value)) for name, value in other["headers"]
        ]
        assert len(body) == len(other_body)
        whole = other["raw_path"] + b"".join(name + value for name, value in other["headers"]) + other_body
        assert not holding(whole)
