"""Runs the steps of a container file where no container engine is: each stage in an overlay of the host's own files.

The base image is stood in for by the host (its system Python and pip); everything else is done as an engine does it:
COPY, RUN as root in a chroot, then commands as the image's user, on a read-only root, with volumes and a fresh /tmp,
without capabilities and without new privileges. All mounts die with the mount namespace, so run it under
``unshare --mount``, as root:

    unshare --mount --propagation private python tests/kit/steps.py CONTAINERFILE CONTEXT SCRATCH < runs.json

``runs.json`` is a list of ``{"entrypoint": null or [...], "arguments": [...]}``; the answer is JSON too.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

BASE_PATH = "/usr/local/bin:/usr/local/sbin:/usr/sbin:/usr/bin:/sbin:/bin"
PASSED_ON = re.compile(r"(PIP|SSL|CURL|REQUESTS)_\w+|\w+_(proxy|PROXY)")
"""What of the host's environment a build is given: how to reach the package registry."""


class Step(NamedTuple):
    """An instruction and its argument, continued lines joined."""

    word: str
    argument: str


@dataclass
class Stage:
    """An image in the making."""

    root: Path
    environment: dict[str, str] = field(default_factory=lambda: {"PATH": BASE_PATH})
    folder: str = "/"
    user: str = "0:0"
    shell: list[str] = field(default_factory=lambda: ["/bin/sh", "-c"])
    entrypoint: list[str] = field(default_factory=list)
    command: list[str] = field(default_factory=list)
    health: list[str] = field(default_factory=list)
    volumes: list[str] = field(default_factory=list)


def parse(text: str) -> list[Step]:
    """The instructions of a container file, in order."""
    kept = "\n".join(line for line in text.splitlines() if not line.lstrip().startswith("#"))
    lines = re.sub(r"\\\n", " ", kept).splitlines()
    words = (line.split(maxsplit=1) for line in lines if line.strip())
    return [Step(word.upper(), " ".join(argument.split())) for word, argument in words]


def expanded(text: str, variables: dict[str, str]) -> str:
    """``${NAME}`` replaced; one that is not known is an error, as it is in the file."""
    return re.sub(r"\$\{(\w+)\}", lambda found: variables[found.group(1)], text)


def build(steps: list[Step], context: Path, scratch: Path) -> Stage:
    """Do all steps; the last stage is the image."""
    stages: list[Stage] = []
    names: dict[str, Stage] = {}
    arguments: dict[str, str] = {}
    for word, argument in steps:
        if word == "FROM":
            base, _, name = expanded(argument, arguments).partition(" AS ")
            stages.append(_base(base, scratch / str(len(stages))))
            names[name] = stages[-1]
        elif word == "ARG":
            name, _, value = argument.partition("=")
            arguments[name] = value.strip('"')
        else:
            _do(stages[-1], word, argument, arguments, context, names)
    return stages[-1]


def _do(
    stage: Stage, word: str, argument: str, arguments: dict[str, str], context: Path, names: dict[str, Stage]
) -> None:
    if word == "RUN":
        _inside(stage, [*stage.shell, argument], stage.environment | arguments, check=True)
    elif word == "COPY":
        _copy(stage, shlex.split(argument), context, names)
    elif word == "ENV":
        for pair in shlex.split(expanded(argument, stage.environment)):
            key, _, value = pair.partition("=")
            stage.environment[key] = value
    elif word == "WORKDIR":
        stage.folder = argument
        _host(stage, argument).mkdir(parents=True, exist_ok=True)
    elif word == "VOLUME":
        stage.volumes.append(argument)
    elif word == "USER":
        stage.user = argument
    elif word == "HEALTHCHECK":
        stage.health = json.loads(argument.partition(" CMD ")[2])
    elif word in {"SHELL", "ENTRYPOINT", "CMD"}:
        setattr(stage, {"CMD": "command"}.get(word, word.lower()), json.loads(argument))
    elif word not in {"EXPOSE", "STOPSIGNAL"}:
        raise ValueError(f"steps.py knows no instruction {word}")


