from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from fedrec.cli.data import app
from fedrec.data.inspect import Portrait, long_tail
from fedrec.data.source import load
from fedrec.data.sources.synthetic import SyntheticConfig
from fedrec.errors import DataError, UnknownNameError


def run(*arguments: str) -> str:
    result = CliRunner().invoke(app, arguments, env={"COLUMNS": "100"}, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


def test_the_portrait_counts() -> None:
    data = load(SyntheticConfig(n_users=50, n_items=40, mean_events=5))
    portrait = Portrait.of(data)
    assert portrait.density == data.n_events / 2000
    assert portrait.per_user[0] == data.counts.min()
    assert portrait.per_user[-1] == data.counts.max()
    assert portrait.sorted_counts.sum() == data.n_events
    assert portrait.top_share[1] == portrait.sorted_counts[:4].sum() / data.n_events
    assert portrait.begin is not None
    assert portrait.begin.startswith("202")


@pytest.mark.parametrize("counts", [[], [0, 0], [1], [5, 1], list(range(500, 0, -1)), [10**6] + [1] * 10_000])
def test_the_long_tail_fits_its_frame_and_falls(counts: list[int]) -> None:
    lines = long_tail(np.array(counts, dtype=np.int64), width=40, height=6)
    if not any(counts):
        assert lines == ["(no events)"]
        return
    assert len(lines) == 8
    bars = [line.split("│")[1] for line in lines[:-2]]
    assert max(map(len, bars)) <= 40
    assert len(bars[-1]) == 40  # every rank shows
    assert [len(bar) for bar in bars] == sorted(len(bar) for bar in bars)
    assert lines[-1].split()[0] == "1"


def test_list_names_every_source_and_its_licence() -> None:
    text = run("list")
    for name in ("ml-100k", "ml-1m", "ml-20m", "ml-latest", "ml-latest-small", "lastfm-2k", "table", "synthetic"):
        assert name in text
    assert "no redistribution" in " ".join(text.split())


def test_inspect_a_name_with_options() -> None:
    text = run("inspect", "synthetic", "--set", "n_users=30", "--set", "data.n_items=25")
    assert "users" in text
    assert "30" in text
    assert "│█" in text


def test_inspect_a_file(tmp_path: Path) -> None:
    path = tmp_path / "clicks.csv"
    path.write_text("who,item_id\nann,1\nann,2\nann,1\nbob,2\n")
    text = run("inspect", str(path), "--set", "user=who")
    assert "clicks" in text
    assert "3 (1 repeated ones left out)" in text
    assert "ann" not in text


def test_inspect_and_fetch_refuse_what_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(UnknownNameError, match="Did you mean 'synthetic'"):
        run("inspect", "syntetic")
    with pytest.raises(DataError, match="There is no file"):
        run("inspect", str(tmp_path / "none.csv"))
    with pytest.raises(DataError, match="'synthetic' is not downloaded: it is power-law"):
        run("fetch", "synthetic")


def test_fetch_prints_the_folder_of_a_cached_set(home: Path) -> None:
    folder = home / "data" / "ml-1m"
    folder.mkdir(parents=True)
    assert run("fetch", "ml-1m", "--path") == f"{folder}\n"
    assert run("fetch", "ml-1m") == f"ml-1m is in {folder}.\n"
