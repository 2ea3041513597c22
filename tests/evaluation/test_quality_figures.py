"""Figures of cells: what they say is true, whatever the number of cells and their names."""

import io
import tracemalloc

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure

from annotary.evaluation.embedding_figure import draw_embedding
from annotary.evaluation.groups import PALETTE, group_cells, sample_groups
from annotary.evaluation.names import shorten
from annotary.evaluation.quality_figures import draw_doublets, draw_quality

ODD_NAMES = ["$a$b$", "_hidden", r"$\frac{", "a/b\nc", "β-cell <b>", ""]


def draw_called(table: pd.DataFrame) -> Figure:
    called = table.assign(doublet=table["doublet_probability"] > 0.5)
    return draw_doublets(called, {"a": 0.5, "b": np.nan})


def make_cells(n_cells: int, *, n_sources: int = 1, seed: int = 0) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    return pd.DataFrame(
        {
            "total_counts": rng.lognormal(7, 0.5, n_cells).round(),
            "n_genes_by_counts": rng.integers(50, 900, n_cells),
            "pct_counts_mt": rng.gamma(2, 2, n_cells),
            "source": [f"file {cell % n_sources}" for cell in range(n_cells)],
        }
    )


def draw(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=60)
    return buffer.getvalue()


def read_titles(figure: Figure) -> list[str]:
    return [axis.get_title() for axis in figure.axes]


def read_sources(figure: Figure) -> list[str]:
    return [label.get_text() for label in figure.axes[0].get_yticklabels()]


def read_legend(figure: Figure, panel: int = 0) -> list[str]:
    return [text.get_text() for text in figure.axes[panel].get_legend().get_texts()]


def count_points(figure: Figure, panel: int = 0) -> int:
    return sum(
        len(collection.get_offsets())
        for collection in figure.axes[panel].collections
        if type(collection).__name__ == "PathCollection"
    )


def test_titles_count_the_cells_outside_each_threshold():
    cells = pd.DataFrame(
        {
            "total_counts": [10.0, 500, 600, 9000],
            "n_genes_by_counts": [5, 200, 300, 900],
            "pct_counts_mt": [1.0, 2, 20, 30],
        }
    )
    figure = draw_quality(
        cells, {"min_counts": 500, "max_counts": 8000, "min_genes": 200, "max_pct_mito": 20}
    )
    assert read_titles(figure) == [
        "1 below 500 (25.0%)\n1 above 8,000 (25.0%)",
        "1 below 200 (25.0%)",
        "1 above 20 (25.0%)",
    ]
    dashed = [[line for line in axis.lines if line.get_linestyle() == "--"] for axis in figure.axes]
    assert [sorted(line.get_xdata()[0] for line in lines) for lines in dashed] == [[500, 8000], [200], [20]]


def test_thresholds_that_remove_nothing_by_their_value_are_not_drawn():
    figure = draw_quality(make_cells(50), {"min_counts": 0, "min_genes": 0, "max_pct_mito": 100})
    assert read_titles(figure) == ["no threshold"] * 3


@pytest.mark.parametrize("n_cells", [0, 1, 3, 10, 11])
def test_few_cells_are_drawn(n_cells):
    draw(draw_quality(make_cells(n_cells), {"min_genes": 200}))


def test_a_few_cells_are_points_and_each_one_is_there():
    figure = draw_quality(make_cells(9), {"min_genes": 400})
    assert [count_points(figure, panel) for panel in range(3)] == [9, 9, 9]


def test_equal_missing_and_zero_values_are_drawn():
    cells = make_cells(40).assign(total_counts=0.0, n_genes_by_counts=7, pct_counts_mt=0.0)
    figure = draw_quality(cells, {"min_counts": 5})
    draw(figure)
    assert read_titles(figure)[0] == "40 below 5 (100.0%)"
    assert [text.get_text() for text in figure.axes[2].texts] == ["0 in every cell"]
    draw(draw_quality(cells.assign(pct_counts_mt=np.nan), {"max_pct_mito": 5}))


def test_the_largest_sources_are_shown_and_the_others_pooled():
    sizes = [20 + number for number in range(15)]
    cells = make_cells(sum(sizes)).assign(source=np.repeat([f"file {n:02d}" for n in range(15)], sizes))
    shown = read_sources(draw_quality(cells, {}))
    assert len(shown) == 12
    assert shown[0] == "file 14\n34 cells"
    assert shown[-1] == f"other (4)\n{sum(sizes[:4])} cells"


def test_half_a_million_cells_are_sampled_and_counted_in_full():
    cells = make_cells(500_000, n_sources=3)
    tracemalloc.start()
    figure = draw_quality(cells, {"min_genes": 900})
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert read_titles(figure)[1] == "500,000 below 900 (100.0%)"
    assert 19_000 <= count_points(figure, 1) <= 20_000
    assert peak < 200e6


def test_the_same_cells_give_the_same_picture():
    cells = make_cells(30_000, n_sources=2)
    assert draw(draw_quality(cells, {"min_genes": 80})) == draw(draw_quality(cells, {"min_genes": 80}))


