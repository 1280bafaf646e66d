"""Items files: any table, record by record, as `fedrec.data.ingest.Items`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np

from fedrec.data.ingest import Items
from fedrec.data.records import json_objects, parquet_rows
from fedrec.data.tabular import Layout, check_token, field_count, header, rows, to_number
from fedrec.data.text import located
from fedrec.errors import DataError, did_you_mean

Format = Literal["csv", "parquet", "jsonl", "atomic"]
Record = Mapping[str, Any]

_SUFFIXES: dict[str, Format] = {
    ".csv": "csv",
    ".tsv": "csv",
    ".txt": "csv",
    ".dat": "csv",
    ".parquet": "parquet",
    ".pq": "parquet",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".inter": "atomic",
    ".item": "atomic",
}


def format_of(path: Path, given: Format | None = None) -> Format:
    """The format by the file's name, unless it is given; ``.gz`` is looked through.

    Raises:
        DataError: for a name that tells nothing.
    """
    suffix = Path(path.name.removesuffix(".gz")).suffix.lower()
    if given is None and suffix not in _SUFFIXES:
        raise DataError(
            f"{path}: the name does not tell the format; let it end with .csv, .tsv, .parquet, .jsonl or .item, or set "
            "data.format in the experiment."
        )
    return given or _SUFFIXES[suffix]


def layout_of(path: Path, format_: Format, separator: str | None = None) -> Layout:
    """The layout of a separated file: tabs in ``.tsv`` and atomic files, commas elsewhere, unless given."""
    if format_ == "atomic":
        return Layout(separator or "\t", quoted=False, typed=True)
    tabs = ".tsv" in path.suffixes
    return Layout(separator or ("\t" if tabs else ","), quoted=len(separator or ",") == 1)


def records(path: Path, format_: Format, layout: Layout) -> Iterator[tuple[int, Record]]:
    """Each record's line (in Parquet: its row) and its values by column.

    Raises:
        DataError: naming line and column of what is wrong.
    """
    if format_ == "jsonl":
        yield from json_objects(path)
    elif format_ == "parquet":
        columns = parquet_rows(path)
        for number, values in enumerate(zip(*columns.values(), strict=True), 1):
            yield number, dict(zip(columns, values, strict=True))
    else:
        names = header(path, layout)
        found = rows(path, layout)
        if layout.names is None:
            next(found)
        for number, fields in found:
            if len(fields) != len(names):
                raise field_count(path, number, len(fields), len(names))
            yield number, dict(zip(names, fields, strict=True))


@dataclass(frozen=True)
class ItemColumns:
    """Which columns of an items file hold what.

    Attributes:
        item: the item's id.
        title: its title.
        year: a number, or empty.
        genres: genres or tags, separated by ``genre_separator`` (or a list, in JSON Lines and Parquet).
        genre_separator: one character.
        features: numeric columns, which make the feature matrix.
    """

    item: str
    title: str | None = None
    year: str | None = None
    genres: str | None = None
    genre_separator: str = "|"
    features: tuple[str, ...] = ()


@dataclass
class ItemRows:
    """Gathers items one by one and refuses the second of an id."""

    path: Path
    ids: dict[bytes, None] = field(default_factory=dict)
    titles: list[str] = field(default_factory=list)
    years: list[float] = field(default_factory=list)
    genres: list[Sequence[str]] = field(default_factory=list)
    features: list[list[float]] = field(default_factory=list)

    def add(self, line: int, column: str, item: str) -> None:
        """Take the next item's id.

        Raises:
            DataError: for an empty id or one that was there before.
        """
        token = item.encode()
        check_token(self.path, line, column, len(token))
        if token in self.ids:
            raise located(self.path, line, f"item '{item}' stands here a second time.", column)
        self.ids[token] = None

    def items(self) -> Items:
        """All of them; what was never given is None.

        Raises:
            DataError: when there is not one.
        """
        if not self.ids:
            raise DataError(f"{self.path} holds no items.")
        return Items(
            ids=np.array(list(self.ids)),
            titles=self.titles or None,
            years=self.years or None,
            genres=self.genres or None,
            features=np.array(self.features, dtype=np.float32) if self.features else None,
        )


def read_items(path: Path, format_: Format, layout: Layout, columns: ItemColumns) -> Items:
    """An items file by its column mapping.

    Raises:
        DataError: naming line and column of what is wrong.
    """
    table = ItemRows(path)
    for line, record in records(path, format_, layout):
        table.add(line, columns.item, str(_value(path, line, record, columns.item) or ""))
        if columns.title:
            table.titles.append(str(_value(path, line, record, columns.title) or ""))
        if columns.year:
            text = _value(path, line, record, columns.year)
            table.years.append(np.nan if text in ("", None) else to_number(path, line, columns.year, str(text)))
        if columns.genres:
            table.genres.append(_genres(_value(path, line, record, columns.genres), columns.genre_separator))
        if columns.features:
            values = [(name, _value(path, line, record, name)) for name in columns.features]
            table.features.append([to_number(path, line, name, str(value)) for name, value in values])
    return table.items()


def _value(path: Path, line: int, record: Record, column: str) -> Any:
    if column not in record:
        raise located(path, line, f"there is no column '{column}'. {did_you_mean(column, record)}")
    return record[column]


def _genres(value: Any, separator: str) -> list[str]:
    parts = value if isinstance(value, list) else str(value or "").split(separator)
    return [text for part in parts if (text := str(part).strip())]
