import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fedrec.errors import RunFolderError
from fedrec.reporting import folder as names
from fedrec.reporting.folder import RunFolder
from fedrec.reporting.report import LedgerHead, RoundLine, render, write_report
from fedrec.reporting.statement import state
from fedrec.reporting.summary import Privacy, Summary, parse_summary
from tests.pages import Page

Make = Callable[..., dict[str, Any]]


def _page(content: dict[str, Any], rounds: list[dict[str, Any]] | None = None, ledger: LedgerHead | None = None) -> str:
    lines = [RoundLine.model_validate(line) for line in rounds or []]
    return render(parse_summary(content, "summary.json"), lines, "x = '</pre><script>'", ledger)


def test_the_page_is_self_contained(tmp_path: Path, write_run: Callable[..., RunFolder]) -> None:
    html = write_report(write_run(tmp_path)).read_text()
    page = Page(html)
    assert page.open == []
    assert not {"script", "link", "img", "iframe", "object", "embed", "base", "form"} & {tag for tag, _ in page.tags}
    for _, attributes in page.tags:
        assert not {"src", "href", "srcset", "action", "xlink:href", "onload"} & set(attributes)
    style = re.search(r"<style>(.*?)</style>", html, re.S)
    assert style is not None
    assert not re.search(r"url\(|@import|https?:", style.group(1))


def test_titles_cannot_become_markup(summary: Make, hostile: str) -> None:
    content = summary()
    content["experiment"] = content["model"] = content["dataset"]["name"] = hostile
    content["samples"][0]["user"] = hostile
    html = _page(content)
    assert "<script" not in html
    assert "<img" not in html
    assert Page(html).text.count(hostile) > 10


def test_the_headline_has_all_three_models_in_both_views(summary: Make) -> None:
    text = re.sub(r"\s+", " ", Page(_page(summary())).text)
    for figures in (
        r"Private model \(gram\) 2 0\.200 ?± 0\.078 0\.100 ?± 0\.059 0\.600 ?± 0\.096 0\.200",
        r"Private popularity 2 0\.100",
        r"Same model without privacy none 0\.300",
    ):
        assert re.search(figures, text)
    assert "For 20 of 100 users" in text
    assert "not worth shipping" not in text


def test_a_model_below_popularity_is_called_so(summary: Make) -> None:
    assert "not worth shipping" in _page(summary(hr=0.1, popularity=0.12))


def test_the_privacy_statement_says_everything(summary: Make, hostile: str) -> None:
    text = re.sub(r"\s+", " ", Page(_page(summary())).text)
    for words in (
        "Unit user", "Adjacency zero-out", "Trust distributed", "Epsilon 2", "Delta 1e-5", "1 in 100,000",
        "at most 7.39 times as likely", "at most 88.1 % sure", "Simulation: no guarantee.", "What is not protected",
        f"who takes part {hostile}",
    ):  # fmt: skip
        assert words in text


def test_a_run_without_privacy_says_so(summary: Make) -> None:
    content = summary(epsilon=None)
    text = Page(_page(content)).text
    assert "This run has no privacy guarantee." in text
    assert "The model (gram), without privacy" in text
    assert "there is no ledger" in text


@pytest.mark.parametrize(
    ("epsilon", "words"),
    [(0.5, "can hardly tell"), (2.0, "moderate"), (8.0, "weak promise"), (60.0, "10 to the power 27")],
)
def test_the_words_do_not_promise_more_than_epsilon_does(epsilon: float, words: str) -> None:
    statement = state(Privacy(epsilon=epsilon))
    said = " ".join((statement.headline, *statement.sentences))
    assert words in said
    assert ("can hardly tell" in said) == (epsilon <= 1)
    assert statement.warning == ""


@pytest.mark.parametrize(("trust", "words"), [("local", "the server included"), ("central", "server must be trusted")])
def test_trust_is_said_in_words(trust: str, words: str) -> None:
    statement = state(Privacy(epsilon=1.0, trust=trust))
    assert words in statement.headline + " ".join(why for _, _, why in statement.facts)


def test_charts_need_rounds(summary: Make, round_line: Make) -> None:
    assert "<svg" not in _page(summary())
    html = _page(summary(), [round_line(n) for n in (1, 2, 3)])
    assert html.count("<svg") == 4
    for caption in ("whole catalogue", "99 sampled negatives", "Epsilon over rounds", "Seconds a round"):
        assert f"{caption}</figcaption>" in html


def test_a_sparse_summary_still_gives_a_page(summary: Make, round_line: Make) -> None:
    content = summary()
    needed = ("dataset", "model", "engine", "rounds", "seed", "privacy", "metrics")
    content = {key: content[key] for key in needed}
    content["metrics"] = {"validation": None, "test": {"full": {"hr@5": 0.1, "ndcg@5": 0.05}, "users": 9}}
    html = _page(content, [round_line(1)])
    assert "HR@5" in html
    assert "HR@10" not in html
    assert "Not run: popularity at the same epsilon and the same model without privacy" in html


def test_a_run_on_devices_says_that_nothing_is_measured(summary: Make, round_line: Make) -> None:
    content = summary()
    content["dataset"] = {"name": "devices", "users": 5, "items": 40, "interactions": None}
    content["metrics"] = {"validation": {"full": {}}, "test": {"full": {}}}
    content["baselines"] = {}
    html = _page(content, [round_line(1)])
    assert "(5 users, 40 items)" in html
    assert "Nothing is measured: the interactions are on the devices" in html
    assert "Hit rate at" not in html
    assert "Not run:" not in html


def test_other_numbers_of_negatives_keep_their_name(summary: Make) -> None:
    content = summary()
    content["metrics"]["test"]["sampled50"] = content["metrics"]["test"].pop("sampled99")
    assert "50 sampled negatives" in _page(content)


def test_the_ledgers_checkpoint_is_shown(tmp_path: Path, write_run: Callable[..., RunFolder]) -> None:
    run = write_run(tmp_path)
    run.write_text(names.LEDGER, "{}\n{}\n")
    run.write_text(names.LEDGER_CHECKPOINT, '{"head":"abc"}\n')
    text = Page(write_report(run).read_text()).text
    assert '{"head":"abc"}' in text
    assert "2 lines" in text
    assert "fedrec audit verify ." in text


@pytest.mark.parametrize("key", ["dataset", "privacy", "metrics", "rounds"])
def test_a_damaged_summary_names_file_and_key(tmp_path: Path, write_run: Callable[..., RunFolder], key: str) -> None:
    run = write_run(tmp_path)
    content = run.read_summary()
    content[key] = "?"
    run.write_summary(content)
    with pytest.raises(RunFolderError, match=f"summary.json' is damaged: '{key}'"):
        write_report(run)
    assert not run.has(names.REPORT)


def test_a_damaged_round_names_line_and_key(tmp_path: Path, write_run: Callable[..., RunFolder]) -> None:
    run = write_run(tmp_path)
    run.append_round({"round": "x"})
    with pytest.raises(RunFolderError, match=r"rounds.jsonl', line 4 is damaged: 'round'"):
        write_report(run)


def test_a_summary_survives_the_disk(tmp_path: Path, write_run: Callable[..., RunFolder], summary: Make) -> None:
    run = write_run(tmp_path)
    read = parse_summary(run.read_summary(), "summary.json")
    assert read == Summary.model_validate(json.loads(json.dumps(summary())))
