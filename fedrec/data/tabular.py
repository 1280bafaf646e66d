"""Tables of separated values, read by column with array operations; whatever is wrong is named by line and column."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from fedrec.data.text import blocks, decode, lines, located
from fedrec.errors import DataError, did_you_mean

Kind = Literal["token", "number"]
Columns = dict[str, npt.NDArray[Any]]
"""By column name: a token column is ``[n_rows]`` UTF-8 bytes, a number column ``[n_rows]`` float64, always finite."""

MAX_TOKEN = 200
"""Bytes of the longest id that is taken for one."""


@dataclass(frozen=True)
class Layout:
    """How lines become fields.

    Attributes:
        separator: one character, or several such as ``::``.
        names: the columns' names; none reads them from the first line.
        quoted: a field may stand in double quotes, with separators and line ends inside (RFC 4180).
        typed: the header's names carry a type behind a colon, as in RecBole's atomic files.
        encoding: of the file.
    """

    separator: str = ","
    names: tuple[str, ...] | None = None
    quoted: bool = True
    typed: bool = False
    encoding: str = "utf-8"


def read(path: Path, layout: Layout, wanted: Mapping[str, Kind]) -> Columns:
    """The wanted columns of a table, whole or not at all.

    Raises:
        DataError: naming file, line and column of the first thing that is wrong.
    """
    parts: dict[str, list[npt.NDArray[Any]]] = {name: [] for name in wanted}
    for block in _plain_blocks(path, layout, wanted):
        if block is None:  # a quote somewhere: the csv module reads such a table, more slowly
            return _read_rows(path, layout, wanted)
        for name, values in block.items():
            parts[name].append(values)
    if not any(len(part) for part in next(iter(parts.values()))):
        raise DataError(f"{path} holds no data" + (" beyond its header line." if layout.names is None else "."))
    return {name: np.concatenate(values) for name, values in parts.items()}


def rows(path: Path, layout: Layout) -> Iterator[tuple[int, list[str]]]:
    """Every line's number and fields, the header first where the file has one; blank lines are left out."""
    numbered = lines(path, layout.encoding)
    if not layout.quoted:
        for number, line in enumerate(numbered, 1):
            if text := line.rstrip("\r\n"):
                yield number, text.split(layout.separator)
        return
    reader = csv.reader(numbered, delimiter=layout.separator, strict=True)
    try:
        for fields in reader:
            if fields:
                yield reader.line_num, fields
    except csv.Error as error:
        raise located(path, reader.line_num, f"{error}; check the quotes.") from error


def header(path: Path, layout: Layout) -> tuple[str, ...]:
    """The columns' names.

    Raises:
        DataError: for an empty file.
    """
    if layout.names is not None:
        return layout.names
    first = next(rows(path, layout), None)
    if first is None:
        raise DataError(f"{path} is empty: it has no header line and no data.")
    return tuple(name.strip().split(":")[0] if layout.typed else name.strip() for name in first[1])


def positions(path: Path, names: Sequence[str], wanted: Sequence[str]) -> list[int]:
    """Where the wanted columns stand.

    Raises:
        DataError: for a column that is not there, with the closest name.
    """
    for name in wanted:
        if name not in names:
            raise located(path, 1, f"there is no column '{name}'. {did_you_mean(name, names)}")
    return [list(names).index(name) for name in wanted]


def field_count(path: Path, line: int, found: int, expected: int) -> DataError:
    """The error of a line with too few or too many fields."""
    return located(path, line, f"{found} {'field' if found == 1 else 'fields'} where {expected} are expected.")


def to_number(path: Path, line: int, column: str, text: str) -> float:
    """One finite number.

    Raises:
        DataError: for anything else.
    """
    try:
        value = float(text)
    except ValueError:
        what = f"'{text[:40]}' is not a number." if text else "a number is missing."
        raise located(path, line, what, column) from None
    if not np.isfinite(value):
        raise located(path, line, f"{text} is not a finite number.", column)
    return value


def check_token(path: Path, line: int, column: str, size: int) -> None:
    """Refuse an id that is empty or longer than any id (``size`` in bytes).

    Raises:
        DataError: naming the column.
    """
    if size == 0:
        raise located(path, line, "the id is empty.", column)
    if size > MAX_TOKEN:
        raise located(path, line, f"an id of {size} bytes; {MAX_TOKEN} is the most that fedrec takes for one.", column)


def _plain_blocks(path: Path, layout: Layout, wanted: Mapping[str, Kind]) -> Iterator[Columns | None]:
    """The columns block by block; None where the table has quotes."""
    names = header(path, layout)
    places = positions(path, names, list(wanted))
    line, skip = 1, layout.names is None
    for raw in blocks(path):
        if layout.quoted and b'"' in raw:
            yield None
            return
        decode(raw, layout.encoding, path, line)
        block = raw.removeprefix(b"\xef\xbb\xbf") if line == 1 else raw
        table = _Block(path, block, line, layout.separator.encode(), len(names))
        if skip and table.n_rows:
            table.drop_first()
            skip = False
        yield {name: table.column(name, place, wanted[name]) for name, place in zip(wanted, places, strict=True)}
        line += raw.count(b"\n")


