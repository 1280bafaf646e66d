"""MovieLens Latest Small, in GroupLens's own layout from a folder or a download."""

from __future__ import annotations

from typing import Literal

from fedrec.data.fetch import Archive
from fedrec.data.movielens import RESEARCH, MovieLens, MovieLensConfig
from fedrec.registry import SOURCES


class MovieLensLatestSmallConfig(MovieLensConfig):
    """MovieLens Latest Small."""

    name: Literal["ml-latest-small"] = "ml-latest-small"


@SOURCES.register("ml-latest-small")
class MovieLensLatestSmall(MovieLens):
    """GroupLens keeps renewing it, so there is no checksum to pin and no result to compare with a paper's."""

    name = "ml-latest-small"
    about = f"MovieLens Latest Small, 610 users and 9,742 films. {RESEARCH}"
    Config = MovieLensLatestSmallConfig
    archive = Archive(
        "https://files.grouplens.org/datasets/movielens/ml-latest-small.zip",
        None,
        ("ml-latest-small/ratings.csv", "ml-latest-small/movies.csv"),
    )
