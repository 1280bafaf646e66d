"""Ten thousand malformed replies of one device, through Flower's messages, the codec and the server of an attempt."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, RecordDict

from fedrec.deployment import training
from fedrec.flower.codec import PROTOCOL
from fedrec.reporting.folder import RunFolder
from tests.flower.deployed import Deployment

PHASES, EACH = 5, 2_000
HEADER = 46
"""Bytes before the body of a reply; a body of the right length is a vector, whatever it says, and no malformed one."""


def mangled(text: bytes, draw: random.Random) -> RecordDict:
    """A reply's content with something wrong in its form."""
    value: int | str | bytes | list[int] = text
    config: dict[str, int | str | bytes | list[int]] = {"protocol": PROTOCOL}
    arrays = ArrayRecord()
    match draw.randrange(8):
        case 0:
            value = draw.randbytes(draw.randrange(300))
        case 1:
            value = text[: draw.randrange(len(text))]
        case 2:
            value = text + draw.randbytes(draw.randrange(1, 50))
        case 3:
            place = draw.randrange(HEADER)
            value = text[:place] + bytes([text[place] ^ (1 << draw.randrange(8))]) + text[place + 1 :]
        case 4:
            wrong: list[int | str | list[int]] = [draw.randrange(-(2**63), 2**63), "text", [1, 2, 3]]
            value = draw.choice(wrong)
        case 5:
            config["protocol"] = draw.choice([0, 1, 2**40])
        case 6:
            bad = Array("float64", (draw.randrange(5), 2**40), "numpy.ndarray", draw.randbytes(40))
            arrays = ArrayRecord({"x": bad})
        case 7:
            return RecordDict({"config" if draw.random() < 0.5 else "else": ConfigRecord({"n": 1})})
    config["message"] = value
    return RecordDict({"arrays": arrays, "config": ConfigRecord(config)})  # type: ignore[arg-type] # wrong types too


@pytest.mark.slow
def test_ten_thousand_malformed_replies_are_rejected_and_the_round_goes_on(tmp_path: Path) -> None:
    deployment = Deployment(tmp_path)
    draw = random.Random(1)  # noqa: S311 - a case, no secret
    sent = 0

    def flood(number: int, asked: Message, answer: Message) -> list[Message]:
        nonlocal sent
        if number != 3:
            return [answer]
        text = answer.content.config_records["config"]["message"]
        assert isinstance(text, bytes)
        sent += EACH
        return [*(Message(mangled(text, draw), reply_to=asked) for _ in range(EACH)), answer]

    deployment.tamper = flood
    deployment.train()
    assert sent >= 10_000
    lines = [json.loads(line) for line in (deployment.home.logs / training.LOG).read_text().splitlines()]
    # Every malformed one was rejected: the good one at the end is the one that counts.
    assert [line["answered"] for line in lines if line["event"] == "phase"] == [4] * PHASES
    assert RunFolder.open(deployment.home.run).rounds()[0]["survivors"] == 4
