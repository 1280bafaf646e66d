"""MovieLens-1M, in GroupLens's own layout from a folder or a download, with the negatives of the NCF paper."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt

from fedrec.data.fetch import Archive
from fedrec.data.interactions import Interactions
from fedrec.data.movielens import RESEARCH, MovieLens, MovieLensConfig
from fedrec.data.pseudonyms import key, pseudonyms
from fedrec.errors import DataError
from fedrec.registry import SOURCES

NEGATIVES = "ncf_negatives.npz"


class MovieLens1MConfig(MovieLensConfig):
    """MovieLens-1M."""

    name: Literal["ml-1m"] = "ml-1m"


@SOURCES.register("ml-1m")
class MovieLens1M(MovieLens):
    """6,040 users, 3,883 films, 1,000,209 ratings."""

    name = "ml-1m"
    about = f"MovieLens-1M, 6,040 users and 3,883 films. {RESEARCH}"
    Config = MovieLens1MConfig
    archive = Archive(
        "https://files.grouplens.org/datasets/movielens/ml-1m.zip",
        "a6898adb50b9ca05aa231689da44c217cb524e7ebd39d264c56e2832f2c54e20",
        ("ml-1m/ratings.dat", "ml-1m/movies.dat"),
    )

    @staticmethod
    def candidates(config: MovieLens1MConfig, data: Interactions) -> npt.NDArray[np.int32] | None:
        """The 99 published negatives of He et al. 2017 (NCF), ``[n_users, 99]``, where the folder holds them.

        Rows follow ``data``'s users and numbers its catalogue; -1 stands for an item outside the catalogue, and for
        every item of a user who has none published.

        Raises:
            DataError: for a damaged file.
        """
        file = Path(config.path).expanduser() / NEGATIVES if config.path else None
        if file is None or not file.exists() or data.user_ids is None:
            return None
        users, items = _read(file)
        row_of = {
            user: row for row, user in enumerate(pseudonyms((str(user).encode() for user in users), key()).tolist())
        }
        rows = np.array([row_of.get(user, -1) for user in data.user_ids.tolist()], dtype=np.int64)
        number_of = {item: number for number, item in enumerate(data.catalogue.ids.tolist())}
        names, places = np.unique(items, return_inverse=True)
        numbers = np.array([number_of.get(str(item), -1) for item in names], dtype=np.int32)[places].reshape(
            items.shape
        )
        return np.where((rows >= 0)[:, None], numbers[rows], np.int32(-1))


def _read(file: Path) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """The file's users ``[n]`` and their items ``[n, 99]``."""
    try:
        with file.open("rb") as opened, np.load(opened, allow_pickle=False) as arrays:
            users, items = arrays["user_id"], arrays["item_id"]
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise DataError(f"{file} does not hold the arrays user_id and item_id ({error}).") from error
    whole = np.issubdtype(users.dtype, np.integer) and np.issubdtype(items.dtype, np.integer)
    if not whole or users.ndim != 1 or items.ndim != 2 or len(users) != len(items):
        shapes = f"{users.dtype}{list(users.shape)} and {items.dtype}{list(items.shape)}"
        raise DataError(f"{file}: user_id and item_id must be whole numbers [n] and [n, 99]; they are {shapes}.")
    return users, items
