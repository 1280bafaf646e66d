"""What the grids of tests have in common: messages are handed over in this process, and replies come in any order."""

from __future__ import annotations

import random
import uuid
from collections.abc import Iterable
from typing import Any

from flwr.app import Message, Metadata
from flwr.serverapp import Grid


class InProcess(Grid):
    """Flower's grid without Flower; what makes a reply is a subclass's."""

    def __init__(self, order: int = 1) -> None:
        self.shuffle = random.Random(order)  # noqa: S311 - an order, no secret
        self._inbox: dict[str, Message] = {}

    def replies(self, asked: Message) -> list[Message]:
        """What comes back of one message."""
        raise NotImplementedError

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        return [self._delivered(message) for message in messages]

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        asked = [self._inbox.pop(name) for name in sorted(message_ids) if name in self._inbox]
        self.shuffle.shuffle(asked)
        return [reply for message in asked for reply in self.replies(message)]

    def _delivered(self, message: Message) -> str:
        meta, name = message.metadata, uuid.UUID(int=self.shuffle.getrandbits(128)).hex
        numbered = Metadata(
            1, name, 1, meta.dst_node_id, "", meta.group_id, meta.created_at, meta.ttl, meta.message_type
        )
        self._inbox[name] = Message(message.content, metadata=numbered)  # type: ignore[call-overload] # as Flower's own grids do
        return name

    def set_run(self, run: Any) -> None:
        raise NotImplementedError

    @property
    def run(self) -> Any:
        raise NotImplementedError

    def create_message(self, *args: Any, **kwargs: Any) -> Message:
        raise NotImplementedError

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterable[Message]:
        raise NotImplementedError
