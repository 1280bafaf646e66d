"""Contributions and messages as flat vectors in a release's scaled units, which audits look at."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from fedrec.contribution import Contribution, Entries, Floats
from fedrec.federation.round import Plan
from fedrec.privacy.mechanism import ShardSum, opened
from fedrec.release import Release

Bools = npt.NDArray[np.bool_]


def arrays_of(message: ShardSum, plan: Plan) -> Mapping[str, npt.NDArray[Any]]:
    """What a message holds when it is seen by itself, in the release's scaled units."""
    grid = plan.mechanism.grid
    return (message if grid is None else opened(message, plan.release, plan.mechanism, grid)).arrays


def vector_of(message: ShardSum, plan: Plan) -> Floats:
    """The same as one vector ``[size]``."""
    return np.asarray(plan.release.flatten(arrays_of(message, plan)), np.float64)


def entries_of(contribution: Contribution, release: Release, first: int, last: int) -> Entries:
    """The coordinates that users ``first`` to ``last`` (left out) touch in the flat scaled vector, user after user."""
    users, coordinates, values, offset = [], [], [], 0
    for component in release.components:
        part = contribution.parts[component.name].entries(first, last)
        users.append(part.users)
        coordinates.append(part.coordinates + offset)
        values.append(component.scale * part.values)
        offset += component.size
    owner = np.concatenate(users)
    order = np.argsort(owner, kind="stable")
    return Entries(owner[order], np.concatenate(coordinates)[order], np.concatenate(values)[order])


def quiet(plan: Plan) -> Plan:
    """The attempt without any noise: the clip alone, in floating point."""
    dpsgd = plan.release.dpsgd
    release = plan.release if dpsgd is None else replace(plan.release, dpsgd=replace(dpsgd, noise_multiplier=0.0))
    return replace(plan, release=release, mechanism=replace(plan.mechanism, noise_multiplier=0.0, grid=None))


def zero_rows(array: npt.NDArray[Any]) -> Bools:
    """Which rows, along the first axis, hold zeros alone; a number is a row."""
    rows = array.shape[0] if array.shape else 1
    return np.asarray(~array.reshape(rows, -1).any(axis=1))
