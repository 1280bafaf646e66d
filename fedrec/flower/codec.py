"""What crosses the wire: named arrays and a flat config, checked on both sides."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, RecordDict

from fedrec.errors import ContributionError

PROTOCOL = 1
"""Both sides refuse a message of another version."""

_ARRAYS, _CONFIG = "arrays", "config"
_KINDS = ("f", "i")

Value = int | float | str | bool


@dataclass(frozen=True)
class Packet:
    """A message's content: arrays by name and flat values."""

    arrays: Mapping[str, npt.NDArray[Any]]
    config: Mapping[str, Any]

    def number(self, name: str) -> int:
        """An integer of the config.

        Raises:
            ContributionError: if it is absent or no integer.
        """
        value = self.config.get(name)
        if isinstance(value, bool) or not isinstance(value, int):
            raise ContributionError(f"the message's '{name}' is {value!r}, not an integer")
        return value


def encode(arrays: Mapping[str, npt.NDArray[Any]], config: Mapping[str, Value]) -> RecordDict:
    """Pack arrays and flat values into a message's content."""
    record = ArrayRecord({name: Array(np.ascontiguousarray(array)) for name, array in arrays.items()})
    return RecordDict({_ARRAYS: record, _CONFIG: ConfigRecord({"protocol": PROTOCOL, **config})})


def decode(message: Message) -> Packet:
    """Unpack a message.

    Raises:
        ContributionError: for an error message, missing records, another protocol version or an array that does not
            decode (object arrays never do: nothing is unpickled).
    """
    if message.has_error():
        raise ContributionError(f"the node answered with error {message.error.code}")
    if not message.has_content():
        raise ContributionError("the message is empty")
    config = message.content.config_records.get(_CONFIG)
    if config is None or config.get("protocol") != PROTOCOL:
        spoken = None if config is None else config.get("protocol")
        raise ContributionError(f"the message speaks protocol {spoken!r}, not {PROTOCOL}; install the same fedrec")
    record = message.content.array_records.get(_ARRAYS, ArrayRecord())
    return Packet({name: _array(name, array) for name, array in record.items()}, dict(config))


def _array(name: str, array: Array) -> npt.NDArray[Any]:
    try:
        value = array.numpy()
    except (TypeError, ValueError, EOFError, OSError) as error:
        raise ContributionError(f"the array '{name}' does not decode: {error}") from error
    if value.dtype.kind not in _KINDS:
        raise ContributionError(f"the array '{name}' holds {value.dtype}, not numbers")
    return value
