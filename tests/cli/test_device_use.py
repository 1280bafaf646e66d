"""``fedrec device recommend``, ``budget`` and ``serve``, as a user types them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from fedrec.device.home import DeviceHome
from tests.cli.conftest import Done
from tests.device.stored import catalogue, experiment, mf_model, put_catalogue, put_model

N = 40


@pytest.fixture
def device(tmp_path: Path) -> Path:
    home = DeviceHome.create(tmp_path / "device")
    with home.open_store() as store:
        put_catalogue(store, catalogue(N))
        put_model(store, experiment(catalogue(N), name="mf", dimension=8), mf_model(N))
    return home.root


def test_a_list_follows_what_was_recorded(fedrec: Callable[..., Done], device: Path) -> None:
    for item in ("i3", "i4"):
        assert fedrec("device", "record", item, "--home", device).code == 0
    plain = fedrec("device", "recommend", "--home", device, "--k", "5")
    assert (plain.code, len(plain.out.splitlines())) == (0, 5)
    why = fedrec("device", "recommend", "--home", device, "--k", "5", "--why")
    assert "because you saw Title 3" in why.out or "because you saw Title 4" in why.out
    first = plain.out.splitlines()[0].rpartition("[")[2].rstrip("]")
    assert fedrec("device", "feedback", first, "hidden", "--home", device).code == 0
    assert f"[{first}]" not in fedrec("device", "recommend", "--home", device, "--k", str(N)).out


@pytest.mark.parametrize("words", [["record", "i3x"], ["feedback", "i3x", "liked"]])
def test_an_item_that_the_catalogue_does_not_hold_is_kept_and_told(
    fedrec: Callable[..., Done], device: Path, words: list[str]
) -> None:
    assert "1 item is not in the catalogue: kept" in fedrec("device", *words, "--home", device).out


def test_the_json_s_reasons_add_up(fedrec: Callable[..., Done], device: Path) -> None:
    fedrec("device", "record", "i3", "--home", device)
    done = fedrec("device", "recommend", "--home", device, "--json", "--diversity", "0.5", "--novelty", "0.3")
    found = json.loads(done.out)
    assert len(found["items"]) == 10
    for one in found["items"]:
        assert sum(reason["amount"] for reason in one["reasons"]) == pytest.approx(one["score"], rel=1e-4, abs=1e-5)


def test_a_new_device_says_what_to_do(fedrec: Callable[..., Done], tmp_path: Path) -> None:
    root = DeviceHome.create(tmp_path / "device").root
    done = fedrec("device", "recommend", "--home", root)
    assert (done.code, done.out) == (2, "")
    assert "fedrec device sync" in done.err


def test_the_budget_of_a_device_that_has_answered_nothing(fedrec: Callable[..., Done], device: Path) -> None:
    done = fedrec("device", "budget", "--home", device, "--check")
    assert done.code == 0
    assert "0 of 8" in done.out
    assert "run 'fedrec device sync'" in done.out
    found = json.loads(fedrec("device", "budget", "--home", device, "--json").out)
    assert (found["spent"], found["epsilon_total"], found["runs"]) == (0.0, 8.0, [])


def test_a_ledger_that_does_not_hold_is_a_fault_and_exit_code_1(fedrec: Callable[..., Done], device: Path) -> None:
    with DeviceHome.open(device).open_store() as store:
        store.put("ledger", b'{"edited":1}\n')
        store.put("ledger-checkpoint", b"{}")
    done = fedrec("device", "budget", "--home", device, "--check")
    assert done.code == 1
    assert "FAULT" in done.out
    found = json.loads(fedrec("device", "budget", "--home", device, "--check", "--json").out)
    assert len(found["ledger"]["faults"]) == 1
    assert found["ledger"]["proved"] == []


@pytest.mark.parametrize("arguments", [("--k", "0"), ("--diversity", "2"), ("--novelty", "-1")])
def test_a_wrong_dial_is_bad_usage(fedrec: Callable[..., Done], device: Path, arguments: tuple[str, str]) -> None:
    assert fedrec("device", "recommend", "--home", device, *arguments).code == 2
