"""HetRec 2011 Last.fm: who played which artist how often, in GroupLens's own layout or as two CSV files."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Literal

import numpy as np

from fedrec.config import DataConfig
from fedrec.data.fetch import Archive, cached, install, unpack
from fedrec.data.ingest import Events, Items, build
from fedrec.data.interactions import Interactions
from fedrec.data.items import ItemColumns, ItemRows, read_items, records
from fedrec.data.tabular import Layout, read
from fedrec.data.text import located
from fedrec.errors import DataError
from fedrec.registry import SOURCES

MAX_TAGS = 8
"""Tags that an artist keeps: those given most often."""

_TABS = Layout("\t", quoted=False)
_TAGS = Layout("\t", quoted=False, encoding="latin-1")


class LastFMConfig(DataConfig):
    """Last.fm of HetRec 2011; ``min_rating`` is a play count.

    Attributes:
        path: the folder with its files; none takes the cache, and downloads into it at first use.
    """

    name: Literal["lastfm-2k"] = "lastfm-2k"
    path: str | None = None


@SOURCES.register("lastfm-2k")
class LastFM2K:
    """1,892 users, 17,632 artists, 92,834 play counts; no times. Cantador, Brusilovsky & Kuflik 2011."""

    about = "Last.fm 2K, 1,892 users and 17,632 artists. HetRec 2011; not commercial; cite Last.fm and HetRec 2011."
    Config = LastFMConfig
    archive = Archive(
        "https://files.grouplens.org/datasets/hetrec2011/hetrec2011-lastfm-2k.zip",
        "6738f48195667ff03caaab4d32ca9a3133d8cc026b7c3cdaf6ce1010e913c59c",
        ("user_artists.dat", "artists.dat", "tags.dat", "user_taggedartists.dat"),
    )

    @classmethod
    def load(cls, config: LastFMConfig) -> Interactions:
        """Read the folder of the config, or the cache."""
        folder = Path(config.path).expanduser() if config.path else cls.fetch()
        if (folder / "user_artists.dat").exists():
            events = _events(folder / "user_artists.dat", _TABS, "userID", "artistID", "weight")
            return build("lastfm-2k", events, _artists(folder), config, ("tags: from what users gave their artists",))
        if (folder / "interactions.csv.gz").exists():
            events = _events(folder / "interactions.csv.gz", Layout(), "user_id", "item_id", "play_count")
            columns = ItemColumns("item_id", title="title", genres="tags")
            return build("lastfm-2k", events, read_items(folder / "items.csv.gz", "csv", Layout(), columns), config)
        raise DataError(f"{folder} holds neither user_artists.dat nor interactions.csv.gz; check data.path.")

    @classmethod
    def fetch(cls) -> Path:
        """Download from GroupLens unless it is cached.

        Raises:
            DataError: with what to do without a network.
        """
        folder = cached("lastfm-2k")
        if folder.exists():
            return folder
        try:
            return install("lastfm-2k", lambda new: unpack(cls.archive, new))
        except DataError as error:
            page = "https://grouplens.org/datasets/hetrec-2011"
            raise DataError(
                f"Cannot fetch lastfm-2k: {error} With the files from {page} at hand, set data.path."
            ) from error


def _events(path: Path, layout: Layout, user: str, item: str, plays: str) -> Events:
    columns = read(path, layout, {user: "token", item: "token", plays: "number"})
    return Events(columns[user], columns[item], columns[plays])


def _artists(folder: Path) -> Items:
    """The artists with their names and the tags that they were given most often."""
    path = folder / "artists.dat"
    tags = _tags(folder)
    table = ItemRows(path)
    for line, record in records(path, "csv", _TABS):
        if "id" not in record or "name" not in record:
            raise located(path, 1, "the columns 'id' and 'name' are needed.")
        table.add(line, "id", record["id"])
        table.titles.append(record["name"])
        table.genres.append(tags.get(record["id"], []))
    return table.items()


def _tags(folder: Path) -> dict[str, list[str]]:
    names = {record["tagID"]: record["tagValue"] for _, record in records(folder / "tags.dat", "csv", _TAGS)}
    columns = read(folder / "user_taggedartists.dat", _TABS, {"artistID": "token", "tagID": "token"})
    given: dict[str, Counter[str]] = {}
    for artist, tag in zip(np.char.decode(columns["artistID"]), np.char.decode(columns["tagID"]), strict=True):
        if tag in names:
            given.setdefault(str(artist), Counter())[names[tag]] += 1
    return {artist: [tag for tag, _ in counts.most_common(MAX_TAGS)] for artist, counts in given.items()}
