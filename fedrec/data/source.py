"""A data source: where interactions come from. One source a file in `fedrec.data.sources`, found by its name."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from fedrec.config import DataConfig
from fedrec.data.interactions import Interactions
from fedrec.errors import DataError
from fedrec.registry import SOURCES

Negatives = npt.NDArray[np.int32]


class Source(Protocol):
    """What every source has.

    Attributes:
        Config: its own config class, with its keys.
        about: one line on what it is, its licence and what to cite.
    """

    Config: ClassVar[type[DataConfig]]
    about: ClassVar[str]

    @staticmethod
    def load(config: Any) -> Interactions:
        """The interactions, whole or not at all; ``config`` is of the source's own ``Config``."""
        ...


@runtime_checkable
class Fetchable(Protocol):
    """A source that can be downloaded."""

    @staticmethod
    def fetch() -> Path:
        """Download unless it is cached, and return the folder."""
        ...


@runtime_checkable
class WithCandidates(Protocol):
    """A source with published negatives for the sampled evaluation."""

    @staticmethod
    def candidates(config: Any, data: Interactions) -> Negatives | None:
        """Item numbers ``[n_users, n_negatives]`` in the order of ``data``'s users, or None."""
        ...


def load(config: DataConfig) -> Interactions:
    """The interactions that a ``[data]`` section names.

    Raises:
        UnknownNameError: no such source.
        DataError: the files are missing or damaged, naming file, line and column.
    """
    data: Interactions = SOURCES.get(config.name).load(config)
    return data


def published_negatives(config: DataConfig, data: Interactions) -> Negatives | None:
    """Published negatives ``[n_users, 99]``, -1 where there is none; None for a data set that has none published.

    ``data`` may be any part of the data set: rows follow its users, numbers its catalogue.
    """
    source = SOURCES.get(config.name)
    return source.candidates(config, data) if isinstance(source, WithCandidates) else None


def fetch(name: str) -> Path:
    """Download a data set into the cache, once.

    Raises:
        UnknownNameError: no such source.
        DataError: the source is not one that can be downloaded, or the download failed.
    """
    source = SOURCES.get(name)
    if not isinstance(source, Fetchable):
        raise DataError(f"'{name}' is not downloaded: it is {source.about[0].lower()}{source.about[1:]}")
    return source.fetch()
