"""The figures: their data without drawing, then drawing, which is deterministic and legible."""

from __future__ import annotations

from itertools import combinations, pairwise
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pytest
from helpers.records import PLANS, demo_runs, make_run
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from lowbit.core.errors import UserError
from lowbit.report import draw, figures
from lowbit.report.figures import curves, frontier, pareto, sizes
from lowbit.report.figures.style import RC, place_labels
from lowbit.study.cells import Setting, settings
from lowbit.study.schema import MAIN, StudyPart

PLACES = st.lists(st.tuples(st.integers(1, 6), st.integers(1, 6)), min_size=1, max_size=8)


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Setting:
    return settings(demo_runs(tmp_path_factory.mktemp("runs")))[0]


def axes() -> tuple[Figure, mpl.axes.Axes]:
    figure = Figure(figsize=(6, 4), layout="constrained")
    FigureCanvasAgg(figure)
    return figure, figure.add_subplot()


@given(PLACES, st.sampled_from(["lower", "higher"]))
def test_the_front_is_exactly_what_nothing_dominates(
    places: list[tuple[float, float]], better: str
) -> None:
    sign = 1 if better == "lower" else -1
    flags = pareto.front(places, better)
    assert any(flags)
    for (size, value), flag in zip(places, flags, strict=True):
        beaten = any(
            s <= size and sign * v <= sign * value and (s, v) != (size, value) for s, v in places
        )
        assert flag != beaten


def test_a_point_is_the_mean_of_its_seeds(demo: Setting) -> None:
    data = pareto.data(demo)
    assert [p.plan for p in data.points] == list(PLANS)
    assert all(p.mean == pytest.approx(np.mean(p.seeds)) for p in data.points)
    assert data.diverged == ()


def test_a_diverged_plan_is_named_and_has_no_point(tmp_path: Path) -> None:
    runs = [make_run(tmp_path, "bf16"), make_run(tmp_path, "int2@64", status="diverged")]
    data = pareto.data(settings(runs)[0])
    assert [p.plan for p in data.points] == ["bf16"]
    assert data.diverged == ("int2@64",)
    curve = curves.data(settings(runs)[0]).curves[1]
    assert curve.mean == ()
    assert curve.seeds[0]


def test_mean_curves_are_over_the_steps_all_seeds_logged(demo: Setting) -> None:
    for curve in curves.data(demo).curves:
        assert len(curve.seeds) == 2
        steps = [step for step, _ in curve.mean]
        assert steps == [step for step, _ in curve.seeds[0]]
        assert [step for step, _ in curve.selection] == [50, 100, 150]
        for i, (_, value) in enumerate(curve.mean):
            assert value == pytest.approx(np.mean([seed[i][1] for seed in curve.seeds]))


def test_bars_add_up_to_the_stored_bytes(demo: Setting) -> None:
    for bar, cell in zip(sizes.data(demo), demo.cells, strict=True):
        assert bar.total == np.mean([record.bytes.stored for record in cell.records])


@given(st.lists(st.floats(0, 1), max_size=12))
def test_spread_names_keep_their_order_and_their_distance(places: list[float]) -> None:
    moved = curves.spread(sorted(places), 0.05)
    assert len(moved) == len(places)
    assert all(b - a >= 0.05 - 1e-9 for a, b in pairwise(moved))
    assert all(-1e-9 <= place <= 1 + 1e-9 for place in moved)


def test_pareto_labels_cover_neither_each_other_nor_a_point() -> None:
    rng = np.random.default_rng(0)
    points = [(float(x), float(y), f"plan-{i}") for i, (x, y) in enumerate(rng.random((12, 2)))]
    with mpl.rc_context(RC):
        figure, ax = axes()
        ax.set(xlim=(0, 1), ylim=(0, 1))
        texts = place_labels(ax, points, [])
        figure.draw_without_rendering()
    boxes = [text.get_window_extent() for text in texts]
    assert not any(a.overlaps(b) for a, b in combinations(boxes, 2))
    for x, y in ax.transData.transform([p[:2] for p in points]):
        assert not any(box.contains(x, y) for box in boxes)


def written(setting: Setting, folder: Path) -> dict[str, bytes]:
    figures.save("pareto", pareto.data(setting), folder)
    figures.save("curves", curves.data(setting), folder)
    figures.save("bytes", sizes.data(setting), folder)
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_the_same_data_gives_the_same_bytes_without_a_date(demo: Setting, tmp_path: Path) -> None:
    before = dict(mpl.rcParams)
    first, second = written(demo, tmp_path / "a"), written(demo, tmp_path / "b")
    assert first == second
    assert len(first) == 6
    assert not any(b"CreationDate" in content for content in first.values())
    assert dict(mpl.rcParams) == before


def test_figures_of_nothing_but_diverged_runs_can_be_drawn(tmp_path: Path) -> None:
    runs = [make_run(tmp_path / "r", "$x^{", formats=PLANS["int2@64"], status="diverged")]
    assert len(written(settings(runs)[0], tmp_path / "f")) == 6


def test_a_single_run_can_be_drawn(tmp_path: Path) -> None:
    runs = [make_run(tmp_path / "r", "bf16", kind="classification", task="sst2")]
    assert len(written(settings(runs)[0], tmp_path / "f")) == 6


def test_an_unknown_figure_is_named_with_the_nearest() -> None:
    with pytest.raises(UserError, match="'pareto'"):
        figures.save("paretto", None, Path())


def test_many_figures_are_drawn_on_all_cores_with_the_same_bytes(
    demo: Setting, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pairs = [(StudyPart(MAIN, "t", tuple(PLANS)), demo)]
    drawn = {}
    for most in (1, 1000):
        monkeypatch.setattr(draw, "MANY", most)
        paths = draw.draw(pairs, tmp_path / str(most), only=("bytes", "curves"))
        drawn[most] = [(path.name, path.read_bytes()) for path in paths]
    assert len(drawn[1]) == 4
    assert drawn[1] == drawn[1000]


def test_the_frontier_shows_corners_uniform_plans_budget_and_choice() -> None:
    corners = ((100, 0.5), (200, 0.1), (300, 0.02))
    uniform = (("int3@64 r8", 220, 0.2), ("", 260, 0.15))
    data = frontier.Frontier(corners, uniform, (200, 0.1), 210)
    with mpl.rc_context(RC):
        ax = Figure().add_subplot()
        frontier.draw(ax, data)
    drawn = {str(line.get_label()): line.get_xydata().tolist() for line in ax.get_lines()}
    assert drawn["exact plans"] == [list(corner) for corner in corners]
    assert drawn["uniform plans"] == [[220, 0.2], [260, 0.15]]
    assert drawn["chosen"] == [[200, 0.1]]
    assert [x for x, _ in drawn["budget"]] == [210, 210]
    assert [text.get_text() for text in ax.texts] == ["int3@64 r8"]
    assert ax.get_yscale() == "log"
