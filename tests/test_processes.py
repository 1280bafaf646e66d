"""Flower's processes seen from outside: what they see, and the errors that they leave word of."""

from __future__ import annotations

from pathlib import Path

import pytest

from fedrec import processes
from fedrec.errors import BudgetExceededError, FedrecError


def test_flower_s_own_settings_are_left_out_and_all_else_is_kept() -> None:
    seen = processes.environment(Path("/flwr"), {"FLWR_LICENSE_KEY": "x", "RAY_ADDRESS": "auto", "NO_PROXY": "mine"})
    assert "FLWR_LICENSE_KEY" not in seen
    assert "RAY_ADDRESS" not in seen
    assert (seen["NO_PROXY"], seen["FLWR_HOME"], seen["FLWR_TELEMETRY_ENABLED"]) == ("mine", "/flwr", "0")


@pytest.mark.parametrize(
    ("name", "kind"), [("BudgetExceededError", BudgetExceededError), ("SomethingElse", FedrecError)]
)
def test_an_error_of_another_process_comes_back_as_its_own_class(name: str, kind: type[FedrecError]) -> None:
    found = processes.brought_back({"type": name, "message": "no more"})
    assert (type(found), str(found), found.exit_code) == (kind, "no more", kind.exit_code)
