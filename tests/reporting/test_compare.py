import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from rich.console import Console

from fedrec.errors import RunFolderError
from fedrec.reporting import folder as names
from fedrec.reporting.compare import as_tables, data_sets, page, read_runs, write_page
from fedrec.reporting.folder import RunFolder

if TYPE_CHECKING:
    from click.testing import Result

Make = Callable[..., dict[str, Any]]
Write = Callable[..., RunFolder]

Invoke = Callable[..., "Result"]

# typer 0.20 imports a name that click deprecates from 8.4 on; nothing of fedrec uses it
pytestmark = pytest.mark.filterwarnings("ignore:'click.utils:DeprecationWarning")


@pytest.fixture
def invoke() -> Invoke:
    import typer
    from typer.testing import CliRunner

    from fedrec.cli.compare import compare

    app = typer.Typer()
    app.command()(compare)
    return lambda *arguments: CliRunner().invoke(app, [str(one) for one in arguments])


@pytest.fixture
def runs(tmp_path: Path, summary: Make, write_run: Write) -> list[Path]:
    made = {"none": (None, 0.3), "eight": (8.0, 0.25), "one": (1.0, 0.12)}
    return [write_run(tmp_path / name, summary(epsilon, hr)).root for name, (epsilon, hr) in made.items()]


def test_runs_are_ordered_by_epsilon_with_none_last(runs: list[Path]) -> None:
    assert [row.run for row in read_runs(runs)] == ["one", "eight", "none"]
    assert len(read_runs([*runs, runs[0]])) == 3


def test_the_page_is_self_contained_and_escapes_names(
    tmp_path: Path, summary: Make, write_run: Write, runs: list[Path], hostile: str
) -> None:
    other = write_run(tmp_path / "x", summary(model=hostile, data=hostile)).root
    html = page(read_runs([*runs, other]))
    assert "<script" not in html
    assert "<img" not in html
    assert "src=" not in html.replace("&lt;img src=", "")
    assert "href=" not in html
    assert html.count("<svg") == 4  # two data sets, each in a wide and a narrow form
    assert "cannot be compared" in html


def test_json_has_a_line_a_run(
    invoke: Invoke, runs: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    done = invoke(*runs, "--json")
    assert done.exit_code == 0
    rows = json.loads(done.stdout)
    assert [row["epsilon"] for row in rows] == [1.0, 8.0, None]
    assert rows[0]["hr@10"] == 0.12
    assert rows[0]["popularity_hr@10"] == 0.1
    assert rows[2]["non_private_hr@10"] == 0.3
    assert "Plot: compare.html" in done.stderr
    assert (tmp_path / "compare.html").is_file()


def test_a_pipe_gets_a_line_a_run(invoke: Invoke, runs: list[Path], tmp_path: Path) -> None:
    done = invoke(*runs, "--out", tmp_path / "c.html")
    lines = [line.split() for line in done.stdout.splitlines() if line.strip()]
    assert [line[0] for line in lines[-3:]] == ["one", "eight", "none"]
    assert lines[-3][1:6] == ["tiny", "gram", "fleet", "1", "distributed"]


def test_a_narrow_terminal_gets_two_tables(runs: list[Path]) -> None:
    rows = read_runs(runs)
    assert [len(as_tables(rows, width)) for width in (400, 80)] == [1, 2]
    console = Console(width=100, record=True)
    console.print(*as_tables(rows, 80))
    assert "distributed" in console.export_text()


def test_mixed_data_sets_are_named_in_one_line(invoke: Invoke, tmp_path: Path, summary: Make, write_run: Write) -> None:
    made = [write_run(tmp_path / data, summary(data=data)).root for data in ("b", "a")]
    done = invoke(*made, "--out", tmp_path / "c.html")
    assert "different data sets (a, b)" in done.stderr
    assert data_sets(read_runs(made)) == ["a", "b"]


def test_only_own_files_are_overwritten(runs: list[Path], tmp_path: Path) -> None:
    rows, out = read_runs(runs), tmp_path / "mine.html"
    out.write_text("<p>my page about fedrec compare</p>")
    with pytest.raises(RunFolderError, match=r"mine.html.*not a comparison made by fedrec"):
        write_page(rows, out)
    assert out.read_text().startswith("<p>my page")
    write_page(rows, out, force=True)
    write_page(rows, out)
    assert "<svg" in out.read_text()
    with pytest.raises(RunFolderError, match="is a folder"):
        write_page(rows, tmp_path, force=True)


def test_a_bad_run_is_named(runs: list[Path], tmp_path: Path) -> None:
    (runs[1] / names.SUMMARY).unlink()
    with pytest.raises(RunFolderError, match=r"eight' has no summary.json"):
        read_runs(runs)
    with pytest.raises(RunFolderError, match="No run folder"):
        read_runs([tmp_path / "missing"])
    with pytest.raises(RunFolderError, match="No run to compare"):
        read_runs([])


def test_runs_without_test_figures_still_compare(tmp_path: Path, summary: Make, write_run: Write) -> None:
    content = summary()
    content["metrics"]["test"], content["baselines"] = None, {}
    rows = read_runs([write_run(tmp_path / "r", content).root])
    assert rows[0].figure("hr") is None
    assert "<svg" in page(rows)
