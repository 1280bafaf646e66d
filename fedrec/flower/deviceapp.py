"""The ClientApp of a device: a message comes in, the device's own handler answers or refuses, nothing else goes out."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from logging import getLogger
from pathlib import Path
from typing import Any, Final

from flwr.app import Context, Message
from flwr.clientapp import ClientApp

from fedrec.agreements.request import PHASES
from fedrec.device.handler import Answer, Handler, Question
from fedrec.device.home import DeviceHome
from fedrec.device.preparation import experiment_of
from fedrec.device.refusals import Code
from fedrec.device.supernode import DEVICE_HOME
from fedrec.errors import ContributionError, DeviceError, Refusal
from fedrec.flower.codec import decode, encode

REFUSED: Final[Mapping[str, int]] = {"refused": 1}
"""All that a server learns of a message that is not answered."""

PREPARATION_SHARE: Final = 0.5
"""The part of a phase's public deadline for which a first question waits until the experiment is prepared."""

_FIRST: Final = ("advert", "train")

_KINDS: Final = {"train" if phase == "train" else f"train.{phase}": phase for phase in PHASES}
_MAX_ARRAYS, _MAX_ARRAY_BYTES, _MAX_TEXT_BYTES = 64, 1 << 29, 1 << 28

_log = getLogger("fedrec")


class DeviceApp(ClientApp):
    """Every message, of whatever type, is answered here.

    Guarantees:
        What leaves is a reply of the handler, or one constant: Flower would send an exception's words to the server. A
        refusal's reason stays in the device's store, an error's in its log. Flower adds how long the process ran.
    """

    def __call__(self, message: Message, context: Context) -> Message:
        """The reply to one message."""
        try:
            answer = _answer(message, context)
            content = encode(answer.arrays, {"message": answer.message, "signature": answer.signature})
        except Refusal as refusal:
            _log.warning("refused (%s): %s", refusal.code, refusal.detail)
            content = encode({}, REFUSED)
        except Exception:
            _log.exception("refused: a message that cannot be answered")
            content = encode({}, REFUSED)
        return Message(content, reply_to=message)


app = DeviceApp()


def _answer(message: Message, context: Context) -> Answer:
    phase = _KINDS.get(message.metadata.message_type)
    if phase is None:
        raise ContributionError("The message is of no phase that a device answers.")
    root = os.environ.get(DEVICE_HOME)
    if not root:
        raise DeviceError(f"{DEVICE_HOME} names no folder; start the device with 'fedrec device run'.")
    _bound(message)
    packet = decode(message)
    question = Question(
        phase=phase,
        experiment=str(context.run_config["experiment"]),
        request=packet.blob("request"),
        message=packet.blob("message"),
        roster=packet.blob("roster") if "roster" in packet.config else b"",
        arrays=packet.arrays,
    )
    return _once_prepared(Handler(DeviceHome.open(Path(root))), question)


def _once_prepared(handler: Handler, question: Question) -> Answer:
    """The first question of an attempt waits until the agent has prepared what the handler noted as wished; the time
    that it may take is the experiment's, which the handler has found to be signed.
    """
    begun = time.monotonic()
    while True:
        try:
            return handler.answer(question)
        except Refusal as refusal:
            if refusal.code != Code.UNPREPARED or question.phase not in _FIRST:
                raise
            deployment = experiment_of(question.experiment).deployment
            deadline = 0.0 if deployment is None else PREPARATION_SHARE * deployment.deadline
            if time.monotonic() - begun >= deadline:
                raise
        time.sleep(0.5)


def _bound(message: Message) -> None:
    """Refuse what no server of fedrec sends, before any of it is read."""
    arrays = [array for record in message.content.array_records.values() for array in record.values()]
    if len(arrays) > _MAX_ARRAYS or sum(len(array.data) for array in arrays) > _MAX_ARRAY_BYTES:
        raise ContributionError("The message's arrays are larger than any model's.")
    values: list[Any] = [value for record in message.content.config_records.values() for value in record.values()]
    if any(not isinstance(value, bytes | int) for value in values):
        raise ContributionError("The message holds values that no phase has.")
    if sum(len(value) for value in values if isinstance(value, bytes)) > _MAX_TEXT_BYTES:
        raise ContributionError("The message's texts are larger than any request.")