def _base(image: str, scratch: Path) -> Stage:
    """An overlay of the host in a file system of its own, with the names that the Python image has."""
    if not image.startswith("docker.io/library/python:3.11-slim"):
        raise ValueError(f"the host's Python cannot stand in for {image}")
    root = scratch / "root"
    for folder in (scratch / "upper", scratch / "work", root):
        folder.mkdir(parents=True)
    _mount("-t", "overlay", "overlay", "-o", f"lowerdir=/,upperdir={scratch}/upper,workdir={scratch}/work", str(root))
    _mount("--rbind", "/dev", str(root / "dev"))
    _mount("-t", "proc", "proc", str(root / "proc"))
    _mount("-t", "tmpfs", "tmpfs", str(root / "tmp"))
    for name in ("python3", "pip3"):
        link = root / "usr/local/bin" / name.rstrip("3")
        if not link.exists():
            link.symlink_to(_tool(name))
    return Stage(root)


def _copy(stage: Stage, words: list[str], context: Path, names: dict[str, Stage]) -> None:
    source = context
    if words[0].startswith("--from="):
        source = names[words.pop(0).removeprefix("--from=")].root
    *sources, target = words
    for name in sources:
        origin, destination = source / name.lstrip("/"), _host(stage, str(Path(stage.folder, target)))
        if origin.is_dir():
            unwanted = shutil.ignore_patterns("__pycache__") if source == context else None
            shutil.copytree(origin, destination, symlinks=True, dirs_exist_ok=True, ignore=unwanted)
        else:
            shutil.copy2(origin, destination)


def _host(stage: Stage, inside: str) -> Path:
    return stage.root / inside.lstrip("/")


def _mount(*words: str) -> None:
    subprocess.run([_tool("mount"), *words], check=True)


def _tool(name: str) -> str:
    found = shutil.which(name, path=BASE_PATH)
    if found is None:
        raise ValueError(f"the host has no {name} outside anybody's home")
    return found


def _inside(
    stage: Stage, argv: list[str], environment: dict[str, str], check: bool = False
) -> subprocess.CompletedProcess[str]:
    outside = {key: value for key, value in os.environ.items() if PASSED_ON.fullmatch(key)}
    user, _, group = stage.user.partition(":")
    privileges = ["setpriv", f"--reuid={user}", f"--regid={group}", "--clear-groups"]
    if user != "0":
        privileges += ["--no-new-privs", "--bounding-set=-all", "--inh-caps=-all"]
    given = [f"{key}={value}" for key, value in (outside | environment).items()]
    command = [_tool("chroot"), str(stage.root), *privileges, "env", "-i", f"--chdir={stage.folder}", *given, *argv]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=900)
    if check and done.returncode:
        raise RuntimeError(f"{argv} ended with {done.returncode}: {(done.stdout + done.stderr)[-2000:]}")
    return done


def start(stage: Stage, scratch: Path) -> None:
    """What an engine does before the first command: volumes with their image's owner, a read-only root."""
    for number, volume in enumerate(stage.volumes):
        inside, outside = _host(stage, volume), scratch / f"volume-{number}"
        outside.mkdir()
        shutil.copystat(inside, outside)
        os.chown(outside, inside.stat().st_uid, inside.stat().st_gid)
        _mount("--bind", str(outside), str(inside))
    _mount("-o", "remount,ro", str(stage.root))


def main(containerfile: Path, context: Path, scratch: Path) -> dict[str, Any]:
    """Build, then run each command that standard input asks for."""
    runs = json.load(sys.stdin)
    _mount("-t", "tmpfs", "tmpfs", str(scratch))
    stage = build(parse(containerfile.read_text()), context, scratch)
    size = sum(path.lstat().st_size for path in _host(stage, "/opt/fedrec").rglob("*"))
    start(stage, scratch)
    answers = []
    for run in runs:
        entrypoint = stage.entrypoint if run["entrypoint"] is None else run["entrypoint"]
        done = _inside(stage, [*entrypoint, *run["arguments"]], stage.environment)
        answers.append({"code": done.returncode, "output": done.stdout + done.stderr})
    return {"runs": answers, "bytes": size, "command": stage.command, "health": stage.health, "user": stage.user}


if __name__ == "__main__":
    print(json.dumps(main(*(Path(word).resolve() for word in sys.argv[1:4]))))
