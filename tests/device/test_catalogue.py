"""The catalogue as bytes: the same ones for the same catalogue, back as it was, and refused when they are not one."""

from __future__ import annotations

import json
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import save

from fedrec.data.interactions import Catalogue
from fedrec.device import catalogue as catalogues
from fedrec.device.catalogue import check_id, digest, from_bytes, to_bytes
from fedrec.device.store import Store
from fedrec.errors import DataError

WHOLE = Catalogue(
    ids=np.array(["b", "a", "ü 1"]),
    titles=np.array(["Zwei", "", 'The, "quoted" one']),
    years=np.array([1999.0, np.nan, 2001.0]),
    genre_names=("drama", "war"),
    genres=np.array([[1, 0], [0, 0.5], [0, 0]], np.float32),
    features=np.array([[0.1], [-2], [3e30]], np.float32),
)


def same(one: Catalogue, other: Catalogue) -> bool:
    columns = ("ids", "titles", "years", "genres", "features")
    pairs = [(getattr(one, name), getattr(other, name)) for name in columns]
    return one.genre_names == other.genre_names and all(
        (a is None and b is None)
        or (a.dtype.kind == b.dtype.kind and np.array_equal(a, b, equal_nan=a.dtype.kind == "f"))
        for a, b in pairs
    )


def test_every_column_comes_back() -> None:
    assert same(from_bytes(to_bytes(WHOLE)), WHOLE)
    bare = Catalogue(np.array(["x"]))
    assert same(from_bytes(to_bytes(bare)), bare)


def test_the_bytes_do_not_change_between_versions() -> None:
    """Devices and servers know a catalogue by this digest."""
    assert digest(to_bytes(WHOLE)) == "2bf2e7b72f3efec81d6cdcd6c11cfd6297bb73d79418e9e500b19c7ac0ec4a9c"


TEXT = st.text(st.characters(codec="utf-8", exclude_categories=("Cc", "Cs", "Zl", "Zp")), max_size=12)


@given(st.lists(TEXT.filter(bool), min_size=1, max_size=20, unique=True), st.data())
def test_any_catalogue_comes_back_and_gives_the_same_bytes(ids: list[str], data: st.DataObject) -> None:
    n = len(ids)
    titles = data.draw(st.none() | st.lists(TEXT, min_size=n, max_size=n))
    whole = Catalogue(np.array(ids), None if titles is None else np.array(titles))
    content = to_bytes(whole)
    assert same(from_bytes(content), whole)
    assert to_bytes(from_bytes(content)) == content


@pytest.mark.parametrize("item", ["", "x" * 201, "a\nb", "a\0", "\x7f", "\u2028", "\ud800"])
def test_what_is_no_id(item: str) -> None:
    with pytest.raises(DataError, match=r"(id has 1 to 200 bytes|control character|is not text)"):
        check_id(item)
    if item and item.isascii():
        with pytest.raises(DataError, match="id"):
            to_bytes(Catalogue(np.array(["fine", item + "!"])))


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        (Catalogue(np.array([], np.str_)), "holds no items"),
        (Catalogue(np.array(["a", "a"])), "an item's id twice"),
        (replace(WHOLE, titles=np.array(["a", "b\nc", ""])), r"The title 'b\\nc' holds a line break"),
        (replace(WHOLE, features=np.array([[0], [1], [np.inf]], np.float32)), "'features' are not all finite"),
        (replace(WHOLE, genres=np.full((3, 2), np.nan, np.float32)), "'genres' are not all finite"),
        (replace(WHOLE, years=np.array([1.0, 2.0, np.inf])), "'years' are not all finite"),
    ],
)
def test_a_catalogue_that_could_not_be_served(wrong: Catalogue, told: str) -> None:
    with pytest.raises(DataError, match=told):
        to_bytes(wrong)


def made(arrays: dict[str, npt.NDArray[Any]], about: object) -> bytes:
    return bytes(save(arrays, metadata={"catalogue": json.dumps(about)}))


IDS = np.frombuffer(b"a\nb", np.uint8)
ABOUT = {"form": "fedrec-catalogue/1", "genre_names": [], "items": 2}


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"", "not a catalogue"),
        (b"\xff" * 100, "not a catalogue"),
        (to_bytes(WHOLE)[:-1], "not a catalogue"),
        (bytes(save({"ids": IDS})), "not a catalogue"),
        (made({"ids": IDS}, []), "not a catalogue"),
        (made({"ids": IDS}, ABOUT | {"form": "fedrec-catalogue/2"}), "update fedrec"),
        (made({"ids": IDS}, ABOUT | {"genre_names": [1]}), "update fedrec"),
        (made({"ids": IDS}, ABOUT | {"items": 3}), "2 'ids' for 3 items"),
        (made({"ids": IDS, "code": IDS}, ABOUT), "known columns alone"),
        (made({"titles": IDS}, ABOUT), "known columns alone"),
        (made({"ids": IDS.astype(np.int64)}, ABOUT), "'ids' are not text"),
        (made({"ids": np.frombuffer(b"\xff\n\xff", np.uint8)}, ABOUT), "not UTF-8"),
        (made({"ids": np.frombuffer(b"a\na", np.uint8)}, ABOUT), "an item's id twice"),
        (made({"ids": np.frombuffer(b"a\n", np.uint8)}, ABOUT), "1 to 200 bytes"),
        (made({"ids": IDS, "years": np.zeros(2, np.float32)}, ABOUT), "'years' have the wrong type"),
        (made({"ids": IDS, "features": np.zeros(2, np.float32)}, ABOUT), "'features' have the wrong type"),
        (made({"ids": IDS, "features": np.zeros((3, 1), np.float32)}, ABOUT), "3 rows for 2 items"),
        (made({"ids": IDS, "genres": np.zeros((2, 1), np.float32)}, ABOUT), "0 genre names for 1 columns"),
    ],
)
def test_bytes_that_are_no_catalogue(content: bytes, told: str) -> None:
    with pytest.raises(DataError, match=told):
        from_bytes(content)


def test_no_bytes_do_anything_but_load_or_be_refused() -> None:
    content, draw = to_bytes(WHOLE), random.Random(0)  # noqa: S311 - a fuzzer
    for _ in range(2000):
        bad = bytearray(content)
        for _ in range(draw.randint(1, 4)):
            bad[draw.randrange(len(bad))] = draw.randrange(256)
        try:
            to_bytes(from_bytes(bytes(bad[: draw.randint(0, 2 * len(bad))])))
        except DataError:
            continue


def test_a_device_keeps_it_with_its_name(tmp_path: Path) -> None:
    with Store.create(tmp_path / "store.sqlite") as store:
        assert catalogues.load(store) is None
        store.put(catalogues.DOCUMENT, to_bytes(WHOLE))
        found = catalogues.load(store)
    assert found is not None
    assert same(found[0], WHOLE)
    assert found[1] == digest(to_bytes(WHOLE))
