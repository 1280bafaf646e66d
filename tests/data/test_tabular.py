from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedrec.data import text
from fedrec.data.tabular import Columns, Kind, Layout, read
from fedrec.errors import DataError

WANTED: dict[str, Kind] = {"user": "token", "item": "token", "rating": "number"}
HEADER = "user,item,rating\n"


def write(tmp_path: Path, content: str | bytes, name: str = "data.csv") -> Path:
    path = tmp_path / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def table(tmp_path: Path, content: str | bytes, layout: Layout | None = None) -> Columns:
    return read(write(tmp_path, content), layout or Layout(), WANTED)


def test_reads_columns_in_any_order_and_leaves_out_the_rest(tmp_path: Path) -> None:
    columns = table(tmp_path, "x,rating,user,item\nfoo,3.5,ann,1\n,-1e2,böb,22\n")
    assert columns["user"].tolist() == [b"ann", "böb".encode()]
    assert columns["item"].tolist() == [b"1", b"22"]
    assert columns["rating"].tolist() == [3.5, -100.0]


@pytest.mark.parametrize(
    "content",
    [
        HEADER + "a,1,2\nb,2,3\n",
        HEADER + "a,1,2\nb,2,3",
        HEADER.replace("\n", "\r\n") + "a,1,2\r\nb,2,3\r\n",
        "\n" + HEADER + "\na,1,2\n\n\nb,2,3\n\n",
        "\ufeff" + HEADER + "a,1,2\nb,2,3\n",
        HEADER + '"a",1,2\n"b","2",3\n',
        "\ufeff" + HEADER + '"a",1,2\n"b","2",3\n',
    ],
    ids=["plain", "no last end", "crlf", "blank lines", "byte order mark", "quoted", "quoted after a mark"],
)
def test_the_same_table_however_it_is_written(tmp_path: Path, content: str) -> None:
    columns = table(tmp_path, content)
    assert [columns[name].tolist() for name in WANTED] == [[b"a", b"b"], [b"1", b"2"], [2.0, 3.0]]


def test_reads_gzip_and_double_colons_and_several_blocks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(text, "BLOCK", 7)
    path = tmp_path / "ratings.dat.gz"
    path.write_bytes(gzip.compress(b"".join(b"%d::%d::%d\n" % (n, 10 * n, n % 5) for n in range(100))))
    columns = read(path, Layout("::", ("user", "item", "rating"), quoted=False), WANTED)
    assert columns["user"].astype(int).tolist() == list(range(100))
    assert columns["item"].astype(int).tolist() == [10 * n for n in range(100)]
    assert columns["rating"].tolist() == [n % 5 for n in range(100)]


TOKEN = st.text(
    st.characters(codec="utf-8", exclude_characters="\0\r\n,", exclude_categories=["Cs"]), min_size=1, max_size=9
)


@given(st.lists(st.tuples(TOKEN, TOKEN, st.floats(-1e6, 1e6)), min_size=1, max_size=20))
def test_every_value_comes_back(tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[str, str, float]]) -> None:
    def quoted(value: str) -> str:
        return '"' + value.replace('"', '""') + '"' if '"' in value else value

    lines = "".join(f"{quoted(user)},{quoted(item)},{rating!r}\n" for user, item, rating in rows)
    columns = table(tmp_path_factory.mktemp("table"), HEADER + lines)
    assert [value.decode() for value in columns["user"].tolist()] == [user for user, _, _ in rows]
    assert np.array_equal(columns["rating"], [rating for _, _, rating in rows])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "data.csv is empty"),
        ("\n\n", "data.csv is empty"),
        (HEADER, "data.csv holds no data beyond its header line"),
        ("user,itme,rating\na,1,2\n", "data.csv, line 1: there is no column 'item'. Did you mean 'itme'?"),
        (HEADER + "a,1,2\n\nb,2,good\n", "data.csv, line 4, column 'rating': 'good' is not a number"),
        (HEADER + "a,1,2\nb,2,\n", "data.csv, line 3, column 'rating': a number is missing"),
        (HEADER + "a,1,nan\n", "data.csv, line 2, column 'rating': nan is not a finite number"),
        (HEADER + "a,1,2\nb,1,-inf\n", "data.csv, line 3, column 'rating': -inf is not a finite number"),
        (HEADER + "a,1,2\nb,1\n", "data.csv, line 3: 2 fields where 3 are expected"),
        (HEADER + "a,1,2\nb\n", "data.csv, line 3: 1 field where 3 are expected"),
        (HEADER + "a,1,2,9\n", "data.csv, line 2: 4 fields where 3 are expected"),
        (HEADER + ",1,2\n", "data.csv, line 2, column 'user': the id is empty"),
        (HEADER + "a,1,2\n" + "b" * 201 + ",1,2\n", "data.csv, line 3, column 'user': an id of 201 bytes"),
        (HEADER.encode() + b"a,1,2\nb\xe9,1,2\n", "data.csv, line 3: byte 0xe9 at place 2 of the line is not UTF-8"),
        (HEADER.encode() + b"a,1,2\nb\0,1,2\n", "data.csv, line 3: a NUL byte"),
        (HEADER + '"a",1,2\n"b,1,2\n', "data.csv, line 3: unexpected end of data; check the quotes"),
        (HEADER + '"a",1,2\nb,1\n', "data.csv, line 3: 2 fields where 3 are expected"),
        (HEADER + '"a",1,2\nb,1,x\n', "data.csv, line 3, column 'rating': 'x' is not a number"),
    ],
)
def test_what_is_wrong_is_named_by_file_line_and_column(tmp_path: Path, content: str | bytes, message: str) -> None:
    with pytest.raises(DataError) as error:
        table(tmp_path, content)
    assert message in str(error.value)
    assert str(error.value).startswith(str(tmp_path))


def test_the_line_is_right_beyond_the_first_block(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(text, "BLOCK", 16)
    with pytest.raises(DataError, match="line 50, column 'rating': '1x' is not a number"):
        table(tmp_path, HEADER + "a,1,2\n" * 48 + "a,1,1x\n" + "a,1,2\n" * 9)


def test_a_truncated_gzip_file_is_refused(tmp_path: Path) -> None:
    whole = gzip.compress((HEADER + "".join(f"{n},{n * n},1\n" for n in range(5000))).encode())
    for cut in (5, len(whole) // 2, len(whole) - 4):
        with pytest.raises(DataError, match=r"data.csv.gz is a damaged or truncated gzip file"):
            read(write(tmp_path, whole[:cut], "data.csv.gz"), Layout(), WANTED)
    with pytest.raises(DataError, match="damaged or truncated"):
        read(write(tmp_path, b"not gzip at all", "data.csv.gz"), Layout(), WANTED)


def test_a_missing_file_and_a_folder_are_said_plainly(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="There is no file"):
        read(tmp_path / "no.csv", Layout(), WANTED)
    with pytest.raises(DataError, match="is a folder"):
        read(tmp_path, Layout(), WANTED)
