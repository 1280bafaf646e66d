"""What crosses the wire comes out as it went in, and nothing that a node sends can do more than be refused."""

from __future__ import annotations

import io
import os
import random
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Error, Message, RecordDict

from fedrec.errors import ContributionError
from fedrec.flower.codec import PROTOCOL, Packet, decode, encode

Numbers = npt.NDArray[Any]


def message(content: RecordDict) -> Message:
    return Message(content, 1, "train")


def forged(
    data: bytes, dtype: str = "float64", shape: tuple[int, ...] = (2, 3), stype: str = "numpy.ndarray"
) -> Message:
    """A message whose array 'x' carries these bytes."""
    content = encode({}, {})
    content["arrays"] = ArrayRecord({"x": Array(dtype, shape, stype, data)})
    return message(content)


def saved(array: Numbers, *, pickled: bool = False) -> bytes:
    file = io.BytesIO()
    np.save(file, array, allow_pickle=pickled)
    return file.getvalue()


@pytest.mark.parametrize(
    "array",
    [
        np.arange(6.0).reshape(2, 3),
        np.arange(6, dtype=np.float32).reshape(3, 2).T,  # not contiguous
        np.array([np.nan, np.inf, -0.0]),
        np.arange(5, dtype=np.int64),
        np.arange(5, dtype=np.int32),
        np.zeros((0, 7), np.float32),
        np.array(4.5),
        np.zeros((2, 1, 3, 1)),
    ],
    ids=lambda array: f"{array.dtype}{array.shape}",
)
def test_arrays_come_out_as_they_went_in(array: Numbers) -> None:
    packet = decode(message(encode({"x": array, "y": array}, {"round": 3})))
    assert set(packet.arrays) == {"x", "y"}
    for found in packet.arrays.values():
        assert found.dtype == array.dtype
        np.testing.assert_array_equal(found, array)


def test_values_come_out_as_they_went_in() -> None:
    config: dict[str, int | float | str | bool] = {"round": 3, "rate": 0.1, "name": 'a "b"\nc', "last": True}
    assert decode(message(encode({}, config))).config == {"protocol": PROTOCOL, **config}


def test_the_wire_is_the_messages_own_bytes() -> None:
    array = np.linspace(0, 1, 7)
    record = ArrayRecord.inflate(
        (sent := encode({"x": array}, {}).array_records["arrays"]).deflate(),
        {child.object_id: Array.inflate(child.deflate(), child.children) for child in sent.values()},
    )
    content = encode({}, {})
    content["arrays"] = record
    np.testing.assert_array_equal(decode(message(content)).arrays["x"], array)


@pytest.mark.parametrize("protocol", [PROTOCOL + 1, 0, str(PROTOCOL), None])
def test_another_protocol_is_refused(protocol: int | str | None) -> None:
    content = encode({"x": np.zeros(2)}, {"round": 1})
    content["config"] = ConfigRecord({} if protocol is None else {"protocol": protocol})
    with pytest.raises(
        ContributionError, match=f"speaks protocol {protocol!r}, not {PROTOCOL}; install the same fedrec"
    ):
        decode(message(content))


def test_missing_records_are_refused() -> None:
    with pytest.raises(ContributionError, match="speaks protocol None"):
        decode(message(RecordDict()))
    with pytest.raises(ContributionError, match="speaks protocol None"):
        decode(message(RecordDict({"arrays": ArrayRecord(), "config": ArrayRecord()})))
    only_config = RecordDict({"config": ConfigRecord({"protocol": PROTOCOL})})
    assert decode(message(only_config)).arrays == {}


def test_an_error_message_is_refused_with_its_code() -> None:
    asked = message(encode({}, {}))
    with pytest.raises(ContributionError, match="the node answered with error 2"):
        decode(Message(Error(2, "a client's words"), reply_to=asked))


@pytest.mark.parametrize("value", [True, 1.0, "1", [1]])
def test_a_number_is_an_integer(value: Any) -> None:
    with pytest.raises(ContributionError, match=r"the message's 'round' is .*, not an integer"):
        Packet({}, {"round": value}).number("round")
    with pytest.raises(ContributionError, match="the message's 'round' is None, not an integer"):
        Packet({}, {}).number("round")
    assert Packet({}, {"round": 4}).number("round") == 4


class Bomb:
    """Leaves a file behind when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.mark),)


@pytest.mark.parametrize("dtype", ["object", "float64"])
def test_an_object_array_is_refused_and_never_unpickled(tmp_path: Path, dtype: str) -> None:
    data = saved(np.array([Bomb(tmp_path / "mark")], dtype=object), pickled=True)
    with pytest.raises(ContributionError, match="the array 'x'"):
        decode(forged(data, dtype, (1,)))
    assert not (tmp_path / "mark").exists()


@pytest.mark.parametrize("dtype", ["object", "<U3", "bool", "complex128", "datetime64[s]", "float16", "nonsense"])
def test_other_types_are_refused(dtype: str) -> None:
    with pytest.raises(ContributionError, match=r"the array 'x' holds .*, not numbers"):
        decode(forged(b"", dtype))


def zipped() -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("x.npy", saved(np.zeros((2, 3))))
    return file.getvalue()


GOOD = saved(np.arange(6.0).reshape(2, 3))


@pytest.mark.parametrize(
    ("data", "shape"),
    [
        (b"", (2, 3)),
        (GOOD[:-1], (2, 3)),
        (GOOD + b"\0", (2, 3)),
        (GOOD, (3, 2)),
        (GOOD, (6,)),
        (GOOD, (-2, -3)),
        (GOOD, (2**40, 3)),  # NumPy's reader would allocate it
        (saved(np.zeros((2, 3), np.float32)), (2, 3)),
        (saved(np.zeros((2, 3), ">f8")), (2, 3)),
        (saved(np.asfortranarray(np.zeros((2, 3)))), (2, 3)),
        (zipped(), (2, 3)),  # NumPy's reader would return an archive
        (GOOD.replace(b"'shape': (2, 3)", b"'shape':((((((("), (2, 3)),  # and fail here with an error of the tokenizer
    ],
)
def test_an_array_that_is_not_what_it_says_is_refused(data: bytes, shape: tuple[int, ...]) -> None:
    with pytest.raises(ContributionError, match=r"the array 'x' is not float64 of shape .* as it says"):
        decode(forged(data, shape=shape))


def test_damaged_bytes_are_refused_or_leave_numbers() -> None:
    draw = random.Random(1)  # noqa: S311 - damage, not secrets
    for _ in range(2000):
        data = bytearray(GOOD)
        for _ in range(draw.randint(1, 4)):
            data[draw.randrange(len(data))] = draw.choice(b"0123456789,()[]{}'\"fOPK\n\\#\x03\x04\xff")
        try:
            found = decode(forged(bytes(data))).arrays["x"]
        except ContributionError:
            continue
        assert found.dtype == np.float64
        assert found.shape == (2, 3)
