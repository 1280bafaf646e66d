"""The container files and the compose file: linted, and their steps run for real where the host lets a test mount."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import yaml  # type: ignore[import-untyped]  # Flower brings it, without types

REPOSITORY = Path(__file__).parents[2]
STEPS = Path(__file__).with_name("steps.py")
CONTAINER_FILES = ("clients/Containerfile", "server/Containerfile")


def tool(name: str) -> str:
    """A linter of the development extra."""
    found = shutil.which(name, path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    if found is None:
        pytest.skip(f"{name} is not installed")
    return found


@pytest.mark.parametrize("name", CONTAINER_FILES)
def test_the_linter_finds_nothing_in_a_container_file(name: str) -> None:
    done = subprocess.run([tool("hadolint"), "--no-color", REPOSITORY / name], check=False, capture_output=True)
    assert (done.returncode, done.stdout) == (0, b"")


def test_the_linter_finds_what_is_wrong(tmp_path: Path) -> None:
    (tmp_path / "Containerfile").write_text("FROM debian:latest\nRUN apt-get install curl\nRUN cd /tmp && ls | wc\n")
    done = subprocess.run([tool("hadolint"), tmp_path / "Containerfile"], check=False, capture_output=True)
    assert done.returncode == 1


def compose() -> dict[str, Any]:
    """The compose file with its anchors merged."""
    merged: dict[str, Any] = yaml.safe_load((REPOSITORY / "server/compose.yaml").read_text())
    return merged


def test_the_compose_file_is_of_the_specification() -> None:
    specification = pytest.importorskip("compose_spec")
    read = specification.PyCompose.from_json(json.dumps(compose()))
    read.validate_networks()
    read.validate_volumes()
    with pytest.raises(ValueError, match="reed_only"):
        specification.PyCompose.from_json(json.dumps(compose()).replace('"read_only"', '"reed_only"'))


def test_the_security_linter_passes_the_compose_file() -> None:
    done = subprocess.run(
        [tool("compose-lint"), "check", REPOSITORY / "server/compose.yaml"], check=False, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout


def test_every_service_is_built_here_and_may_write_to_its_volume_alone() -> None:
    services = compose()["services"]
    assert list(services) == ["server", *(f"device-{number}" for number in range(1, 6))]
    for name, service in services.items():
        assert service["read_only"] is True
        assert service["cap_drop"] == ["ALL"]
        assert service["security_opt"] == ["no-new-privileges:true"]
        assert service["volumes"] == [f"{name}:/var/lib/fedrec"]
        assert service["image"].endswith(f":{version('fedrec')}")
        assert (REPOSITORY / service["build"]["dockerfile"]).is_file()
    assert compose()["networks"] == {"fleet": {"internal": True}}


def build_and_run(name: str, scratch: Path, runs: list[tuple[list[str] | None, list[str]]]) -> dict[str, Any]:
    """Build an image by its steps, then run (entry point or the image's own, arguments) one after the other."""
    mounts = ["unshare", "--mount", "--propagation", "private"]
    if subprocess.run([*mounts, "true"], check=False, capture_output=True).returncode:
        pytest.skip("the steps need a mount namespace, which root may make")
    if shutil.which("pip3", path="/usr/local/bin:/usr/bin") is None:
        pytest.skip("the host's Python stands in for the base image, and it has no pip3")
    scratch.mkdir()
    done = subprocess.run(
        [*mounts, sys.executable, STEPS, REPOSITORY / name, REPOSITORY, scratch],
        check=False,
        capture_output=True,
        text=True,
        input=json.dumps([{"entrypoint": entrypoint, "arguments": arguments} for entrypoint, arguments in runs]),
    )
    assert done.returncode == 0, done.stderr[-2000:]
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "own"),
    [
        (
            "clients/Containerfile",
            [(2, "device status"), (0, "device init"), (0, "device status"), (0, "device run --help")],
        ),
        ("server/Containerfile", [(2, "server status"), (0, "server up --help")]),
    ],
)
def test_the_steps_of_a_container_file_make_an_image_that_works_without_privileges(
    name: str, own: list[tuple[int, str]], tmp_path: Path
) -> None:
    common: list[tuple[int, list[str] | None, list[str]]] = [
        (0, None, ["--version"]),
        (0, None, ["doctor"]),
        (1, ["python", "-c"], ["import torch"]),
        (1, ["python", "-m"], ["pip", "--version"]),
        (0, ["sh", "-c"], ["touch /var/lib/fedrec/written /tmp/written && ! touch /opt/fedrec/written"]),
        (0, ["sh", "-c"], ["id -u; grep -h -E '^(CapBnd|NoNewPrivs)' /proc/self/status"]),
    ]
    runs = [*common, *((code, None, words.split()) for code, words in own)]
    image = build_and_run(name, tmp_path / "scratch", [(entrypoint, words) for _, entrypoint, words in runs])
    said = [run["output"] for run in image["runs"]]
    assert [run["code"] for run in image["runs"]] == [code for code, _, _ in runs], said
    assert said[0] == f"fedrec {version('fedrec')}\n"
    assert "nothing is wrong" in said[1]
    assert re.fullmatch(r"10001\nCapBnd:\t0+\nNoNewPrivs:\t1\n", said[5])
    assert image["command"] == own[-1][1].split()[:2]
    assert image["health"] == ["fedrec", *own[0][1].split(), "--json"]
    assert image["bytes"] < 500e6
