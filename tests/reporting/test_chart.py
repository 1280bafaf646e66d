import itertools
import re
import xml.etree.ElementTree as ET

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedrec.reporting import chart, tradeoff
from fedrec.reporting.chart import Axis, Point, Series
from fedrec.reporting.tradeoff import REFERENCE, Measure

_SVG = "{http://www.w3.org/2000/svg}"
_values = st.floats(min_value=0, max_value=1e6, allow_nan=False)


def _draw(series: list[Series], x: Axis | None = None, y: Axis | None = None) -> ET.Element:
    points = [point for one in series for point in one.points]
    x = chart.linear("Round", [p.x for p in points], whole=True) if x is None else x
    y = chart.linear("HR@10", [p.y for p in points], from_zero=True) if y is None else y
    return _parse(chart.render("Title", "Description", x, y, series))


def _parse(svg: str) -> ET.Element:
    return ET.fromstring(str(svg).replace("<svg ", '<svg xmlns="http://www.w3.org/2000/svg" ', 1))  # noqa: S314 - our own text


@settings(deadline=None)  # a busy machine is no failure
@given(st.lists(_values, min_size=1, max_size=8), st.booleans())
def test_an_axis_holds_its_values_and_has_even_round_ticks(values: list[float], from_zero: bool) -> None:
    axis = chart.linear("x", values, from_zero=from_zero)
    slack = 1e-6 * (axis.high - axis.low)
    assert axis.low - slack <= min(values) <= max(values) <= axis.high + slack
    assert 2 <= len(axis.ticks) <= 9
    assert len({text for _, text in axis.ticks}) == len(axis.ticks)


@settings(deadline=None)  # a busy machine is no failure
@given(st.lists(st.integers(1, 5000), min_size=1, max_size=5))
def test_rounds_have_whole_ticks(rounds: list[int]) -> None:
    axis = chart.linear("Round", [float(r) for r in rounds], whole=True)
    assert all(re.fullmatch(r"\d+", text) for _, text in axis.ticks)


@settings(deadline=None)  # a busy machine is no failure
@given(st.lists(st.tuples(st.integers(0, 100), _values), min_size=1, max_size=20))
def test_every_mark_and_text_lies_inside_the_drawing(data: list[tuple[int, float]]) -> None:
    svg = _draw(
        [Series("a", tuple(Point(x, y, "tip") for x, y in data)), Series("b", (Point(data[0][0], data[0][1]),), 2)]
    )
    width, height = map(float, svg.attrib["viewBox"].split()[2:])
    for mark in svg.iter(f"{_SVG}path"):
        x, y = map(float, re.findall(r"-?[\d.]+", mark.attrib["transform"]))
        assert 0 <= x <= width
        assert 0 <= y <= height
    for text in svg.iter(f"{_SVG}text"):
        assert 0 <= float(text.attrib["x"]) <= width
        assert 0 <= float(text.attrib["y"]) <= height


def test_a_chart_names_itself_and_tells_values_in_tooltips() -> None:
    svg = _draw([Series("HR", (Point(1, 0.25, "round 1: 0.25"), Point(2, 0.5, "round 2: 0.5")))])
    assert svg.attrib["role"] == "img"
    assert [child.text for child in svg[:2]] == ["Title", "Description"]
    assert [mark[0].text for mark in svg.iter(f"{_SVG}path")] == ["round 1: 0.25", "round 2: 0.5"]


def test_series_differ_in_shape_not_in_colour_alone() -> None:
    series = [Series(f"s{tone}", (Point(1, tone),), tone) for tone in range(1, chart.TONES + 1)]
    shapes = {mark.attrib["d"] for mark in _draw(series).iter(f"{_SVG}path")}
    assert len(shapes) == chart.TONES


def test_names_are_escaped_and_shortened() -> None:
    svg = _draw([Series("<script>&" + "x" * 200, (Point(1, 1, '"><b>'),)), Series("b", (Point(1, 2),))])
    legend = [text.text for text in svg.iter(f"{_SVG}text") if (text.text or "").startswith("<script>&")]
    assert len(legend) == 1
    assert (legend[0] or "").endswith("…")
    assert [mark[0].text for mark in svg.iter(f"{_SVG}path") if len(mark)] == ['"><b>']


def test_tick_labels_never_overlap() -> None:
    x = Axis("x", 0, 1, tuple((k / 100, f"{k / 100:.2f}") for k in range(101)))
    svg = _draw([Series("a", (Point(0, 0), Point(1, 1)))], x=x)
    places = [float(t.attrib["x"]) for t in svg.iter(f"{_SVG}text") if t.attrib["class"].startswith("tick mid")]
    assert all(b - a > 7 * 4 for a, b in itertools.pairwise(places))


def test_none_stands_right_of_every_epsilon() -> None:
    axis, none_at = tradeoff.epsilon_axis([1.0, 2.0, 7.9990], none=True)
    assert [text for _, text in axis.ticks] == ["1", "2", "8", "none"]
    assert max(at for at, text in axis.ticks if text != "none") < none_at <= axis.high


@pytest.mark.parametrize("finite", [[], [3.0], [0.01, 1000.0], [float(k) for k in range(1, 30)]])
def test_an_epsilon_axis_holds_any_set_of_runs(finite: list[float]) -> None:
    axis, _ = tradeoff.epsilon_axis(finite, none=True)
    assert axis.low < axis.high
    assert all(0 <= axis.share(at) <= 1 for at, _ in axis.ticks)


def test_lines_join_means_and_are_dashed_to_none() -> None:
    runs = [Measure(1.0, 0.1, "a"), Measure(1.001, 0.3, "b"), Measure(8.0, 0.4, "c"), Measure(None, 0.5, "d")]
    curves = {"gram": runs, REFERENCE: [Measure(1.0, 0.05, "p"), Measure(8.0, 0.06, "q")]}
    svg = _parse(tradeoff.plot("t", "d", "HR", curves, 360))
    lines = [line.attrib for line in svg.iter(f"{_SVG}polyline")]
    assert [line["class"] for line in lines] == ["line tone-1", "line tone-1 dashed", "line tone-0 dashed"]
    assert [len(line["points"].split()) for line in lines] == [2, 2, 2]
    tips = [mark[0].text for mark in svg.iter(f"{_SVG}path") if len(mark)]
    assert "d: no privacy, 0.500" in tips
    assert len(tips) == 6
