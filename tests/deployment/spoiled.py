"""A device whose answers to copies are malformed: what its processes have in the place of their app."""

from __future__ import annotations

import hashlib
import json
import os
import random
from pathlib import Path
from typing import Any

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Error, Message, RecordDict

from fedrec.flower import deviceapp

FOLDER = "FEDREC_TEST_FOLDER"
"""The environment variable that names the folder of what happened."""

GIVEN = "given.jsonl"
COPIES = 5
PHASES = ("advert", "shares", "masked", "agree", "unmask")
HEADER = 46
"""Bytes before the body of a reply."""

Said = dict[str, Any]


def spoiled(said: Said, draw: random.Random, earlier: list[Said]) -> list[RecordDict | Error]:
    """What may leave in the place of an answer; the last one would be words of an exception.

    Args:
        said: what the answer says, its message and its signature.
        draw: of bytes and places.
        earlier: what was said in earlier phases, oldest first.
    """
    message, signature = said["message"], said["signature"]

    def form(arrays: ArrayRecord | None = None, without: str = "", **changes: Any) -> RecordDict:
        config = ConfigRecord({name: value for name, value in (said | changes).items() if name != without})
        return RecordDict({"arrays": arrays or ArrayRecord(), "config": config})

    def flipped(text: bytes, least: int, most: int) -> bytes:
        place = draw.randrange(least, most)
        return text[:place] + bytes([text[place] ^ 1]) + text[place + 1 :]

    def one(dtype: str, shape: tuple[int, ...], content: bytes) -> ArrayRecord:
        return ArrayRecord({"x": Array(dtype, shape, "numpy.ndarray", content)})

    return [
        # Of an advert
        RecordDict(),
        RecordDict({"else": ConfigRecord(said)}),
        form(without="message"),
        form(message=7),
        form(message="text"),
        # Of shares
        form(message=[b"a", b"list"]),
        form(message=message[: draw.randrange(len(message))]),
        form(message=message + draw.randbytes(9)),
        form(message=flipped(message, 0, HEADER)),
        form(**(earlier or [said])[0]),
        # Of a masked vector, where any bytes of the right length are one
        form(message=flipped(message, HEADER, len(message))),
        form(message=message[:HEADER] + draw.randbytes(len(message) - HEADER)),
        form(without="signature"),
        form(signature=draw.randbytes(64)),
        form(signature=flipped(signature, 0, 64)),
        # Of an agreement
        form(signature=64),
        form(signature=b""),
        form(protocol=1),
        form(message=draw.randbytes(1 << 24)),
        form(**(earlier or [said])[-1]),
        # Of what opens the sum
        form(ArrayRecord({"x": Array(np.full(5, np.nan))})),
        form(one("float64", (2**40,), b"few")),
        form(one("object", (3,), b"pickle")),
        Error(2, "words"),
    ]


class Spoiling(deviceapp.DeviceApp):
    """The device's own answers, each written down; those to copies leave spoiled."""

    def __call__(self, message: Message, context: Context) -> Message:
        answer, notes = super().__call__(message, context), Path(os.environ[FOLDER], GIVEN)
        said, text = (
            dict(answer.content.config_records["config"]),
            answer.content.config_records["config"].get("message"),
        )
        if not isinstance(text, bytes):
            return answer
        held = [json.loads(line) for line in notes.read_text().splitlines()] if notes.exists() else []
        phase = message.metadata.message_type.removeprefix("train.")
        copy = message.content.config_records["config"].get("copy", 0)
        line = {"phase": phase, "copy": copy, "sha256": hashlib.sha256(text).hexdigest(), "said": _plain(said)}
        with notes.open("a") as file:
            file.write(json.dumps(line) + "\n")
        if not isinstance(copy, int) or not copy:
            return answer
        number = COPIES * PHASES.index(phase) + copy - 1
        earlier = [_bytes(line["said"]) for line in held if line["phase"] != phase]
        choice = spoiled(said, random.Random(number), earlier)  # noqa: S311 - a case, no secret
        if number == len(choice):
            raise RuntimeError("what a device never says to its server")
        return Message(choice[number], reply_to=message)


def _plain(said: Said) -> Said:
    return {name: value.hex() if isinstance(value, bytes) else value for name, value in said.items()}


def _bytes(said: Said) -> Said:
    return {name: bytes.fromhex(value) if isinstance(value, str) else value for name, value in said.items()}


def spoil() -> None:
    """Put it in the place of this process's app."""
    deviceapp.app = Spoiling()
