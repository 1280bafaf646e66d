"""Malformed messages both ways: a server that asks them between its honest ones, and a device that answers with them.

The ServerApp of an app that the devices' server has signed: it trains as the server's own does, but over a grid that
first asks every device malformed questions, made from the honest ones, and asks one device for copies of its answers,
which that device spoils on their way out (`tests.deployment.spoiled`).
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import time
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Message, RecordDict
from flwr.serverapp import Grid, ServerApp

from fedrec.agreements.request import PURPOSE, model_digest, request_of, sign_request
from fedrec.agreements.statement import opened
from fedrec.deployment.home import ServerHome
from fedrec.deployment.superlink import HOME
from fedrec.deployment.training import append
from fedrec.flower import deployapp, transport
from fedrec.flower.codec import decode, record
from fedrec.secagg.server import Server
from tests.deployment.spoiled import COPIES, FOLDER

ASKED, TAKEN = "asked.json", "taken.jsonl"
LIAR = 1
"""The device that is asked for copies of each of its answers of round 1."""


class Case(NamedTuple):
    """A malformed question.

    Attributes:
        name: what is wrong with it.
        content: of the message.
        code: why a device refuses it, for its owner; empty where it is no question at all, and kept nowhere.
        kind: the message's type.
    """

    name: str
    content: RecordDict
    code: str = ""
    kind: str = "train.masked"


def cases(before: Message, asked: Message, number: int, key: Ed25519PrivateKey, draw: random.Random) -> list[Case]:
    """Malformed questions made from two honest ones to one device.

    Args:
        before: of phase ``shares``, which was answered.
        asked: of phase ``masked``, which has not been asked yet.
        number: the device's.
        key: signs requests.
        draw: of bytes and places.
    """
    config, arrays = dict(asked.content.config_records["config"]), asked.content.array_records["arrays"]
    text, message, model = config["request"], config["message"], decode(asked).arrays
    assert isinstance(text, bytes)
    assert isinstance(message, bytes)
    honest = request_of(opened(text, PURPOSE, key.public_key().public_bytes_raw()))

    def form(name: str, code: str = "", held: ArrayRecord = arrays, kind: str = "train.masked", **changes: Any) -> Case:
        config_ = {name: value for name, value in (config | changes).items() if value is not None}
        return Case(name, RecordDict({"arrays": held, "config": ConfigRecord(config_)}), code, kind)

    def signed(name: str, code: str, by: Ed25519PrivateKey = key, **changes: Any) -> Case:
        return form(name, code, request=sign_request(replace(honest, **changes), by))

    def of(name: str, changed: Mapping[str, Any]) -> Case:
        request = sign_request(replace(honest, model=model_digest(changed)), key)
        return form(name, "arrays", record(changed), request=request)

    first, noise = sorted(model)[0], draw.randbytes(40)
    place, now, others = draw.randrange(len(text)), int(time.time()), tuple(w for w in honest.cohort if w != number)
    flipped = text[:place] + bytes([text[place] ^ (1 << draw.randrange(7))]) + text[place + 1 :]
    earlier = dict(before.content.config_records["config"])
    return [
        Case("empty", RecordDict()),
        Case("without a config", RecordDict({"arrays": arrays})),
        form("without a request", request=None),
        form("a number for a request", request=draw.randrange(2**62)),
        form("a text for a message", message="text"),
        form("a list for a message", message=[b"a", b"b"]),
        form("of another protocol", protocol=1),
        form("with too many arrays", held=ArrayRecord({f"a{i}": Array(np.zeros(1, np.float32)) for i in range(65)})),
        form("with an array of more than it has", held=ArrayRecord({first: Array("float32", (2**40,), "", noise)})),
        form("with an array of objects", held=ArrayRecord({first: Array("object", (5,), "numpy.ndarray", noise)})),
        form("of no kind", kind="train.nothing"),
        form("as a query", kind="query"),
        form("with a request that is cut", "signature", request=text[: draw.randrange(len(text))]),
        form("with a request of another byte", "signature", request=flipped),
        form("with noise for a request", "signature", request=draw.randbytes(500)),
        signed("signed by another key", "signature", by=Ed25519PrivateKey.generate()),
        form("as another phase", "phase", kind="train.agree"),
        signed("expired", "expired", expires=now - 1),
        signed("of tomorrow", "clock", expires=now + 86_400),
        signed("of another roster", "roster", roster=draw.randbytes(32).hex()),
        signed("of another mechanism", "mechanism", mechanism=draw.randbytes(32).hex()),
        signed("of another experiment", "experiment", experiment=draw.randbytes(32).hex()),
        signed("of a cohort without this device", "cohort", cohort=(*others, 10_000)),
        signed("of too small a cohort", "cohort", cohort=(number,)),
        signed("of an attempt that did not begin", "step", attempt=honest.attempt + 1),
        signed("of an attempt too many", "step", attempt=10**6),
        signed("of a round too many", "round", round=10**6),
        form("with another model than it is signed for", "arrays", record({first: model[first] + 1})),
        of("with a model that is not finite", {**model, first: np.full_like(model[first], np.nan)}),
        of("with a model of another shape", {**model, first: model[first][:-1]}),
        of("without a model", {}),
        form("with a message that is cut", "step", message=message[: draw.randrange(len(message))]),
        form("with a large message", "step", message=draw.randbytes(1 << 24)),
        form("with the message of an earlier phase", "step", message=earlier["message"]),
        form("of an earlier phase anew", "step", ArrayRecord(), "train.shares", **{**earlier, "message": noise}),
    ]


class Intruding:
    """The grid of a server that asks malformed questions too.

    Args:
        grid: Flower's.
        home: the server's.
        folder: for what happens.
    """

    def __init__(self, grid: Grid, home: ServerHome, folder: Path) -> None:
        self._grid, self._key, self._folder, self._registry = grid, home.key("request"), folder, home.registry()
        self._last: dict[int, Message] = {}
        self._asked = False

    @property
    def _numbers(self) -> dict[int, int]:
        """The devices' numbers by their nodes; they enrol while this runs."""
        return {int(one.node_id): one.number for one in self._registry.active() if one.node_id is not None}

    def get_node_ids(self) -> Iterable[int]:
        return self._grid.get_node_ids()

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        return self._grid.pull_messages(message_ids)

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Copies for the liar first, in round 1; before the first vectors, all the malformed questions."""
        honest = list(messages)
        if not self._asked and honest[0].metadata.message_type == "train.masked":
            self._asked = True
            self._ask(honest)
        self._last = {message.metadata.dst_node_id: message for message in honest}
        return self._grid.push_messages([*self._copies(honest), *map(_anew, honest)])

    def _copies(self, honest: list[Message]) -> Iterable[Message]:
        for message in honest:
            meta = message.metadata
            if meta.group_id == "1" and self._numbers[meta.dst_node_id] == LIAR:
                for copy in range(1, COPIES + 1):
                    config = ConfigRecord({**message.content.config_records["config"], "copy": copy})
                    yield _anew(message, RecordDict({**message.content, "config": config}))

    def _ask(self, honest: list[Message]) -> None:
        """Every case once, of one device after the other; each is answered by a process of its own."""
        sent: dict[int, list[Case]] = defaultdict(list)
        asked = []
        for number, message in enumerate(honest):
            node = message.metadata.dst_node_id
            draw = random.Random(node)  # noqa: S311 - cases, no secrets
            own = cases(self._last[node], message, self._numbers[node], self._key, draw)[number :: len(honest)]
            sent[node] = own
            asked += [Message(case.content, node, case.kind, group_id="malformed", ttl=240) for case in own]
        said = defaultdict(list)
        for reply in transport.exchange(self._grid, asked, 240):
            said[reply.metadata.src_node_id].append(content_of(reply))
        found = [
            {"device": self._numbers[node], "cases": [[case.name, case.code] for case in own], "said": said[node]}
            for node, own in sent.items()
        ]
        (self._folder / ASKED).write_text(json.dumps({"until": time.time(), "devices": found}))


def content_of(reply: Message) -> Any:
    """All that a reply says."""
    if reply.has_error():
        return [reply.error.code, reply.error.reason]
    arrays = {name: list(held) for name, held in reply.content.array_records.items() if held}
    return arrays or {name: dict(held) for name, held in reply.content.config_records.items()}


def _anew(message: Message, content: RecordDict | None = None) -> Message:
    """A message as if made now: it may have waited here."""
    meta = message.metadata
    given = message.content if content is None else content
    return Message(given, meta.dst_node_id, meta.message_type, group_id=meta.group_id, ttl=meta.ttl)


app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """The server's own training, over the intruding grid; what is taken into an attempt is written down."""
    home, folder, receive = ServerHome.open(Path(os.environ[HOME])), Path(os.environ[FOLDER]), Server.receive

    def noted(server: Server, who: int, reply: bytes) -> None:
        phase = server.phase.name.lower()
        receive(server, who, reply)
        append(folder / TAKEN, {"who": who, "phase": phase, "sha256": hashlib.sha256(reply).hexdigest()})

    Server.receive = noted  # type: ignore[method-assign,assignment] # this process has no other use
    deployapp.main(Intruding(grid, home, folder), context)  # type: ignore[arg-type] # all that is used of a grid
