"""Any CSV, Parquet, JSON Lines or RecBole atomic file, by a column mapping."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from fedrec.config import DataConfig
from fedrec.data.ingest import Events, Items, build
from fedrec.data.interactions import Interactions
from fedrec.data.items import Format, ItemColumns, format_of, layout_of, read_items
from fedrec.data.records import read_json_lines, read_parquet
from fedrec.data.tabular import Columns, Kind, Layout, header, read
from fedrec.errors import ConfigError
from fedrec.registry import SOURCES


class TableConfig(DataConfig):
    """A table of interactions, and perhaps one of items.

    Attributes:
        path: the file of interactions; ``.gz`` is read as it is (CSV, JSON Lines, atomic).
        format: none tells it by the file's name.
        separator: of a CSV file; none takes the comma, or the tab for ``.tsv`` and atomic files.
        header: the first line names the columns; without one, columns are named "1", "2", ….
        user: the column of the user's id.
        item: the column of the item's id, in both files.
        rating: a column with a rating or a count.
        time: a column with seconds.
        items_path: the file of items, which is public.
        title: its column of titles.
        year: its column of years.
        genres: its column of genres or tags.
        genre_separator: what stands between two genres.
        features: its numeric columns that become the feature matrix.
    """

    name: Literal["table"] = "table"
    path: str
    format: Format | None = None
    separator: str | None = None
    header: bool = True
    user: str = "user_id"
    item: str = "item_id"
    rating: str | None = None
    time: str | None = None
    items_path: str | None = None
    title: str | None = None
    year: str | None = None
    genres: str | None = None
    genre_separator: str = "|"
    features: tuple[str, ...] = ()


@SOURCES.register("table")
class Table:
    """A data set of one's own."""

    about = (
        "Any CSV, Parquet, JSON Lines or RecBole atomic file: data.path names it, data.user and data.item its columns."
    )
    Config = TableConfig

    @staticmethod
    def load(config: TableConfig) -> Interactions:
        """Read the file, and the items file where there is one."""
        path = Path(config.path).expanduser()
        kinds: dict[str, Kind] = {config.user: "token", config.item: "token"}
        kinds |= {name: "number" for name in (config.rating, config.time) if name is not None}
        if len(kinds) < 2 + (config.rating is not None) + (config.time is not None):
            raise ConfigError("data.user, data.item, data.rating and data.time must name different columns.")
        columns = _read(path, config, kinds)
        events = Events(
            columns[config.user],
            columns[config.item],
            columns[config.rating] if config.rating is not None else None,
            columns[config.time] if config.time is not None else None,
        )
        return build(path.name.split(".")[0], events, _items(config), config)


def _read(path: Path, config: TableConfig, kinds: dict[str, Kind]) -> Columns:
    format_ = format_of(path, config.format)
    if format_ == "parquet":
        return read_parquet(path, kinds)
    if format_ == "jsonl":
        return read_json_lines(path, kinds)
    layout = layout_of(path, format_, config.separator)
    if not config.header:
        width = len(header(path, layout))
        layout = Layout(layout.separator, tuple(str(place + 1) for place in range(width)), layout.quoted)
    return read(path, layout, kinds)


def _items(config: TableConfig) -> Items | None:
    mapped = config.title or config.year or config.genres or config.features
    if config.items_path is None:
        if mapped:
            raise ConfigError("data.title, data.year, data.genres and data.features need data.items_path.")
        return None
    path = Path(config.items_path).expanduser()
    format_ = format_of(path, None)
    columns = ItemColumns(
        config.item, config.title, config.year, config.genres, config.genre_separator, config.features
    )
    return read_items(path, format_, layout_of(path, format_, config.separator if format_ == "csv" else None), columns)
