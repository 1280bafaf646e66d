"""MovieLens Latest, in GroupLens's own layout from a folder or a download."""

from __future__ import annotations

from typing import Literal

from fedrec.data.fetch import Archive
from fedrec.data.movielens import RESEARCH, MovieLens, MovieLensConfig
from fedrec.registry import SOURCES


class MovieLensLatestConfig(MovieLensConfig):
    """MovieLens Latest."""

    name: Literal["ml-latest"] = "ml-latest"


@SOURCES.register("ml-latest")
class MovieLensLatest(MovieLens):
    """GroupLens keeps renewing it, so there is no checksum to pin and no result to compare with a paper's."""

    name = "ml-latest"
    about = f"MovieLens Latest, some 330,000 users and 86,000 films. {RESEARCH}"
    Config = MovieLensLatestConfig
    archive = Archive(
        "https://files.grouplens.org/datasets/movielens/ml-latest.zip",
        None,
        ("ml-latest/ratings.csv", "ml-latest/movies.csv"),
    )
