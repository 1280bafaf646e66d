"""The experiment: frozen pydantic models; TOML in, resolved TOML out.

A section that names a registered thing (``[data]``, ``[model]``) takes the options of that thing's own config class;
every other section stands in `fedrec.sections`. In TOML, which has no null, ``"none"`` means none.
"""

from __future__ import annotations

import hashlib
import json
import tomllib
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any, TypeVar

import tomli_w
from pydantic import BaseModel, Field, SerializeAsAny, ValidationError, model_validator

from fedrec.errors import ConfigError, did_you_mean
from fedrec.registry import MODELS, SOURCES, Registry
from fedrec.sections import (
    DataConfig,
    DeploymentConfig,
    EngineConfig,
    EvaluationConfig,
    FederationConfig,
    ModelConfig,
    PrivacyConfig,
    Section,
    SplitConfig,
    TrainingConfig,
)

__all__ = [
    "DataConfig",
    "DeploymentConfig",
    "EngineConfig",
    "EvaluationConfig",
    "Experiment",
    "FederationConfig",
    "ModelConfig",
    "PrivacyConfig",
    "Section",
    "SplitConfig",
    "TrainingConfig",
    "load",
    "named_or_text",
    "packaged",
    "parse",
    "resolve",
]


class Experiment(Section):
    """A whole run: feeding the resolved file back reproduces it."""

    name: str = "experiment"
    seed: int = Field(1, ge=0, lt=2**63)
    data: SerializeAsAny[DataConfig]
    split: SplitConfig = SplitConfig()
    model: SerializeAsAny[ModelConfig]
    training: TrainingConfig = TrainingConfig()
    federation: FederationConfig = FederationConfig()
    privacy: PrivacyConfig = PrivacyConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
    engine: EngineConfig = EngineConfig()
    deployment: DeploymentConfig | None = None

    @model_validator(mode="after")
    def _check(self) -> Experiment:
        cohort, least = self.federation.cohort, self.federation.min_cohort
        if cohort is not None and least is not None and least > cohort:
            raise ValueError(f"federation.min_cohort = {least} is above federation.cohort = {cohort}")
        if self.privacy.delta < 1e-30:
            raise ValueError(f"privacy.delta = {self.privacy.delta:g} is below 1e-30, which no accountant resolves")
        if self.noise == "skellam" and self.noise_inside:
            raise ValueError(
                "privacy.noise = 'skellam' is integer noise, which local training under privacy.trust = 'local' cannot "
                "carry in every step; take 'auto'"
            )
        if self.noise == "gaussian" and self.privacy.source == "secure" and not self.noise_inside:
            raise ValueError(
                "privacy.source = 'secure' needs privacy.noise = 'skellam': floating-point noise is no guarantee"
            )
        if self.noise == "gaussian" and self._masked:
            raise ValueError(
                "privacy.noise = 'gaussian' cannot be shared on Flower, whose clients send integers that can be "
                "masked; take 'skellam', or privacy.trust = 'central' to compare"
            )
        if self.federation.aggregation != "sum" and self.noise != "none" and self.privacy.trust != "local":
            raise ValueError(
                f"federation.aggregation = '{self.federation.aggregation}' looks at single vectors, which only carry "
                "all of their noise under privacy.trust = 'local'; take that, 'sum', or no privacy"
            )
        if self.noise == "skellam" and self.privacy.trust == "central":
            raise ValueError("privacy.noise = 'skellam' is what clients add; under privacy.trust = 'central' none does")
        return self

    @property
    def noise(self) -> str:
        """The noise that ``privacy.noise`` stands for: ``none``, ``gaussian`` or ``skellam``."""
        if self.privacy.epsilon is None:
            return "none"
        if self.privacy.noise != "auto":
            return self.privacy.noise
        secure = self.privacy.source == "secure" and not self.noise_inside
        return "skellam" if self._masked or secure else "gaussian"

    @property
    def noise_inside(self) -> bool:
        """Whether every step of local training carries all of the noise, so that nothing is added to its result."""
        alone = self.privacy.unit == "interaction" or self.training.sample == "history"
        return self.privacy.trust == "local" and alone and bool(MODELS.get(self.model.name).backends)

    @property
    def _masked(self) -> bool:
        """Whether what clients send is to be masked: floating-point vectors cannot be."""
        return self.engine.name == "flower" and self.privacy.trust == "distributed"

    def to_toml(self) -> str:
        """The resolved experiment; ``parse`` of it gives an equal one."""
        left_out = {"deployment"} if self.deployment is None else None
        return tomli_w.dumps(_without_null(self.model_dump(mode="json", exclude=left_out)))

    def digest(self) -> str:
        """What identifies an experiment: everything but its name and where it runs, SHA-256 in hex."""
        values = self.model_dump(mode="json", exclude={"engine", "name"})
        values["privacy"]["noise"] = self.noise
        for section, key, default in _LATER:  # what came later leaves the digests of what was there before
            inside = values[section] if section else values
            if inside[key] == default:
                del inside[key]
        return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()

    def replaced(self, **sections: Mapping[str, Any]) -> Experiment:
        """A copy with some keys of some sections changed, checked anew."""
        raw = self.model_dump(mode="json")
        for section, values in sections.items():
            raw[section] = _merged(section, raw[section], values)
        return resolve(raw)


T = TypeVar("T", bound=BaseModel)

