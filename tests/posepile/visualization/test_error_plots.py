import numpy as np
import pytest

from posepile.visualization import error_plots
from posepile.visualization.error_plots import error_boxes, share_curves


@pytest.fixture(name="figure")
def _figure(monkeypatch):
    """Plots give their figures instead of PNG."""
    monkeypatch.setattr(error_plots, "png", lambda figure, dpi: figure)


def test_curves_by_hand(figure):
    curves = {"PCK": np.array([0.0, 50.0, 100.0, np.inf]), "CPS": np.array([200.0])}
    lines = share_curves(curves).axes[0].get_lines()
    assert [line.get_label() for line in lines] == ["PCK", "CPS"]
    shares = dict(zip(*lines[0].get_data(), strict=True))
    # strictly below the threshold
    assert [shares[t] for t in (0.0, 50.0, 50.5, 100.0, 100.5, 300.0)] == [0, 25, 50, 50, 75, 75]
    assert [dict(zip(*lines[1].get_data(), strict=True))[t] for t in (200.0, 200.5)] == [0, 100]


def test_boxes_by_hand(figure):
    axes = error_boxes([("near", np.arange(101.0)), ("far", np.array([10.0, np.nan, np.inf]))], "depth, m").axes[0]
    assert [label.get_text() for label in axes.get_xticklabels()] == ["near\n101", "far\n1"]
    boxes = [patch.get_path().vertices[:, 1] for patch in axes.patches]
    assert (boxes[0].min(), boxes[0].max()) == (25, 75)
    heights = [tuple(line.get_ydata()) for line in axes.get_lines()]
    assert (5, 5) in heights and (95, 95) in heights and (50, 50) in heights  # ends of whiskers, median
    assert (50.0,) in heights and (10.0,) in heights  # means


def test_both_are_png():
    assert share_curves({"PCK": np.array([1.0])}).startswith(b"\x89PNG")
    assert error_boxes([("all", np.array([1.0]))], "share").startswith(b"\x89PNG")
