from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fedrec.config import parse, resolve
from fedrec.data.interactions import Interactions
from fedrec.data.source import load, published_negatives
from fedrec.errors import ConfigError, DataError, UnknownNameError

ROWS = [("u1", "10", 4.0, 5), ("u1", "9", 2.0, 3), ("u2", "9", 5.0, 8)]
KEYS = {"user": "who", "item": "what", "rating": "stars", "time": "when"}


def loaded(path: Path, **keys: Any) -> Interactions:
    data = {"name": "table", "path": str(path), **KEYS, **keys}
    return load(resolve({"data": data, "model": "popularity"}).data)


def write_csv(path: Path, separator: str = ",", header: str = "who,what,stars,when") -> None:
    lines = [header.replace(",", separator)] if header else []
    path.write_text("\n".join(lines + [separator.join(str(value) for value in row) for row in ROWS]) + "\n")


def write_json_lines(path: Path) -> None:
    path.write_text("".join(json.dumps(dict(zip(KEYS.values(), row, strict=True))) + "\n" for row in ROWS))


def write_parquet(path: Path) -> None:
    arrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    columns = [list(column) for column in zip(*ROWS, strict=True)]
    columns[1] = [int(item) for item in columns[1]]
    parquet.write_table(arrow.table(columns, names=list(KEYS.values())), path)


def expect_rows(data: Interactions) -> None:
    assert data.catalogue.ids.tolist() == ["9", "10"]  # in the order of numbers
    assert data.indptr.tolist() == [0, 2, 3]
    assert data.items.tolist() == [0, 1, 0]  # in the order of time
    assert data.ratings is not None
    assert data.ratings.tolist() == [2, 4, 5]
    assert data.times is not None
    assert data.times.tolist() == [3, 5, 8]


def test_every_format_gives_the_same(tmp_path: Path) -> None:
    write_csv(tmp_path / "a.csv")
    write_csv(tmp_path / "b.tsv", "\t")
    write_csv(tmp_path / "c.inter", "\t", "who:token,what:token,stars:float,when:float")
    write_json_lines(tmp_path / "d.jsonl")
    write_parquet(tmp_path / "e.parquet")
    for name in ("a.csv", "b.tsv", "c.inter", "d.jsonl", "e.parquet"):
        expect_rows(loaded(tmp_path / name))


def test_separator_format_and_missing_header_can_be_said(tmp_path: Path) -> None:
    write_csv(tmp_path / "semicolons.csv", ";")
    expect_rows(loaded(tmp_path / "semicolons.csv", separator=";"))
    write_json_lines(tmp_path / "events.log")
    expect_rows(loaded(tmp_path / "events.log", format="jsonl"))
    write_csv(tmp_path / "bare.csv", header="")
    expect_rows(loaded(tmp_path / "bare.csv", header=False, user="1", item="2", rating="3", time="4"))
    with pytest.raises(DataError, match=r"does not tell the format; let it end with .csv.* or set data.format"):
        loaded(tmp_path / "events.log")


def test_rating_and_time_are_optional(tmp_path: Path) -> None:
    write_csv(tmp_path / "a.csv")
    data = loaded(tmp_path / "a.csv", rating=None, time=None)
    assert data.ratings is None
    assert data.times is None
    assert data.items.tolist() == [1, 0, 0]  # in the order of the file


def test_an_items_file_gives_the_catalogue(tmp_path: Path) -> None:
    write_csv(tmp_path / "a.csv")
    (tmp_path / "items.csv").write_text(
        'what,name,made,kind,weight\n9,"Nine, the",1999,odd|square,0.5\n11,Eleven,,,2\n'
    )
    keys = {"title": "name", "year": "made", "genres": "kind", "features": ["weight"]}
    data = loaded(tmp_path / "a.csv", items_path=str(tmp_path / "items.csv"), **keys)
    catalogue = data.catalogue
    assert catalogue.ids.tolist() == ["9", "10", "11"]
    assert [catalogue.title(item) for item in range(3)] == ["Nine, the (1999)", "10", "Eleven"]
    assert catalogue.genre_names == ("odd", "square")
    assert catalogue.genres is not None
    assert catalogue.genres.tolist() == [[1, 1], [0, 0], [0, 0]]
    assert catalogue.features is not None
    assert catalogue.features.tolist() == [[0.5], [0], [2]]
    assert data.filters == ("catalogue: 1 items are known from the interactions only",)


def test_items_may_be_json_lines_or_parquet_with_lists_of_genres(tmp_path: Path) -> None:
    arrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    write_csv(tmp_path / "a.csv")
    items = [{"what": 9, "year": 1999, "tags": ["b", "a"]}, {"what": 10, "year": None, "tags": []}]
    (tmp_path / "items.jsonl").write_text("".join(json.dumps(item) + "\n" for item in items))
    parquet.write_table(arrow.Table.from_pylist(items), tmp_path / "items.parquet")
    for name in ("items.jsonl", "items.parquet"):
        catalogue = loaded(tmp_path / "a.csv", items_path=str(tmp_path / name), year="year", genres="tags").catalogue
        assert catalogue.ids.tolist() == ["9", "10"]
        assert catalogue.genres is not None
        assert catalogue.genres.tolist() == [[1, 1], [0, 0]]
        assert catalogue.years is not None
        assert np.array_equal(catalogue.years, [1999, np.nan], equal_nan=True)