_LATER = (("", "deployment", None), ("federation", "aggregation", "sum"))
"""Keys that are not in a digest while they have their defaults: section, key, default."""

_NAMED: dict[str, Registry[Any]] = {"data": SOURCES, "model": MODELS}
_SHORT = (*_NAMED, "split", "engine")
"""Sections that may be written as their name alone."""


def resolve(raw: Mapping[str, Any], where: str = "experiment") -> Experiment:
    """An experiment from nested plain values.

    Raises:
        UnknownNameError: for an unknown model or data set.
        ConfigError: for an unknown key or a value out of range, naming the key and ``where`` it was read.
    """
    values = {key: _with_null(value) for key, value in raw.items()}
    for section in _SHORT:
        if isinstance(values.get(section), str):
            values[section] = {"name": values[section]}
    for section, registry in _NAMED.items():
        given = values.get(section)
        if not isinstance(given, dict) or not isinstance(given.get("name"), str):
            raise ConfigError(f"{where}: [{section}] needs a 'name', one of: {', '.join(registry.names())}.")
        values[section] = _validate(registry.get(given["name"]).Config, given, where, section)
    return _validate(Experiment, values, where, "")


def parse(text: str, where: str = "experiment", overrides: Sequence[str] = ()) -> Experiment:
    """An experiment from TOML text, with ``key.path=value`` overrides applied on top."""
    try:
        raw = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{where} is not valid TOML: {error}.") from error
    for override in overrides:
        _override(raw, override)
    return resolve(raw, where)


def load(name_or_path: str, overrides: Sequence[str] = ()) -> Experiment:
    """An experiment from a TOML file, or by the name of a packaged one."""
    path = Path(name_or_path)
    if path.suffix != ".toml" and name_or_path in packaged():
        text = resources.files("fedrec.experiments").joinpath(f"{name_or_path}.toml").read_text()
        return parse(text, f"the packaged experiment '{name_or_path}'", overrides)
    if path.is_dir():
        path = path / "experiment.toml"
    try:
        return parse(path.read_text(encoding="utf-8"), str(path), overrides)
    except FileNotFoundError as error:
        hint = did_you_mean(name_or_path, packaged())
        raise ConfigError(
            f"No experiment file '{name_or_path}' and no packaged experiment of that name. {hint}"
        ) from error
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"Cannot read the experiment '{path}': {error}.") from error


def named_or_text(value: str) -> Experiment:
    """An experiment from what a Flower run config can hold: a packaged name or TOML text."""
    return load(value) if value in packaged() else parse(value, "the run config's experiment")


def packaged() -> list[str]:
    """Names of the experiments that ship with fedrec."""
    files = resources.files("fedrec.experiments").iterdir()
    return sorted(file.name.removesuffix(".toml") for file in files if file.name.endswith(".toml"))


def _override(raw: dict[str, Any], override: str) -> None:
    """Apply one ``key.path=value``; the value is TOML, or else a plain string."""
    path, separator, text = override.partition("=")
    keys = path.strip().split(".")
    if not separator or not all(keys):
        raise ConfigError(f"--set {override} is not of the form key=value, such as privacy.epsilon=4.")
    try:
        value = tomllib.loads(f"value = {text.strip()}")["value"]
    except tomllib.TOMLDecodeError:
        value = text.strip()
    target = raw
    for key in keys[:-1]:
        target = target.setdefault(key, {})
        if not isinstance(target, dict):
            raise ConfigError(f"--set {override}: '{key}' is not a section.")
    known = target.get(keys[-1])
    if isinstance(known, dict) and not isinstance(value, dict):
        if keys[-1] not in _SHORT:
            raise ConfigError(
                f"--set {override}: '{keys[-1]}' is a section; set one of its keys, {keys[-1]}.KEY=VALUE."
            )
        value = _merged(keys[-1], known, {"name": value})
    elif keys[1:] == ["name"]:
        raw[keys[0]] = target = _merged(keys[0], target, {"name": value})
    target[keys[-1]] = value


def _merged(section: str, known: Mapping[str, Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """A section with some keys changed; another model's or source's options do not carry over."""
    if section in _NAMED and values.get("name", known.get("name")) != known.get("name"):
        return dict(values)
    return {**known, **values}


def _validate(model: type[T], values: Mapping[str, Any], where: str, section: str) -> T:
    try:
        return model.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        path = ".".join([*([section] if section else []), *(str(part) for part in first["loc"])])
        if first["type"] == "extra_forbidden":
            known = _fields_at(model, first["loc"][:-1])
            raise ConfigError(f"{where}: unknown key '{path}'. {did_you_mean(str(first['loc'][-1]), known)}") from error
        got = "" if first["type"] in ("missing", "value_error") else f" (it is {first['input']!r})"
        message = first["msg"].removeprefix("Value error, ")
        lead = f"{where}: {path}: " if path else f"{where}: "
        raise ConfigError(f"{lead}{message[0].lower() + message[1:]}{got}.") from error


def _fields_at(model: type[BaseModel], loc: Sequence[int | str]) -> list[str]:
    """The field names of the section that an error's location lies in."""
    for part in loc:
        field = model.model_fields.get(str(part))
        if field is not None and isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            model = field.annotation
    return list(model.model_fields)


def _with_null(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _with_null(inner) for key, inner in value.items()}
    return None if value == "none" else value


def _without_null(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_null(inner) for key, inner in value.items()}
    return "none" if value is None else value
