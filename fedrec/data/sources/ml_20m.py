"""MovieLens-20M, in GroupLens's own layout from a folder or a download."""

from __future__ import annotations

from typing import Literal

from fedrec.data.fetch import Archive
from fedrec.data.movielens import RESEARCH, MovieLens, MovieLensConfig
from fedrec.registry import SOURCES


class MovieLens20MConfig(MovieLensConfig):
    """MovieLens-20M."""

    name: Literal["ml-20m"] = "ml-20m"


@SOURCES.register("ml-20m")
class MovieLens20M(MovieLens):
    """138,493 users, 27,278 films, 20 million ratings."""

    name = "ml-20m"
    about = f"MovieLens-20M, 138,493 users and 27,278 films. {RESEARCH}"
    Config = MovieLens20MConfig
    archive = Archive(
        "https://files.grouplens.org/datasets/movielens/ml-20m.zip",
        "96f243c338a8665f6bcc89c53edf6ee39162a846940de6b7c8c48aeada765ff3",
        ("ml-20m/ratings.csv", "ml-20m/movies.csv"),
    )
