"""The experiment: what is wrong is said with its place, and a resolved file gives the same experiment again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedrec.config import Experiment, load, named_or_text, packaged, parse, resolve
from fedrec.errors import ConfigError, UnknownNameError, UsageError

TEXT = """
[data]
name = "synthetic"
n_users = 50

[model]
name = "mf"
dimension = 8

[privacy]
epsilon = 4.0
"""


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ("privacy.epsilom=1", r"exp\.toml: unknown key 'privacy\.epsilom'\. Did you mean 'epsilon'\?"),
        ("privasy.epsilon=1", r"exp\.toml: unknown key 'privasy'\. Did you mean 'privacy'\?"),
        ("model.dimensions=1", r"exp\.toml: unknown key 'model\.dimensions'\. Did you mean 'dimension'\?"),
        ("data.n_user=1", r"exp\.toml: unknown key 'data\.n_user'\. Did you mean 'n_users'\?"),
        ("federation.zzz=1", r"unknown key 'federation\.zzz'\. Known: .*rounds"),
    ],
)
def test_an_unknown_key_gets_the_nearest_one(wrong: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse(TEXT, "exp.toml", [wrong])


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ("model=gramm", r"Unknown model 'gramm'\. Did you mean 'gram'\?"),
        ("data.name=ml-100", r"Unknown data set 'ml-100'\. Did you mean 'ml-100k'\?"),
        ("model=../etc", r"Unknown model '\.\./etc'"),
        ("model=base", r"Unknown model 'base'"),  # a module of the package that is no model
    ],
)
def test_an_unknown_name_gets_the_nearest_one(wrong: str, message: str) -> None:
    with pytest.raises(UnknownNameError, match=message) as error:
        parse(TEXT, "exp.toml", [wrong])
    assert error.value.exit_code == 2


@pytest.mark.parametrize(
    ("wrong", "key"),
    [
        ("privacy.epsilon=0", "privacy.epsilon"),
        ("privacy.epsilon=-1", "privacy.epsilon"),
        ("privacy.epsilon=nan", "privacy.epsilon"),
        ("privacy.epsilon=inf", "privacy.epsilon"),
        ("privacy.epsilon=lots", "privacy.epsilon"),
        ("privacy.delta=1", "privacy.delta"),
        ("privacy.trust=nobody", "privacy.trust"),
        ("federation.rounds=0", "federation.rounds"),
        ("federation.rounds=1.5", "federation.rounds"),
        ("model.dimension=0", "model.dimension"),
        ("data.n_items=1", "data.n_items"),
        ("split.fraction=0.5", "split.fraction"),
        ("evaluation.k=[]", "evaluation.k"),
        ("evaluation.k=[0]", "evaluation.k.0"),
        ("seed=-1", "seed"),
        ("privacy=1", "privacy"),
    ],
)
def test_a_value_out_of_range_is_named_with_its_key_and_file(wrong: str, key: str) -> None:
    with pytest.raises(ConfigError) as error:
        parse(TEXT, "exp.toml", [wrong])
    assert key in str(error.value)
    assert str(error.value).endswith(".")
    assert "\n" not in str(error.value)


def test_sections_that_contradict_each_other_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"exp\.toml: federation\.min_cohort = 9 is above federation\.cohort = 8"):
        parse(TEXT, "exp.toml", ["federation.cohort=8", "federation.min_cohort=9"])


@pytest.mark.parametrize("missing", ["data", "model"])
def test_a_missing_section_is_named_with_what_it_may_hold(missing: str) -> None:
    broken: dict[str, Any]
    raw: dict[str, Any] = {"data": {"name": "synthetic"}, "model": {"name": "mf"}}
    for broken in ({}, {missing: {}}, {missing: 3}, {missing: {"name": 3}}):
        values = {key: value for key, value in raw.items() if key != missing} | broken
        with pytest.raises(ConfigError, match=rf"\[{missing}\] needs a 'name', one of: .*(popularity|synthetic)"):
            resolve(values)


def test_set_replaces_a_value() -> None:
    changed = parse(TEXT, overrides=["privacy.epsilon=2", "federation.rounds = 7", "name=x", "evaluation.k=[1, 2]"])
    assert (changed.privacy.epsilon, changed.federation.rounds, changed.name) == (2.0, 7, "x")
    assert changed.evaluation.k == (1, 2)
    assert parse(TEXT, overrides=["seed=2", "seed=3"]).seed == 3  # the last one holds


@pytest.mark.parametrize("none", ["privacy.epsilon=none", 'privacy.epsilon="none"', "privacy.epsilon= none "])
def test_set_none_means_none(none: str) -> None:
    assert parse(TEXT, overrides=[none]).privacy.epsilon is None


@pytest.mark.parametrize("form", ["model=gram", "model.name=gram", 'model = "gram"', 'model={name="gram"}'])
def test_another_models_options_do_not_carry_over(form: str) -> None:
    changed = parse(TEXT, overrides=[form])
    assert changed.model == resolve({"data": {"name": "synthetic"}, "model": {"name": "gram"}}).model
    later = parse(TEXT, overrides=[form, "model.rank=5"])
    assert later.model.model_dump()["rank"] == 5


@pytest.mark.parametrize("form", ["engine=flower", "engine.name=flower"])
def test_an_engines_options_stay_when_its_name_changes(form: str) -> None:
    changed = parse(TEXT, overrides=["engine.nodes=2", form])
    assert (changed.engine.name, changed.engine.nodes) == ("flower", 2)
    assert parse(TEXT, overrides=["engine.nodes=2"]).replaced(engine={"name": "flower"}) == changed


@pytest.mark.parametrize("form", ["model=mf", "model.name=mf"])
def test_the_same_model_keeps_its_options(form: str) -> None:
    assert parse(TEXT, overrides=[form]) == parse(TEXT)


def test_split_and_engine_may_be_named_alone() -> None:
    changed = parse(TEXT + "[split]\nname='time'\n[engine]\nnodes=3\n", overrides=["split=random", "engine=flower"])
    assert (changed.split.name, changed.engine.name) == ("random", "flower")


@pytest.mark.parametrize(
    "bad", ["privacy.epsilon", "=3", ".epsilon=3", "privacy.=3", "privacy..epsilon=3", "", "privacy.epsilon.x=1"]
)
def test_a_bad_form_of_set_is_quoted(bad: str) -> None:
    with pytest.raises(ConfigError) as error:
        parse(TEXT, overrides=[bad])
    assert f"--set {bad}" in str(error.value)


def test_set_does_not_turn_a_section_into_a_value() -> None:
    with pytest.raises(ConfigError, match=r"--set privacy=4: 'privacy' is a section; .*privacy\.KEY=VALUE"):
        parse(TEXT, overrides=["privacy=4"])


def test_broken_toml_is_named_with_file_and_line(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text('name = "x"\n[data]\nname = = 3\n', encoding="utf-8")
    with pytest.raises(ConfigError, match=r"mine\.toml is not valid TOML: .*line 3"):
        load(str(path))


def test_a_file_that_cannot_be_read_is_an_error_of_ours(tmp_path: Path) -> None:
    binary = tmp_path / "binary.toml"
    binary.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match=r"Cannot read the experiment '.*binary\.toml'"):
        load(str(binary))
    with pytest.raises(ConfigError, match=r"No experiment file 'defolt' .* Did you mean 'default'\?"):
        load("defolt")
    with pytest.raises(UsageError):
        load(str(tmp_path))  # a folder without an experiment.toml


def test_a_run_folder_stands_for_its_experiment(tmp_path: Path) -> None:
    (tmp_path / "experiment.toml").write_text(parse(TEXT).to_toml(), encoding="utf-8")
    assert load(str(tmp_path)) == parse(TEXT)


def test_every_packaged_experiment_loads() -> None:
    assert "default" in packaged()
    for name in packaged():
        experiment = load(name)
        assert parse(experiment.to_toml()) == experiment
        assert named_or_text(name) == experiment
        assert named_or_text(experiment.to_toml()) == experiment


def test_an_experiment_cannot_be_changed() -> None:
    with pytest.raises(ValueError, match="frozen"):
        parse(TEXT).privacy.epsilon = 100.0  # type: ignore[misc] # the very mistake that is refused


def test_replacing_a_models_name_drops_its_options_and_a_key_keeps_them() -> None:
    experiment = parse(TEXT)
    assert experiment.replaced(model={"name": "popularity"}).model.name == "popularity"
    kept = experiment.replaced(model={"loss": "bce"}).model.model_dump()
    assert (kept["loss"], kept["dimension"]) == ("bce", 8)
    with pytest.raises(ConfigError):
        experiment.replaced(privacy={"epsilon": -1})


positive = st.floats(1e-300, 1e300)
experiments = st.builds(
    lambda name, seed, model, data, privacy, federation, evaluation, split: resolve(
        {
            "name": name,
            "seed": seed,
            "model": model,
            "data": data,
            "privacy": privacy,
            "federation": federation,
            "evaluation": evaluation,
            "split": split,
        }
    ),
    st.text(st.characters(exclude_categories=["Cs"])).filter(lambda text: text != "none"),
    st.integers(0, 2**63 - 1),
    st.one_of(
        st.fixed_dictionaries({"name": st.just("mf"), "loss": st.sampled_from(["bpr", "bce"]), "recency": positive}),
        st.fixed_dictionaries(
            {"name": st.just("gram"), "top_items": st.none() | st.integers(2, 10**9), "ridge": positive}
        ),
        st.just({"name": "popularity"}),
    ),
    st.one_of(
        st.fixed_dictionaries({"name": st.just("synthetic"), "n_users": st.integers(1, 10**12), "taste": positive}),
        st.just({"name": "ml-1m"}),
    ),
    st.fixed_dictionaries(
        {
            "epsilon": st.none() | st.floats(1e-6, 100),
            "delta": st.floats(1e-30, 0.5),
            "noise_multiplier": st.none() | st.floats(1e-2, 1e6),
            "trust": st.sampled_from(["distributed", "local", "central"]),
        }
    ),
    st.fixed_dictionaries({"rounds": st.integers(1, 10**5), "cohort": st.none() | st.integers(1, 10**9)}),
    st.fixed_dictionaries({"k": st.lists(st.integers(1, 10**6), min_size=1), "baselines": st.booleans()}),
    st.fixed_dictionaries({"name": st.sampled_from(["leave-one-out", "random", "time"])}),
)


@settings(max_examples=60, deadline=None)
@given(experiments)
def test_a_resolved_experiment_comes_back_from_its_own_toml(experiment: Experiment) -> None:
    again = parse(experiment.to_toml())
    assert again == experiment
    assert type(again.model) is type(experiment.model)
    assert again.to_toml() == experiment.to_toml()
