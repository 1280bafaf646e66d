"""A prepared table gives the very draws of one that is made on the spot."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from fedrec.device import tables
from fedrec.privacy import skellam
from fedrec.privacy.stream import SeededWords
from fedrec.secagg.messages import Phase
from tests.device.fleet import Fleet


def words() -> SeededWords:
    return SeededWords(np.random.default_rng(11))


@pytest.mark.parametrize("variance", [0.3, 40.0, 1e6])
def test_a_packed_table_draws_the_same(variance: float) -> None:
    table = skellam.unpacked(skellam.packed(variance))
    assert np.array_equal(skellam.draw(variance, 5000, words(), table), skellam.draw(variance, 5000, words()))


def test_no_noise_is_no_table() -> None:
    assert not skellam.draw(0.0, 5, words(), skellam.unpacked(skellam.packed(0.0))).any()


def test_a_round_takes_the_table_that_was_prepared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fleet = Fleet(tmp_path)
    server = fleet.until(Phase.MASKED)

    def made_here(variance: float) -> skellam.Table:
        raise AssertionError(f"a table of variance {variance} was not prepared")

    monkeypatch.setattr(skellam, "_table", made_here)
    fleet.handler(1).answer(fleet.question(fleet.request("masked"), server.routes[1]))


def test_without_a_table_the_noise_is_made_all_the_same(tmp_path: Path) -> None:
    fleet = Fleet(tmp_path, n=1)
    with fleet.homes[1].open_store() as store:
        tables.keep(store, [])
        assert store.names("noise-") == []
        assert tables.noise(store, 25.0, 4000).std() == pytest.approx(5, rel=0.2)  # 18 standard errors
        tables.keep(store, fleet.federation.mechanisms)
        assert len(store.names("noise-")) == 1
