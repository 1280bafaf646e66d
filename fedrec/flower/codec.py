"""What crosses the wire: named arrays and a flat config, checked on both sides."""

from __future__ import annotations

import io
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, RecordDict

from fedrec.errors import ContributionError

PROTOCOL = 2
"""Both sides refuse a message of another version."""

_ARRAYS, _CONFIG = "arrays", "config"
_DTYPES = ("float32", "float64", "int32", "int64", "uint32", "uint64")

Value = int | float | str | bool | bytes


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

    def blob(self, name: str) -> bytes:
        """A byte string of the config.

        Raises:
            ContributionError: if it is absent or none.
        """
        value = self.config.get(name)
        if not isinstance(value, bytes):
            raise ContributionError(f"the message's '{name}' is no byte string")
        return value


def encode(arrays: Mapping[str, npt.NDArray[Any]], config: Mapping[str, Value]) -> RecordDict:
    """Pack arrays and flat values into a message's content."""
    return with_config(record(arrays), config)


def record(arrays: Mapping[str, npt.NDArray[Any]]) -> ArrayRecord:
    """Arrays as Flower carries them."""
    return ArrayRecord({name: Array(np.ascontiguousarray(array)) for name, array in arrays.items()})


def with_config(arrays: ArrayRecord, config: Mapping[str, Value]) -> RecordDict:
    """A message's content from packed arrays and flat values."""
    return RecordDict({_ARRAYS: arrays, _CONFIG: ConfigRecord({"protocol": PROTOCOL, **config})})


def decode(message: Message) -> Packet:
    """Unpack a message.

    Raises:
        ContributionError: for an error message, missing records, another protocol version or an array that is not what
            it says.
    """
    if message.has_error():
        raise ContributionError(f"the node answered with error {message.error.code}")
    if not message.has_content():
        raise ContributionError("the message is empty")
    config = message.content.config_records.get(_CONFIG)
    if config is None or config.get("protocol") != PROTOCOL:
        spoken = None if config is None else config.get("protocol")
        raise ContributionError(f"the message speaks protocol {spoken!r}, not {PROTOCOL}; install the same fedrec")
    arrays = message.content.array_records.get(_ARRAYS, ArrayRecord())
    return Packet({name: _array(name, array) for name, array in arrays.items()}, dict(config))


def _array(name: str, array: Array) -> npt.NDArray[Any]:
    """The numbers of an array, read-only.

    A node's bytes are compared with the one header that its declared type and shape can have, and never parsed:
    NumPy's own reader evaluates a header, unpacks zip files and allocates what a header claims.
    """
    if array.dtype not in _DTYPES:
        raise ContributionError(f"the array '{name}' holds {array.dtype}, not numbers")
    dtype, header = np.dtype(array.dtype), io.BytesIO()
    np.lib.format.write_array_header_1_0(
        header, {"descr": dtype.str, "fortran_order": False, "shape": tuple(array.shape)}
    )
    start = header.tell()
    size = start + math.prod(array.shape) * dtype.itemsize
    if min(array.shape, default=0) < 0 or len(array.data) != size or array.data[:start] != header.getvalue():
        raise ContributionError(f"the array '{name}' is not {array.dtype} of shape {tuple(array.shape)} as it says")
    return np.frombuffer(array.data, dtype, offset=start).reshape(array.shape)
