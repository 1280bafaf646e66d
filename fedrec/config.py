"""The experiment: frozen pydantic models; TOML in, resolved TOML out.

A section that names a registered thing (``[data]``, ``[model]``) takes the options of that thing's own config class;
every other section stands here. In TOML, which has no null, ``"none"`` means none.
"""

from __future__ import annotations

import hashlib
import json
import tomllib
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import tomli_w
from pydantic import BaseModel, ConfigDict, Field, SerializeAsAny, ValidationError, model_validator

from fedrec.errors import ConfigError, did_you_mean
from fedrec.registry import MODELS, SOURCES, Registry


class Section(BaseModel):
    """Base of every section: frozen, and an unknown key is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, validate_default=True)


class DataConfig(Section):
    """What every data source understands; each source's own config adds its keys.

    Attributes:
        name: the registered source.
        min_rating: an interaction is a positive from this rating on; none keeps every interaction.
        k_core: every kept user and item has at least this many interactions (0: no filter).
    """

    name: str
    min_rating: float | None = None
    k_core: int = Field(0, ge=0)


class SplitConfig(Section):
    """How the held-out interactions are chosen.

    Attributes:
        name: ``leave-one-out`` by time (last is test, last but one validation), ``random`` per user, or a global
            ``time`` cut.
        fraction: for ``random`` and ``time``, the part of the interactions that goes into validation, and as much
            again into test.
    """

    name: Literal["leave-one-out", "random", "time"] = "leave-one-out"
    fraction: float = Field(0.1, gt=0, lt=0.5)


class ModelConfig(Section):
    """What every model's config has; each model's own adds its keys."""

    name: str


class TrainingConfig(Section):
    """Local training of trained models.

    Attributes:
        backend: where the gradient step runs: ``numpy``, or ``opacus`` (extra ``torch``); ``auto`` takes ``numpy`` if
            the model has it.
        epochs: passes over a user's own positives in a round.
        batch_size: public, whatever the user holds: with ``numpy`` the positives of a step, with ``opacus`` what the
            sum of a step is divided by.
        sampling_rate: with ``opacus`` or unit ``interaction``, the public probability with which a sample enters a
            step. There are epochs / sampling_rate steps; only one where interactions or histories share the noise.
        sample: what is clipped as one: an ``interaction`` with its negatives, or with ``opacus`` a user's whole
            ``history``, for nodes that hold many users.
        learning_rate: step size, applied to what a step sums (``opacus``: over ``batch_size``).
        regularisation: L2 weight on the rows that a step touches.
        negatives: negatives drawn for each positive.
    """

    backend: Literal["auto", "numpy", "opacus"] = "auto"
    epochs: int = Field(1, ge=1)
    batch_size: int = Field(32, ge=1)
    sampling_rate: float = Field(1.0, gt=0, le=1)
    sample: Literal["interaction", "history"] = "interaction"
    learning_rate: float = Field(0.05, gt=0)
    regularisation: float = Field(0.0, ge=0)
    negatives: int = Field(1, ge=1)


class FederationConfig(Section):
    """The rounds.

    Attributes:
        rounds: rounds of a trained model after its warm start; statistic models know theirs and ignore it.
        cohort: users asked in a round; none asks everyone.
        min_cohort: a round with fewer survivors is not opened (none: the whole cohort); noise shares are sized for it.
        attempts: how often a round may be tried in all, each time with fresh noise and a fresh charge.
        server_optimizer: what applies the mean update: ``sgd`` (with momentum), ``adam`` (Reddi et al. 2021).
        server_learning_rate: step of the server optimizer on the mean update of the cohort.
        server_momentum: momentum of ``sgd``.
    """

    rounds: int = Field(4, ge=1)
    cohort: int | None = Field(None, ge=1)
    min_cohort: int | None = Field(None, ge=1)
    attempts: int = Field(3, ge=1)
    server_optimizer: Literal["sgd", "adam"] = "sgd"
    server_learning_rate: float = Field(1.0, gt=0)
    server_momentum: float = Field(0.0, ge=0, lt=1)


class PrivacyConfig(Section):
    """The promise.

    Attributes:
        epsilon: the budget of the whole run; none runs without privacy, whatever else is set here.
        delta: the probability that the promise does not cover.
        noise_multiplier: noise of every round; none calibrates it so that the planned rounds spend the budget exactly.
        clip_norm: L2 norm to which a user's update is clipped (statistics have sensitivity 1 by construction).
        interaction_clip: L2 norm to which the gradient of one interaction is clipped, where one is trained on alone.
        unit: what one change of the data set is: a ``user`` with the whole history, or one ``interaction``.
        trust: who must be trusted: ``distributed``, ``local`` or ``central``.
        colluders: clients of the minimum cohort that are assumed to leave out, or to know, their shares of the noise.
        noise: ``skellam`` on integers, which secure aggregation can mask, or ``gaussian`` in floating point; ``auto``
            takes what the engine sends: integers where Flower's clients add shares, else the faster Gaussian.
        source: ``seeded`` repeats a simulation exactly and protects nobody; ``secure`` draws from a ChaCha20 stream
            keyed by the operating system, as devices do.
        resolution: integer units that stand for the clip norm, over the square root of the number of coordinates.
    """

    epsilon: float | None = Field(8.0, gt=0, le=100)
    delta: float = Field(1e-5, gt=0, lt=1)
    noise_multiplier: float | None = Field(None, ge=1e-2, le=1e6)
    clip_norm: float = Field(1.0, gt=0)
    interaction_clip: float = Field(0.1, gt=0)
    unit: Literal["user", "interaction"] = "user"
    trust: Literal["distributed", "local", "central"] = "distributed"
    colluders: int = Field(0, ge=0)
    noise: Literal["auto", "gaussian", "skellam"] = "auto"
    source: Literal["seeded", "secure"] = "seeded"
    resolution: float = Field(64.0, ge=1, le=4096)


class EvaluationConfig(Section):
    """What is measured and when.

    Attributes:
        every: rounds between two validation measurements (the last round is always measured).
        k: list lengths.
        sampled: negatives a user in the sampled view (0 leaves that view out).
        users: evaluate a sample of this many users; none evaluates everyone.
        baselines: also run private popularity and the same model without privacy.
    """

    every: int = Field(1, ge=1)
    k: tuple[Annotated[int, Field(ge=1)], ...] = Field((5, 10, 20), min_length=1)
    sampled: int = Field(99, ge=0)
    users: int | None = Field(None, ge=1)
    baselines: bool = True


class EngineConfig(Section):
    """Where the clients run: ``fleet`` in process, ``flower`` on Flower's simulation runtime with this many nodes."""

    name: Literal["fleet", "flower"] = "fleet"
    nodes: int = Field(4, ge=1)


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
        return tomli_w.dumps(_without_null(self.model_dump(mode="json")))

    def digest(self) -> str:
        """What identifies an experiment: everything but its name and where it runs, SHA-256 in hex."""
        values = self.model_dump(mode="json", exclude={"engine", "name"})
        values["privacy"]["noise"] = self.noise
        return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()

    def replaced(self, **sections: Mapping[str, Any]) -> Experiment:
        """A copy with some keys of some sections changed, checked anew."""
        raw = self.model_dump(mode="json")
        for section, values in sections.items():
            raw[section] = _merged(section, raw[section], values)
        return resolve(raw)


T = TypeVar("T", bound=BaseModel)

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