@pytest.mark.parametrize(
    ("items", "message"),
    [
        ("what,kind\n9,a\n9,b\n", "items.csv, line 3, column 'what': item '9' stands here a second time"),
        ("what,kynd\n9,a\n", "items.csv, line 2: there is no column 'kind'. Did you mean 'kynd'?"),
        ("what,kind\n9,a,b\n", "items.csv, line 2: 3 fields where 2 are expected"),
        ("what,kind\n", "items.csv holds no items"),
        ("", "items.csv is empty"),
    ],
)
def test_a_bad_items_file_is_named(tmp_path: Path, items: str, message: str) -> None:
    write_csv(tmp_path / "a.csv")
    (tmp_path / "items.csv").write_text(items)
    with pytest.raises(DataError, match=message.replace("?", r"\?")):
        loaded(tmp_path / "a.csv", items_path=str(tmp_path / "items.csv"), genres="kind")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"who": 1, "what": 2, "stars": "5", "when": 1}', "line 2, column 'stars': \"5\" where a number is needed"),
        ('{"who": 1, "what": 2, "stars": NaN, "when": 1}', "line 2, column 'stars': nan is not a finite number"),
        ('{"who": null, "what": 2, "stars": 5, "when": 1}', "line 2, column 'who': null where a string"),
        ('{"who": 1, "whta": 2, "stars": 5, "when": 1}', "line 2: there is no key 'what'. Did you mean 'whta'"),
        ('{"who": 1, "what"', "line 2: this is not JSON"),
        ("[1, 2]", "line 2: this is not a JSON object"),
    ],
)
def test_a_bad_line_of_json_is_named(tmp_path: Path, line: str, message: str) -> None:
    (tmp_path / "d.jsonl").write_text('{"who": 1, "what": 2, "stars": 5, "when": 1}\n' + line + "\n")
    with pytest.raises(DataError, match=message):
        loaded(tmp_path / "d.jsonl")


def test_a_bad_parquet_file_is_named(tmp_path: Path) -> None:
    arrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    path = tmp_path / "e.parquet"

    def attempt(columns: dict[str, list[Any]], message: str) -> None:
        parquet.write_table(arrow.table(columns), path)
        with pytest.raises(DataError, match=message):
            loaded(path, rating="stars", time=None)

    attempt({"who": [1], "what": [2]}, "has no column 'stars'")
    attempt({"who": [1, 1], "what": [2, 2], "stars": [1.0, None]}, "line 2, column 'stars': the value is missing")
    attempt(
        {"who": [1, 1], "what": [2, 2], "stars": [1.0, float("inf")]}, "line 2, column 'stars': inf is not a finite"
    )
    attempt({"who": [1], "what": [2], "stars": ["x"]}, "column 'stars': the column holds string where numbers")
    attempt({"who": [1.5], "what": [2], "stars": [1]}, "column 'who': the column holds double where ids")
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match=r"e.parquet is not a whole Parquet file"):
        loaded(path)


def test_an_unknown_data_set_brings_a_hint() -> None:
    with pytest.raises(UnknownNameError, match=r"Unknown data set 'ml-100'. Did you mean 'ml-100k'\?"):
        parse('[data]\nname = "ml-100"\n[model]\nname = "popularity"\n')


def test_keys_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    write_csv(tmp_path / "a.csv")
    with pytest.raises(ConfigError, match=r"need data.items_path"):
        loaded(tmp_path / "a.csv", title="name")
    with pytest.raises(ConfigError, match="different columns"):
        loaded(tmp_path / "a.csv", item="who")
    with pytest.raises(ConfigError, match=r"data.min_rating = 3 needs ratings"):
        loaded(tmp_path / "a.csv", rating=None, min_rating=3)


def test_a_table_has_no_published_negatives(tmp_path: Path) -> None:
    write_csv(tmp_path / "a.csv")
    config = resolve({"data": {"name": "table", "path": str(tmp_path / "a.csv"), **KEYS}, "model": "popularity"}).data
    assert published_negatives(config, load(config)) is None


def test_raw_user_ids_are_nowhere_in_the_interactions(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("user_id,item_id\nalice@example.org,1\n")
    data = loaded(tmp_path / "a.csv", user="user_id", item="item_id", rating=None, time=None)
    held = " ".join(str(value) for value in vars(data).values())
    assert "alice" not in held
    assert data.user_ids is not None
    assert np.char.str_len(data.user_ids).tolist() == [16]
