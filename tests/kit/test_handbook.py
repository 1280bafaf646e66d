"""The handbook says what is so: its commands are fedrec's, its files are there, and its tests too."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

import pytest
import typer

from fedrec.cli import device, server
from fedrec.config import load
from fedrec.data.source import load as load_data
from fedrec.deployment.experiment import for_devices
from fedrec.device.policy import Policy, load_policy
from fedrec.sections import DeploymentConfig

REPOSITORY = Path(__file__).parents[2]
PAGES = ("docs/deployment.md", "docs/threat-model.md")
COMMANDS = (
    *PAGES,
    "server/compose.yaml",
    "server/nginx.conf",
    "clients/fedrec-device.service",
    "server/fedrec-server.service",
)


def text(page: str) -> str:
    return (REPOSITORY / page).read_text(encoding="utf-8")


@cache
def verbs(group: str) -> dict[str, set[str]]:
    """The options of each verb of ``fedrec device`` or ``fedrec server``."""
    command = typer.main.get_command({"device": device.app, "server": server.app}[group])
    found = getattr(command, "commands")  # noqa: B009 - a click group, which typer does not say
    return {name: {option for one in verb.params for option in one.opts} for name, verb in found.items()}


@pytest.mark.parametrize("page", COMMANDS)
def test_every_command_is_one_with_the_options_that_are_shown(page: str) -> None:
    shown = re.findall(r"fedrec (device|server) ([a-z][a-z-]*)([^\n`|;]*)", text(page).replace("\\\n", " "))
    for group, verb, rest in shown:
        assert verb in verbs(group), f"fedrec {group} {verb}"
        unknown = set(re.findall(r"(?<!\S)--[a-z-]+", rest)) - verbs(group)[verb]
        assert not unknown, f"fedrec {group} {verb}: {unknown}"


def test_the_handbook_shows_commands() -> None:
    assert len(re.findall(r"fedrec (?:device|server) [a-z]", text("docs/deployment.md"))) > 20


@pytest.mark.parametrize("page", PAGES)
def test_every_link_leads_somewhere(page: str) -> None:
    for target in re.findall(r"\]\(([^)#:]+)\)", text(page)):
        assert (REPOSITORY / page).parent.joinpath(target).exists(), target


def test_every_test_that_shows_something_is_there() -> None:
    named = re.findall(r"`([\w/]+\.py)::(\w+)`", text("docs/threat-model.md"))
    assert len(named) > 30
    for file, name in named:
        tree = ast.parse((REPOSITORY / "tests" / file).read_text(encoding="utf-8"))
        assert name in {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}, f"{file}::{name}"


def test_the_policy_is_explained_whole_with_its_defaults(tmp_path: Path) -> None:
    explained = dict(
        re.findall(r"^\| (`[a-z_`, ]+`) \| ([^|]+) \|", text("docs/deployment.md").partition("## 4.")[2], re.M)
    )
    keys = {key.strip("` ") for cell in explained for key in cell.split(",")}
    assert set(Policy.model_fields) <= keys
    (tmp_path / "policy.toml").write_text("")
    policy = load_policy(tmp_path / "policy.toml")
    for cell, said in explained.items():
        values = [
            getattr(policy, key) for key in (name.strip("` ") for name in cell.split(",")) if hasattr(policy, key)
        ]
        for value in values:
            if isinstance(value, float | int) and not isinstance(value, bool):
                assert f"{value:g}" in said.replace("1e-5", "1e-05"), cell


def test_the_deployment_section_is_explained_whole() -> None:
    for name, field in DeploymentConfig.model_fields.items():
        assert re.search(rf"\| `{name}` \({field.default:g}\b", text("docs/deployment.md")), name


def test_the_first_experiment_runs_on_devices() -> None:
    experiment = load(str(REPOSITORY / "server/experiment.toml"))
    resolved = for_devices(experiment, load_data(experiment.data).catalogue)
    assert (resolved.federation.cohort, resolved.federation.min_cohort) == (5, 3)
