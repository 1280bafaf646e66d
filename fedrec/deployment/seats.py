"""Where devices stand in the cohorts of attempts, read off trees that are kept."""

from __future__ import annotations

import json
from bisect import bisect_left
from collections.abc import Collection, Mapping
from typing import Any

from fedrec.errors import ServerError
from fedrec.privacy.proofs import levels, path_to_root

Place = tuple[int, int]
"""An attempt of a run: round and attempt."""


class Cohort:
    """An attempt's pseudonyms as `fedrec.privacy.participants` has them, with the tree of RFC 6962 above them.

    `participants.seats` hashes a whole cohort for each one who asks; this does it once.
    """

    def __init__(self, pseudonyms: Collection[str]) -> None:
        self._leaves = sorted(pseudonyms)
        self._levels = levels([leaf.encode() for leaf in self._leaves])

    def seats(self, pseudonym: str) -> list[dict[str, Any]]:
        """One's own seat, or the neighbours of where it would be, as JSON holds them."""
        place = bisect_left(self._leaves, pseudonym)
        within = place < len(self._leaves) and self._leaves[place] == pseudonym
        shown = [place] if within else [index for index in (place - 1, place) if 0 <= index < len(self._leaves)]
        return [
            {
                "pseudonym": self._leaves[index],
                "index": index,
                "proof": [step.hex() for step in path_to_root(self._levels, index)],
            }
            for index in shown
        ]


def read_cohorts(content: bytes, name: str) -> dict[Place, tuple[int, ...]]:
    """The numbers of the devices that were asked, by attempt.

    A crash before an attempt was reserved leaves two lines of it, of which the last counts; a line without its end was
    cut short, and the attempt was not reserved.

    Raises:
        ServerError: if a whole line is damaged.
    """
    found = {}
    for number, line in enumerate(content.split(b"\n")[:-1], start=1):
        try:
            one: Mapping[str, Any] = json.loads(line)
            found[one["round"], one["attempt"]] = tuple(one["numbers"])
        except (ValueError, KeyError, TypeError) as error:
            raise ServerError(f"'{name}', line {number} is damaged; restore it from a backup.") from error
    return found
