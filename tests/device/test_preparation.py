"""What takes an accountant is worked out once, by another process than the one that answers."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from fedrec.device import preparation
from fedrec.device.catalogue import DOCUMENT, to_bytes
from fedrec.device.store import Store
from fedrec.errors import ConfigError, DeviceError, FedrecError, Refusal
from fedrec.federation.planning import make_federation
from tests.device.fleet import ITEMS, resolved

CALIBRATED = resolved(overrides=['privacy.noise_multiplier="none"', "privacy.epsilon=4.0"])


@pytest.fixture
def store(tmp_path: Path) -> Store:
    folder = tmp_path / "device"
    folder.mkdir(mode=0o700)
    made = Store.create(folder / "store.sqlite")
    made.put(DOCUMENT, to_bytes(ITEMS))
    return made


def name_of(text: str) -> str:
    return f"calibration-{preparation.experiment_of(text).digest()}"


def test_the_prepared_plan_is_the_server_s_to_the_last_bit(store: Store) -> None:
    preparation.prepare(store, CALIBRATED)
    own = preparation.federation(store, CALIBRATED)
    experiment = preparation.experiment_of(CALIBRATED)
    assert own.mechanisms == make_federation(experiment, ITEMS, 4).mechanisms


def test_reading_it_takes_no_accountant(store: Store) -> None:
    preparation.prepare(store, CALIBRATED)
    script = (
        "import sys; from pathlib import Path; from fedrec.device import preparation; from fedrec.device.store import "
        "Store; preparation.federation(Store(Path(sys.argv[1])), sys.stdin.read()); "
        "print([name for name in ('scipy', 'dp_accounting', 'torch') if name in sys.modules])"
    )
    command = [sys.executable, "-c", script, str(store.path)]
    done = subprocess.run(command, input=CALIBRATED, capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.strip() == "[]"


def test_a_wish_is_noted_once_and_fulfilled(store: Store) -> None:
    for _ in range(2):
        with pytest.raises(Refusal, match="not prepared"):
            preparation.federation(store, CALIBRATED)
        assert preparation.wanted(store) == [CALIBRATED]
    preparation.prepare(store, CALIBRATED)
    assert preparation.wanted(store) == []


def test_what_another_version_prepared_is_prepared_anew(store: Store) -> None:
    preparation.prepare(store, CALIBRATED)
    found = json.loads(store.get(name_of(CALIBRATED)) or b"")
    store.put(name_of(CALIBRATED), json.dumps({**found, "fedrec": "0.0.0"}).encode())
    assert preparation.wanted(store) == [CALIBRATED]


def test_an_experiment_that_cannot_be_run_is_not_tried_for_ever(store: Store) -> None:
    text = resolved(overrides=["federation.min_cohort=2", "privacy.colluders=2"])
    with pytest.raises(Refusal):
        preparation.federation(store, text)
    with pytest.raises(FedrecError, match="colluders"):
        preparation.prepare(store, text)
    assert preparation.wanted(store) == []
    with pytest.raises(Refusal, match="colluders"):
        preparation.federation(store, text)


def test_without_the_catalogue_nothing_is_prepared_and_nothing_given_up(store: Store) -> None:
    with pytest.raises(Refusal):
        preparation.federation(store, CALIBRATED)
    store.put(DOCUMENT, b"another")
    with pytest.raises(Refusal, match="another catalogue"):
        preparation.prepare(store, CALIBRATED)
    assert preparation.wanted(store) == [CALIBRATED]


def test_a_damaged_preparation_says_so(store: Store) -> None:
    preparation.prepare(store, CALIBRATED)
    found = json.loads(store.get(name_of(CALIBRATED)) or b"")
    store.put(name_of(CALIBRATED), json.dumps({**found, "rounds": "x"}).encode())
    with pytest.raises(DeviceError, match="prepare it anew"):
        preparation.federation(store, CALIBRATED)


def test_a_text_that_is_no_experiment_is_one_error(store: Store) -> None:
    for text in ("", "[[", "x" * 70_000, CALIBRATED.replace("cohort = 4\n", "")):
        with pytest.raises(ConfigError):
            preparation.federation(store, text)
