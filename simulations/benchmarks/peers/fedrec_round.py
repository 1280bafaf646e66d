"""The round by fedrec: `client_round` on all clients at once, its draws included. Takes a backend, after the task."""

from __future__ import annotations

import sys
from dataclasses import replace

from fedrec.federation.round import client_round
from simulations.benchmarks.mf import setting
from simulations.benchmarks.peers.serving import Sum, serve


def main() -> None:
    """Serve rounds."""
    loaded = setting(sys.argv[2])
    federation, users = loaded.federation, loaded.split.train
    shared, noised = federation.start().shared, federation.plan(1)
    plain = replace(noised, mechanism=replace(noised.mechanism, noise_multiplier=0.0))

    def run(noise: bool) -> Sum:
        summed = client_round(federation.model, shared, users, noised if noise else plain, part=0)
        return summed.arrays["items"], summed.arrays["bias"]

    serve(run)
