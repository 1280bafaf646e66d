"""The policy file: safe where it says nothing, and an error where it says something else."""

from __future__ import annotations

from pathlib import Path

import pytest

from fedrec.device.policy import TEMPLATE, Policy, load_policy
from fedrec.errors import DeviceError


def test_the_file_of_a_new_device_says_what_the_defaults_are(tmp_path: Path) -> None:
    path = tmp_path / "policy.toml"
    path.write_text(TEMPLATE)
    assert load_policy(path) == Policy()
    assert [key for key in Policy.model_fields if f"\n{key} = " not in TEMPLATE] == []


def test_a_device_whose_owner_has_said_nothing_takes_part_in_nothing(tmp_path: Path) -> None:
    path = tmp_path / "policy.toml"
    path.write_text("")
    assert not load_policy(path).opt_in


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("optin = true", "Did you mean 'opt_in'"),
        ('opt_in = "yes, please"', "opt_in"),
        ("epsilon_day = inf", "epsilon_day"),
        ("epsilon_total = -1.0", "epsilon_total"),
        ("delta = 2.0", "delta"),
        ("min_cohort = 1", "min_cohort"),
        ('trust = ["central"]', "trust"),
        ("hook = 'rm -rf /'", "hook"),
        ("min_noise_multiplier = 0", "min_noise_multiplier"),
        ("opt_in = ", "not valid TOML"),
    ],
)
def test_a_mistake_is_named(tmp_path: Path, text: str, words: str) -> None:
    path = tmp_path / "policy.toml"
    path.write_text(text)
    with pytest.raises(DeviceError, match=r"^The policy") as raised:
        load_policy(path)
    assert words in str(raised.value)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('opt_in = "yes, please"', 'has opt_in = "yes, please", and it takes true or false;'),
        ("epsilon_total = -1.0", "has epsilon_total = -1.0, and it takes a number above 0.0;"),
        ("min_cohort = 1", "has min_cohort = 1, and it takes at least 2;"),
        ("min_cohort = 2.5", "has min_cohort = 2.5, and it takes a whole number;"),
        ('trust = ["central"]', """has trust = "central", and it takes 'distributed' or 'local';"""),
        ("hook = 'rm -rf /'", """has hook = "rm -rf /", and it takes a list, as in ["one", "two"];"""),
        ('unit = "item"', """has unit = "item", and it takes 'user' or 'interaction';"""),
        ("epsilon_day = nan", "has epsilon_day = NaN, and it takes a finite number;"),
    ],
)
def test_a_mistake_is_told_in_the_file_s_own_words(tmp_path: Path, text: str, words: str) -> None:
    path = tmp_path / "policy.toml"
    path.write_text(text)
    with pytest.raises(DeviceError) as raised:
        load_policy(path)
    assert str(raised.value) == f"The policy '{path}' {words} correct it."


@pytest.mark.parametrize("mode", [0o620, 0o602, 0o666])
def test_a_policy_that_others_can_change_is_refused(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "policy.toml"
    path.write_text(TEMPLATE)
    path.chmod(mode)
    with pytest.raises(DeviceError, match=r"^Others on this machine can change the policy .*; run: chmod 600 '"):
        load_policy(path)
    path.chmod(0o644)
    assert load_policy(path) == Policy()


def test_a_missing_policy_is_an_error_and_no_permission(tmp_path: Path) -> None:
    with pytest.raises(DeviceError, match="copy it back"):
        load_policy(tmp_path / "policy.toml")
