"""The sum of many users' Gram statistics, compiled by numba where it is installed (extra ``fast``)."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.util import find_spec

from fedrec.contribution import Floats, OuterTriangles

_FEW = 64
"""Users for whom numba need not be loaded: a device has one."""


@dataclass(frozen=True)
class Triangles(OuterTriangles):
    """`OuterTriangles` whose sum never holds the full matrix where numba computes it; to the last bit the same."""

    def weighted_sum(self, weights: Floats) -> Floats:
        if len(weights) <= _FEW or find_spec("numba") is None:
            return super().weighted_sum(weights)
        from fedrec.models.compiled_triangles import weighted_sum

        return weighted_sum(self, weights)