class _Block:
    """Where the fields of a block of lines begin and end; ``line`` is the number of its first line."""

    def __init__(self, path: Path, block: bytes, line: int, separator: bytes, n_fields: int) -> None:
        self.path = path
        self.bytes = np.frombuffer(block, np.uint8)
        self.width = len(separator)
        ends = np.flatnonzero(self.bytes == ord("\n"))
        starts = np.concatenate([[0], ends[:-1] + 1]).astype(np.int64)
        stops = ends - ((ends > starts) & (self.bytes[ends - 1] == ord("\r")))
        filled = stops > starts
        self.lines = line + np.flatnonzero(filled)
        self.starts, self.stops = starts[filled], stops[filled]
        marks = self._marks(block, separator)
        found = np.searchsorted(marks, self.stops) - np.searchsorted(marks, self.starts) + 1
        wrong = np.flatnonzero(found != n_fields)
        if len(wrong):
            raise field_count(path, int(self.lines[wrong[0]]), int(found[wrong[0]]), n_fields)
        self.marks = marks.reshape(len(self.starts), n_fields - 1)

    def _marks(self, block: bytes, separator: bytes) -> npt.NDArray[np.int64]:
        """Where the separators begin; those of several characters do not overlap."""
        if len(separator) == 1:
            return np.flatnonzero(self.bytes == separator[0])
        at, found = block.find(separator), []
        while at >= 0:
            found.append(at)
            at = block.find(separator, at + len(separator))
        return np.array(found, dtype=np.int64)

    @property
    def n_rows(self) -> int:
        return len(self.starts)

    def drop_first(self) -> None:
        """Leave out the header."""
        self.lines, self.starts, self.stops, self.marks = (
            self.lines[1:],
            self.starts[1:],
            self.stops[1:],
            self.marks[1:],
        )

    def column(self, name: str, place: int, kind: Kind) -> npt.NDArray[Any]:
        """One column, checked."""
        begin = self.starts if place == 0 else self.marks[:, place - 1] + self.width
        end = self.stops if place == self.marks.shape[1] else self.marks[:, place]
        sizes = end - begin
        if kind == "token":
            for row in np.flatnonzero((sizes == 0) | (sizes > MAX_TOKEN))[:1]:
                check_token(self.path, int(self.lines[row]), name, int(sizes[row]))
        cells = self._cells(begin, np.minimum(sizes, MAX_TOKEN))
        return cells if kind == "token" else self._numbers(name, cells)

    def _cells(self, begin: npt.NDArray[np.int64], sizes: npt.NDArray[np.int64]) -> npt.NDArray[np.bytes_]:
        width = max(int(sizes.max(initial=0)), 1)
        within = np.arange(width)
        places = np.minimum(begin[:, None] + within, len(self.bytes) - 1)
        letters = np.where(within < sizes[:, None], self.bytes[places], np.uint8(0))
        return np.ascontiguousarray(letters).view(f"S{width}").reshape(len(begin))

    def _numbers(self, name: str, cells: npt.NDArray[np.bytes_]) -> npt.NDArray[np.float64]:
        try:
            values = cells.astype(np.float64)
        except ValueError:
            values = np.array([np.nan])
        if not np.isfinite(values).all():  # look again, one by one, for the first bad cell
            for row, cell in enumerate(cells):
                to_number(self.path, int(self.lines[row]), name, cell.decode(errors="replace"))
        return values


def _read_rows(path: Path, layout: Layout, wanted: Mapping[str, Kind]) -> Columns:
    """The same as ``read``, for a table with quotes."""
    names = header(path, layout)
    places = positions(path, names, list(wanted))
    found = rows(path, layout)
    if layout.names is None:
        next(found)
    columns: dict[str, list[Any]] = {name: [] for name in wanted}
    for line, fields in found:
        if len(fields) != len(names):
            raise field_count(path, line, len(fields), len(names))
        for (name, kind), place in zip(wanted.items(), places, strict=True):
            columns[name].append(cell(path, line, name, kind, fields[place]))
    return as_columns(path, columns)


def cell(path: Path, line: int, name: str, kind: Kind, text: str) -> bytes | float:
    """One checked value of a column."""
    if kind == "number":
        return to_number(path, line, name, text)
    token = text.encode()
    check_token(path, line, name, len(token))
    return token


def as_columns(path: Path, columns: Mapping[str, list[Any]]) -> Columns:
    """Arrays of gathered values.

    Raises:
        DataError: when there is not a single one.
    """
    if not all(columns.values()):
        raise DataError(f"{path} holds no data.")
    return {name: np.array(values) for name, values in columns.items()}
