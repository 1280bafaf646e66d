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


def test_a_missing_policy_is_an_error_and_no_permission(tmp_path: Path) -> None:
    with pytest.raises(DeviceError, match="copy it back"):
        load_policy(tmp_path / "policy.toml")
