"""The sections of an experiment: frozen pydantic models whose fields are the keys of its TOML file."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field


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
        backend: where the gradient step runs: ``numba`` (extra ``fast``), ``numpy``, which is equal to it within
            rounding, ``torch``, which leaves what is clipped sample by sample to Opacus, or ``opacus`` (both extra
            ``torch``); ``auto`` takes the first of these that the model has and that is installed, and ``numpy`` on
            real devices.
        epochs: passes over a user's own positives in a round.
        batch_size: public, whatever the user holds: without Opacus the positives of a step, with ``opacus`` what the
            sum of a step is divided by.
        sampling_rate: with ``opacus`` or unit ``interaction``, the public probability with which a sample enters a
            step. There are epochs / sampling_rate steps; only one where interactions or histories share the noise.
        sample: what is clipped as one: an ``interaction`` with its negatives, or with ``opacus`` a user's whole
            ``history``, for nodes that hold many users.
        learning_rate: step size, applied to what a step sums (``opacus``: over ``batch_size``).
        regularisation: L2 weight on the rows that a step touches.
        negatives: negatives drawn for each positive.
    """

    backend: Literal["auto", "numba", "numpy", "torch", "opacus"] = "auto"
    epochs: int = Field(1, ge=1, le=10_000)
    batch_size: int = Field(32, ge=1)
    sampling_rate: float = Field(1.0, gt=0, le=1)
    sample: Literal["interaction", "history"] = "interaction"
    learning_rate: float = Field(0.05, gt=0)
    regularisation: float = Field(0.0, ge=0)
    negatives: int = Field(1, ge=1, le=10_000)


class FederationConfig(Section):
    """The rounds.

    Attributes:
        rounds: rounds of a trained model after its warm start; statistic models know theirs and ignore it.
        cohort: users asked in a round; none asks everyone.
        min_cohort: a round with fewer survivors is not opened (none: the whole cohort); noise shares are sized for it.
        attempts: how often a round may be tried in all, each time with fresh noise and a fresh charge. On real devices
            attempts in which no vector was asked for are neither charged nor counted.
        server_optimizer: what applies the mean update: ``sgd`` (with momentum), ``adam`` (Reddi et al. 2021).
        server_learning_rate: step of the server optimizer on the mean update of the cohort.
        server_momentum: momentum of ``sgd``.
        aggregation: how single vectors become one, where each can be seen (`fedrec.federation.robust`); else their sum.
    """

    rounds: int = Field(4, ge=1, le=100_000)
    cohort: int | None = Field(None, ge=1)
    min_cohort: int | None = Field(None, ge=1)
    attempts: int = Field(3, ge=1)
    server_optimizer: Literal["sgd", "adam"] = "sgd"
    server_learning_rate: float = Field(1.0, gt=0)
    server_momentum: float = Field(0.0, ge=0, lt=1)
    aggregation: Literal["sum", "trimmed-mean", "median", "krum"] = "sum"


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
    """Where the clients run; not part of what identifies an experiment.

    Attributes:
        name: ``fleet`` in process, or ``flower`` on Flower's simulation runtime.
        nodes: of Flower.
        workers: threads of a process that share out compiled training; the results have the same bits for any number.
    """

    name: Literal["fleet", "flower"] = "fleet"
    nodes: int = Field(4, ge=1)
    workers: int = Field(1, ge=1, le=1024)


class DeploymentConfig(Section):
    """What real devices and their server agree on beside the rounds; public, and part of the experiment's digest.

    Attributes:
        deadline: seconds that the server waits for the replies to one message; who is later has dropped out.
        spare_attempts: attempts beyond one a round that the noise is calibrated for: each retry is a charge.
        request_seconds: how long a device may take a signed request for a fresh one.
        answer_seconds: a device answers what touches its history after a multiple of this many seconds, so that its
            run time, which Flower reports, says little about its history.
    """

    deadline: float = Field(60.0, gt=0, le=86_400)
    spare_attempts: int = Field(2, ge=0, le=1000)
    request_seconds: int = Field(600, ge=1, le=604_800)
    answer_seconds: float = Field(1.0, ge=0, le=3600)
