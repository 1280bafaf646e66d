"""MovieLens-100K: from GroupLens, or the copy inside a wheel on the user's own package index."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Literal

from fedrec.data.fetch import Archive, cached, check, install, unpack, wheel_member
from fedrec.data.movielens import RESEARCH, MovieLens, MovieLensConfig
from fedrec.errors import DataError
from fedrec.registry import SOURCES

RATINGS_SHA256 = "06416e597f82b7342361e41163890c81036900f418ad91315590814211dca490"
"""Of GroupLens's ``u.data``, which is the body of RecBole's ``ml-100k.inter`` byte for byte."""

ITEMS_SHA256 = "51d7cdf777ce5c0f5b32c1d947a4a81fe07d75e78abbe761e0cd4d0756064532"
"""Of RecBole's ``ml-100k.item``."""

WHEEL = "recbole==1.2.1"
MEMBERS = ("recbole/dataset_example/ml-100k/ml-100k.inter", "recbole/dataset_example/ml-100k/ml-100k.item")


class MovieLens100KConfig(MovieLensConfig):
    """MovieLens-100K."""

    name: Literal["ml-100k"] = "ml-100k"


@SOURCES.register("ml-100k")
class MovieLens100K(MovieLens):
    """943 users, 1,682 films, 100,000 ratings from 1997 and 1998."""

    name = "ml-100k"
    about = f"MovieLens-100K, 943 users and 1,682 films. {RESEARCH}"
    Config = MovieLens100KConfig
    archive = Archive(
        "https://files.grouplens.org/datasets/movielens/ml-100k.zip",
        "50d2a982c66986937beb9ffb3aa76efe955bf3d5c6b761f4e3a7cd717c6a3229",
        ("ml-100k/u.data", "ml-100k/u.item"),
    )

    @classmethod
    def fetch(cls) -> Path:
        """Download unless a whole copy is cached: first GroupLens's zip, else the copy in the wheel.

        Raises:
            DataError: with what either attempt met, and what to do.
        """
        folder = cached(cls.name)
        if _is_whole(folder):
            return folder
        try:
            return install(cls.name, lambda new: _checked(new, cls._from_grouplens))
        except DataError as error:
            first = error
        try:
            return install(cls.name, lambda new: _checked(new, _from_wheel))
        except DataError as error:
            hint = "Connect to a network once, or put u.data and u.item into a folder and set data.path to it."
            raise DataError(f"Cannot fetch ml-100k. GroupLens: {first} Wheel: {error} {hint}") from error

    @classmethod
    def _from_grouplens(cls, folder: Path) -> None:
        unpack(cls.archive, folder)


def _from_wheel(folder: Path) -> None:
    for name, content in zip(MEMBERS, wheel_member(WHEEL, MEMBERS, folder), strict=True):
        (folder / Path(name).name).write_bytes(content)
    for wheel in folder.glob("*.whl"):
        wheel.unlink()
    check("ml-100k.item", ITEMS_SHA256, hashlib.sha256((folder / "ml-100k.item").read_bytes()).hexdigest())


def _checked(folder: Path, fill: Callable[[Path], None]) -> None:
    fill(folder)
    check("ml-100k", RATINGS_SHA256, _ratings_sha256(folder))


def _ratings_sha256(folder: Path) -> str:
    """Of the ratings, wherever they came from; of nothing if they are not there."""
    if (folder / "u.data").exists():
        return hashlib.sha256((folder / "u.data").read_bytes()).hexdigest()
    atomic = folder / "ml-100k.inter"
    body = atomic.read_bytes().partition(b"\n")[2] if atomic.exists() else b""
    return hashlib.sha256(body).hexdigest()


def _is_whole(folder: Path) -> bool:
    return _ratings_sha256(folder) == RATINGS_SHA256
