"""Import: what the file says, once, all of it or nothing; and what is wrong is named by line and column."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from fedrec.data.interactions import Catalogue
from fedrec.device import catalogue as catalogues
from fedrec.device import history
from fedrec.device.history import Event
from fedrec.device.ingest import Imported, Mapping, import_file, read_events, seconds
from fedrec.device.store import Store
from fedrec.errors import DataError

FULL = Mapping("movie", "when", "stars")
ROWS = [("1", 100, 4.5), ("x y", 1714594500, None), ("7", None, 1.0)]
EVENTS = [Event(item, "seen", at, rating) for item, at, rating in ROWS]


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store.create(tmp_path / "store.sqlite") as made:
        yield made


def sqlite_file(path: Path, rows: list[tuple[object, ...]], table: str = "views") -> Path:
    connection = sqlite3.connect(path)
    name = table.replace('"', '""')
    connection.execute(f'CREATE TABLE "{name}" (movie, "when", stars)')
    connection.executemany(f'INSERT INTO "{name}" VALUES (?, ?, ?)', rows)  # noqa: S608
    connection.commit()
    connection.close()
    return path


def written(folder: Path, suffix: str) -> Path:
    """The same three events in each format."""
    path = folder / f"mine{suffix}"
    if suffix in {".csv", ".tsv"}:
        lines = [["movie", "other", "when", "stars"], ["1", "-", "100", "4.5"]]
        lines += [["x y", "-", "2024-05-01T20:15:00Z", ""], ["7", "-", "", " 1 "]]
        path.write_text("\n".join(("," if suffix == ".csv" else "\t").join(line) for line in lines))
    elif suffix == ".jsonl":
        records = [
            {"movie": 1, "when": 100.9, "stars": 4.5},
            {"movie": "x y", "when": "2024-05-01T22:15:00+02:00", "stars": None},
            {"movie": "7", "when": None, "stars": "1"},
        ]
        path.write_text("\n".join(json.dumps(record) for record in records))
    elif suffix == ".parquet":
        pytest.importorskip("pyarrow")
        import pyarrow
        import pyarrow.parquet

        columns = {name: [row[place] for row in ROWS] for place, name in enumerate(("movie", "when", "stars"))}
        pyarrow.parquet.write_table(pyarrow.table(columns), path)
    else:
        sqlite_file(path, [(1, 100.0, 4.5), ("x y", "2024-05-01 20:15:00", None), ("7", None, 1)])
    return path


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".jsonl", ".parquet", ".sqlite", ".db"])
def test_every_format_says_the_same(tmp_path: Path, suffix: str) -> None:
    assert list(read_events(written(tmp_path, suffix), FULL)) == EVENTS


def test_doing_it_again_adds_nothing(store: Store, tmp_path: Path) -> None:
    path = written(tmp_path, ".csv")
    assert import_file(store, path, FULL, 3) == Imported(3, 0, None, ("other",))
    assert import_file(store, path, FULL) == Imported(0, 3, None, ("other",))
    assert history.counts(store).events == 3
    assert history.min_rating(store) == 3
    assert store.query("SELECT DISTINCT source FROM interactions") == [("import:mine.csv",)]


def test_unknown_items_are_counted_and_kept(store: Store, tmp_path: Path) -> None:
    store.put(catalogues.DOCUMENT, catalogues.to_bytes(Catalogue(np.array(["1", "2"]))))
    assert import_file(store, written(tmp_path, ".jsonl"), FULL) == Imported(3, 0, 2)
    assert history.counts(store).items == 3


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("a.csv", "movie,when,stars\n1,5,3\n,6,3\n", r"a.csv, line 3, column 'movie': an id is a text"),
        ("a.csv", "movie,when,stars\n1,5,three\n", r"a.csv, line 2, column 'stars': 'three' is not a finite number"),
        ("a.csv", "movie,when,stars\n1,5,inf\n", r"line 2, column 'stars': 'inf' is not a finite number"),
        ("a.csv", "movie,when,stars\n1,noon,3\n", r"line 2, column 'when': 'noon' is no time; give seconds since 1970"),
        ("a.csv", "movie,when,stars\n1,1700000000000,3\n", r"line 2: 1700000000000 is not a time in whole seconds"),
        ("a.csv", "movie,when,stars\n1,5\n", r"line 2: 2 fields where 3 are expected"),
        ("a.csv", "film,when,stars\n1,5,3\n", r"line 2: there is no column 'movie'"),
        ("a.csv", f"movie,when,stars\n{'x' * 201},5,3\n", r"line 2: An item's id has 1 to 200 bytes"),
        ("a.csv", "movie,when,stars\n", "holds no data"),
        ("a.csv", "", "is empty"),
        ("a.jsonl", '{"movie": 1, "when": 1, "stars": true}', "line 1, column 'stars': 'True' is not a finite number"),
        ("a.jsonl", '{"movie": 1.5, "when": 1, "stars": 1}', "line 1, column 'movie': an id is a text or a whole"),
        ("a.jsonl", '{"movie": "a\\nb", "when": 1, "stars": 1}', "line 1: The item's id 'a\\\\nb' holds a line break"),
        ("a.jsonl", '{"movie": 1, "when": [], "stars": 1}', "line 1, column 'when': '\\[\\]' is not a finite number"),
        ("a.jsonl", "[1]", "line 1: this is not a JSON object"),
        ("a.sqlite", "just a text that is long enough to be read" * 9, "Cannot read .*a.sqlite as a SQLite file"),
        ("a.doc", "", "the name does not tell the format"),
    ],
)
def test_what_is_wrong_is_named_and_nothing_is_taken(
    store: Store, tmp_path: Path, name: str, content: str, told: str
) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(DataError, match=told):
        import_file(store, tmp_path / name, FULL, 4)
    assert history.counts(store).events == 0
    assert history.min_rating(store) is None


def test_a_file_that_is_not_there_is_not_made(store: Store, tmp_path: Path) -> None:
    for name in ("a.csv", "a.db"):
        with pytest.raises(DataError, match="There is no file"):
            import_file(store, tmp_path / name, FULL)
    assert not (tmp_path / "a.db").exists()


def test_a_table_of_several_has_to_be_named(tmp_path: Path) -> None:
    path = sqlite_file(tmp_path / "a.db", [(1, 2, 3)])
    sqlite_file(path, [(4, 5, 6)], 'odd "name"')
    with pytest.raises(DataError, match=r"has 2 tables; name one with --table. Known: odd \"name\", views\."):
        list(read_events(path, FULL))
    with pytest.raises(DataError, match=r"no table 'view'. Did you mean 'views'\?"):
        list(read_events(path, Mapping("movie", table="view")))
    assert list(read_events(path, Mapping("movie", table='odd "name"'))) == [Event("4")]


def test_another_program_s_file_is_not_written_to(store: Store, tmp_path: Path) -> None:
    (tmp_path / "theirs").mkdir()
    path = sqlite_file(tmp_path / "theirs" / "a.db", [(1, 2, 3)])
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("INSERT INTO views VALUES (2, 3, 4)")
    connection.commit()  # in their log, and they are still at work
    before = path.read_bytes()
    assert import_file(store, path, FULL).new == 2
    assert path.read_bytes() == before
    connection.close()


def test_a_text_that_is_not_utf_8_is_said_to_be(tmp_path: Path) -> None:
    path = sqlite_file(tmp_path / "a.db", [(1, 2, 3)])
    connection = sqlite3.connect(path)
    connection.execute("UPDATE views SET movie = CAST(x'ff' AS TEXT)")
    connection.commit()
    connection.close()
    with pytest.raises(DataError, match=r"Cannot read .*UTF-8"):
        list(read_events(path, FULL))


@pytest.mark.parametrize(
    ("text", "expected"),
    [("0", 0), ("-1.5", -2), ("1e3", 1000), ("1970-01-02", 86400), ("1970-01-01T01:00:00+01:00", 0)],
)
def test_times(text: str, expected: int) -> None:
    assert seconds(text) == expected


@pytest.mark.parametrize("text", ["nan", "inf", "", "yesterday", "2024-13-01"])
def test_no_times(text: str) -> None:
    with pytest.raises(DataError, match="is no time; give seconds since 1970, or a text such as"):
        seconds(text)


def test_columns_that_nobody_asked_for_are_told(store: Store, tmp_path: Path) -> None:
    (tmp_path / "seen.csv").write_text("item_id,stars,note\n1,5,x\n")
    assert import_file(store, tmp_path / "seen.csv", Mapping()).unread == ("stars", "note")
    assert import_file(store, tmp_path / "seen.csv", Mapping(rating="stars")).unread == ("note",)


def test_what_cannot_be_imported_is_told_without_words_of_an_experiment(store: Store, tmp_path: Path) -> None:
    (tmp_path / "seen.xls").write_text("x")
    for name, told in (("", "is a folder; give one file"), ("seen.xls", "the name does not tell the format")):
        with pytest.raises(DataError, match=told) as raised:
            import_file(store, tmp_path / name, Mapping())
        assert "data.format" not in str(raised.value)