def test_the_doublet_rate_is_that_of_the_tested_cells():
    table = pd.DataFrame({"doublet_probability": [0.1, 0.5, 0.6, 0.9, np.nan]})
    title = read_titles(draw_called(table))[0]
    assert title == "Doublets: 2 of 4 cells (50.0%); 1 not tested"


def test_each_lane_has_its_rate():
    table = pd.DataFrame({"doublet_probability": [0.1, 0.9, 0.2, 0.3, 0.4], "lane": list("aabbb")})
    figure = draw_called(table)
    assert read_legend(figure) == ["b: 0.0% of 3 cells", "a: 50.0% of 2 cells"]
    draw(figure)


@pytest.mark.parametrize("values", [[], [np.nan], [0.3], [0.0, 1.0]])
def test_few_doublet_probabilities_are_drawn(values):
    figure = draw_called(pd.DataFrame({"doublet_probability": np.array(values, dtype=np.float64)}))
    draw(figure)
    if not np.isfinite(values).any():
        assert read_titles(figure) == ["No cell was tested for doublets"]


def test_every_cell_and_group_is_in_the_plane():
    rng = np.random.default_rng(0)
    labels, sources = rng.choice(list("abc"), 200), rng.choice(list("xy"), 200)
    figure = draw_embedding(rng.normal(size=(200, 2)), {"Label": labels, "Source": sources})
    assert read_titles(figure) == ["Label", "Source"]
    assert [count_points(figure, panel) for panel in range(2)] == [200, 200]
    assert sorted(read_legend(figure)) == [f"{name} ({(labels == name).sum()})" for name in "abc"]


@pytest.mark.parametrize(("n_groups", "n_shown"), [(8, 8), (40, 40), (41, 40), (90, 40)])
def test_up_to_forty_groups_look_different_and_more_are_pooled(n_groups, n_shown):
    rng = np.random.default_rng(0)
    labels = np.array([f"type {cell % n_groups}" for cell in range(1000)])
    figure = draw_embedding(rng.normal(size=(1000, 2)), {"Label": labels})
    handles = figure.axes[0].get_legend().legend_handles
    looks = {(handle.get_marker(), handle.get_color()) for handle in handles}
    assert len(handles) == len(looks) == n_shown
    assert count_points(figure) == 1000
    assert (f"other ({n_groups - 39})" in read_legend(figure)[-1]) == (n_groups > 40)
    draw(figure)


def test_numbers_are_beside_many_groups_only():
    positions = np.repeat(np.column_stack([np.arange(12), np.arange(12)]), 5, axis=0).astype(float)
    labels = np.repeat([f"type {number:02d}" for number in range(12)], 5)
    many = draw_embedding(positions, {"Label": labels}).axes[0]
    assert [text.get_text() for text in many.texts] == [str(number) for number in range(1, 13)]
    assert tuple(many.texts[3].get_position()) == (3, 3)
    few = draw_embedding(positions[: 5 * len(PALETTE)], {"Label": labels[: 5 * len(PALETTE)]}).axes[0]
    assert not few.texts


@pytest.mark.parametrize("n_cells", [0, 1, 2])
def test_few_cells_are_drawn_in_the_plane(n_cells):
    draw(
        draw_embedding(
            np.zeros((n_cells, 2)), {"Label": np.full(n_cells, "a"), "Source": np.full(n_cells, "b")}
        )
    )


@pytest.mark.filterwarnings("error")
def test_odd_names_are_drawn_as_they_are():
    cells = make_cells(60).assign(source=ODD_NAMES * 10)
    table = pd.DataFrame({"doublet_probability": np.linspace(0, 1, 60), "lane": ODD_NAMES * 10})
    plane = draw_embedding(np.random.default_rng(0).normal(size=(60, 2)), {"$x$ _": np.array(ODD_NAMES * 10)})
    for figure in (draw_quality(cells, {}), draw_called(table), plane):
        draw(figure)
    assert "_hidden (10)" in read_legend(plane)
    assert "$a$b$ (10)" in read_legend(plane)


def test_cells_without_a_group_are_a_group():
    groups = group_cells(pd.Series(["a", None, "a", np.nan], dtype=object), most=5)
    assert groups.names == ("a", "none")
    assert groups.sizes.tolist() == [2, 2]


def test_samples_share_the_places_and_do_not_repeat_a_cell():
    groups = group_cells(np.repeat(["large", "small"], [900, 4]), most=5)
    large, small = sample_groups(groups, most=100)
    assert len(np.unique(large)) == len(large) == 50
    assert small.tolist() == [900, 901, 902, 903]


def test_long_names_keep_both_ends():
    name = "a_very_long_folder_name/and_a_long_file_name.h5ad"
    assert len(shorten(name)) == 34
    assert shorten(name).startswith("a_very_long_")
    assert shorten(name).endswith("file_name.h5ad")
    assert shorten("short") == "short"
