"""MovieLens in GroupLens's own layouts and two others; every MovieLens source reads any of them.

Harper & Konstan 2015, "The MovieLens Datasets: History and Context", ACM TiiS 5(4).
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np

from fedrec.config import DataConfig
from fedrec.data.fetch import Archive, cached, install, unpack
from fedrec.data.ingest import Events, Items, build
from fedrec.data.interactions import Interactions
from fedrec.data.items import ItemRows, Record, records
from fedrec.data.tabular import Layout, read
from fedrec.errors import DataError

RESEARCH = "GroupLens; research use, not commercial, no redistribution; cite Harper & Konstan 2015."

# fmt: off
_FLAGS = (
    "unknown", "Action", "Adventure", "Animation", "Children's", "Comedy", "Crime", "Documentary", "Drama", "Fantasy",
    "Film-Noir", "Horror", "Musical", "Mystery", "Romance", "Sci-Fi", "Thriller", "War", "Western",
)
# fmt: on
_NO_GENRE = {"", "unknown", "(no genres listed)"}
_YEAR = re.compile(r"\s*\((\d{4})\)\s*(\([A-Z]+\))?$")  # "Title (1995)", or "Title (1995) (V)" for a video
_ARTICLES = "The|A|An|Le|La|L'|Les|Un|Une|Il|Lo|El|Los|Las|Der|Die|Das|Ein|Eine|De|Het|En|Den|O|Os"
_ARTICLE = re.compile(rf"^(?P<rest>[^()]+), (?P<article>{_ARTICLES})(?P<after>\s*\(.*)?$")


class MovieLensConfig(DataConfig):
    """A MovieLens data set.

    Attributes:
        path: the folder with its files; none takes the cache, and downloads into it at first use.
    """

    path: str | None = None


class MovieLens:
    """What the MovieLens sources share."""

    name: ClassVar[str]
    archive: ClassVar[Archive]
    Config: ClassVar[type[MovieLensConfig]]

    @classmethod
    def load(cls, config: MovieLensConfig) -> Interactions:
        """Read the folder of the config, or the cache."""
        folder = Path(config.path).expanduser() if config.path else cls.fetch()
        events, items = read_folder(folder)
        return build(cls.name, events, items, config)

    @classmethod
    def fetch(cls) -> Path:
        """Download from GroupLens unless it is cached.

        Raises:
            DataError: with what to do without a network.
        """
        folder = cached(cls.name)
        if folder.exists():
            return folder
        try:
            return install(cls.name, lambda new: unpack(cls.archive, new))
        except DataError as error:
            page = "https://grouplens.org/datasets/movielens"
            raise DataError(
                f"Cannot fetch {cls.name}: {error} With the files from {page} at hand, set data.path."
            ) from error


def read_folder(folder: Path) -> tuple[Events, Items]:
    """Events and items of a folder, by whichever layout its files show.

    Raises:
        DataError: no such folder, or none of the layouts; or a damaged file.
    """
    if not folder.is_dir():
        raise DataError(f"There is no folder {folder}; check data.path.")
    for layout in _LAYOUTS:
        events, items = folder / layout.events, folder / layout.items
        if events.exists() and items.exists():
            return layout.read(events, items)
    known = "; ".join(f"{layout.events} and {layout.items}" for layout in _LAYOUTS)
    raise DataError(f"{folder} holds no MovieLens files; it needs one of these pairs: {known}.")


@dataclass(frozen=True)
class _Layout:
    """Two files, how each is separated, and their columns."""

    events: str
    items: str
    event_layout: Layout
    item_layout: Layout
    columns: tuple[str, str, str, str]
    film: Callable[[Record], tuple[str, str, str, list[str]]]

    def read(self, events: Path, items: Path) -> tuple[Events, Items]:
        user, item, rating, time = self.columns
        wanted = read(events, self.event_layout, {user: "token", item: "token", rating: "number", time: "number"})
        table = ItemRows(items)
        for line, record in records(items, "csv", self.item_layout):
            id_, title, year, genres = self._film(items, record)
            table.add(line, item, id_)
            name, value = split_title(title, year)
            table.titles.append(name)
            table.years.append(value)
            table.genres.append([genre for genre in genres if genre not in _NO_GENRE])
        return Events(wanted[user], wanted[item], wanted[rating], wanted[time]), table.items()

    def _film(self, path: Path, record: Record) -> tuple[str, str, str, list[str]]:
        try:
            return self.film(record)
        except KeyError as error:
            raise DataError(f"{path}, line 1: there is no column {error}.") from error


def split_title(title: str, year: str = "") -> tuple[str, float]:
    """The title as it is read out, and the year: "Matrix, The (1999)" gives "The Matrix" and 1999.

    Args:
        title: with or without its year.
        year: where it stands in a column of its own; anything but four digits is taken for unknown.
    """
    text = " ".join(title.split())
    found = _YEAR.search(text)
    if found:
        text = text[: found.start()]
        year = found[1]
    parts = _ARTICLE.match(text)
    if parts:
        gap = "" if parts["article"].endswith("'") else " "
        text = f"{parts['article']}{gap}{parts['rest']}{parts['after'] or ''}"
    return text.strip(), float(year) if re.fullmatch(r"\d{4}", year) else np.nan


def _flags(record: Record) -> tuple[str, str, str, list[str]]:
    title = "" if record["title"] == "unknown" else record["title"]
    return record["id"], title, "", [flag for flag in _FLAGS if record[flag] == "1"]


def _combined(record: Record) -> tuple[str, str, str, list[str]]:
    return record["movieId"], record["title"], "", record["genres"].split("|")


def _separate(record: Record) -> tuple[str, str, str, list[str]]:
    return record["item_id"], record["title"], record["year"], record["genres"].split("|")


def _atomic(record: Record) -> tuple[str, str, str, list[str]]:
    title = "" if record["movie_title"] == "unkonwn" else record["movie_title"]  # RecBole's own spelling of no title
    return record["item_id"], title, record["release_year"], record["class"].split(" ")


_MOVIE_IDS = ("userId", "movieId", "rating", "timestamp")
_ITEM_IDS = ("user_id", "item_id", "rating", "timestamp")
_DOUBLE_COLON = Layout("::", _MOVIE_IDS, quoted=False, encoding="latin-1")
_U_DATA = Layout("\t", _ITEM_IDS, quoted=False)
_U_ITEM = Layout("|", ("id", "title", "released", "video", "url", *_FLAGS), quoted=False, encoding="latin-1")
_CSV = Layout()
_TYPED = Layout("\t", quoted=False, typed=True)
_MOVIES_DAT = Layout("::", ("movieId", "title", "genres"), quoted=False, encoding="latin-1")

_LAYOUTS = (
    _Layout("ratings.dat", "movies.dat", _DOUBLE_COLON, _MOVIES_DAT, _MOVIE_IDS, _combined),
    _Layout("ratings.csv", "movies.csv", _CSV, _CSV, _MOVIE_IDS, _combined),
    _Layout("u.data", "u.item", _U_DATA, _U_ITEM, _ITEM_IDS, _flags),
    _Layout("ml-100k.inter", "ml-100k.item", _TYPED, _TYPED, _ITEM_IDS, _atomic),
    _Layout("interactions.csv.gz", "items.csv.gz", _CSV, _CSV, _ITEM_IDS, _separate),
)
