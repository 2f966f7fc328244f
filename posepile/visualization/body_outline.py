"""The error of every joint on the outline of a body, seen from the front."""

from collections.abc import Mapping

import matplotlib
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Ellipse, Polygon

from posepile.visualization.plots import png

# Where joints lie on the outline, % of the body's height, of the left side and the middle; the right side is the mirror image.
# x grows towards the person's left, which is on the right of the picture, y upwards.
_POSITIONS = {
    "head_top": (0, 102), "head": (0, 95), "front_head": (2, 100), "back_head": (4, 99), "nose": (0, 90.5), "jaw": (0, 89),
    "eye": (3.2, 96.5), "eye_joint": (3.2, 96.5), "brow1": (3.2, 98.5), "ear": (7.5, 93.3), "cheek": (3.5, 91),
    "head_bottom": (0, 88), "head2": (0, 99), "upper_neck": (0, 87), "neck3": (0, 87), "neck2": (0, 85), "neck": (0, 83.5),
    "back_neck": (0, 84.5), "thorax": (0, 80), "sternum": (0, 77), "spine4": (0, 79), "upper_back": (0, 76), "chest": (0, 74),
    "spine3": (0, 74.5), "spine2": (0, 68.5), "spine": (0, 66.5), "spine1": (0, 62), "belly": (0, 60), "umbilicus": (0, 60),
    "spine0": (0, 58), "pelvis": (0, 52.5), "mid_hip": (0, 52.5), "collar": (5.5, 80), "clavicle": (6.5, 80.5),
    "shoulder": (14, 79.5), "elbow": (21.5, 65.5), "wrist": (28, 52.5), "hand": (30.5, 47.5), "finger": (32, 43.5),
    "fingers": (32, 43.5), "middle1": (31.5, 46), "middle3": (32.5, 43), "middle_tip": (33, 41.5), "thumb": (26.5, 46.5),
    "thumb2": (26.5, 45.5), "thumb3": (26.3, 44.5), "thumb_tip": (26, 43.5), "pinky": (34, 45), "hip": (7.5, 50),
    "knee": (9.5, 28.5), "ankle": (11, 7), "heel": (9.5, 3), "foot": (12.5, 2.5), "toe": (14, 0), "toe2": (14, 0),
    "big_toe": (12, -0.5), "small_toe": (16, 0),
}
_TORSO = ((-14, 80), (-4, 83), (4, 83), (14, 80), (10.5, 66), (9.5, 58), (11, 50), (0, 46), (-11, 50), (-9.5, 58), (-10.5, 66))
_LIMBS = ((("neck", "head"), 7), (("shoulder", "elbow", "wrist", "hand"), 6), (("hip", "knee", "ankle"), 9),
          (("ankle", "toe"), 5.5))
_FILL, _EDGE = "#eef0f3", "#b9c0ca"
_INCHES_PER_PERCENT = 0.042
_PANELS_PER_ROW = 4


def outlined_joints(joint_names) -> list[str]:
    """Those of the joints that have a place on the outline."""
    return [name for name in joint_names if _position(name) is not None]


def body_outline(errors_mm: Mapping[str, Mapping[str, float]]) -> bytes:
    """Draws a body for each joint format, with a coloured disc and a number at every joint.

    Args: errors_mm: {format: {joint name: mm}}; joints without a place on the outline are left out.

    Returns: PNG.
    """
    num_columns = min(len(errors_mm), _PANELS_PER_ROW)
    num_rows = -(-len(errors_mm) // num_columns)
    width, height = 92 * _INCHES_PER_PERCENT, 114 * _INCHES_PER_PERCENT
    figure = Figure(figsize=(width * num_columns, (height + 0.3) * num_rows), layout="constrained")
    axes = figure.subplots(num_rows, num_columns, squeeze=False).ravel()
    norm = Normalize(0, max((value for errors in errors_mm.values() for value in errors.values()
                             if value is not None and value < float("inf")), default=1.0) or 1.0)
    colors = matplotlib.colormaps["YlOrRd"]
    for ax in axes:
        ax.set(xlim=(-46, 46), ylim=(-5, 109), aspect="equal")
        ax.axis("off")
    for ax, (fmt, errors) in zip(axes, errors_mm.items(), strict=False):
        ax.set_title(fmt, fontsize=10)
        _draw_body(ax)
        for joint in outlined_joints(errors):
            error = errors[joint]
            is_known = error is not None and error < float("inf")
            x, y = _position(joint)
            ax.scatter(x, y, s=62, color=colors(norm(error)) if is_known else "white", edgecolors="#444444", linewidths=0.6,
                       zorder=3)
            ax.annotate(f"{error:.0f}" if is_known else "?", (x, y), xytext=(-6.5 if x < 0 else 6.5, 0),
                        textcoords="offset points", ha="right" if x < 0 else "left", va="center", fontsize=7, zorder=4,
                        color="#1c1e21")
    bar = figure.colorbar(matplotlib.cm.ScalarMappable(norm, colors), ax=axes.tolist(), shrink=0.5, aspect=25, pad=0.01)
    bar.set_label("mean error, mm", fontsize=8)
    bar.ax.tick_params(labelsize=8)
    return png(figure, dpi=130)


def _position(joint_name):
    parts = joint_name.split("_")
    side = next((side for side in ("left", "right") if side in parts), None)
    x, y = _POSITIONS.get("_".join(part for part in parts if part != side), (None, None))
    if x is None:
        return None
    return (-x if side == "right" else x), y


def _draw_body(ax):
    """A gray figure with its arms hanging a little apart."""
    points = 72 * _INCHES_PER_PERCENT  # per % of the body's height
    lines = [([side * _POSITIONS[name][0] for name in names], [_POSITIONS[name][1] for name in names], thickness * points)
             for names, thickness in _LIMBS for side in (1, -1)]
    # First all edges, then all insides, so that the parts melt into one.
    for color, extra in ((_EDGE, 2.5), (_FILL, 0)):
        for x, y, thickness in lines:
            ax.plot(x, y, color=color, linewidth=thickness + extra, solid_capstyle="round", solid_joinstyle="round", zorder=1)
        ax.add_patch(Polygon(_TORSO, closed=True, facecolor=color, edgecolor=color, linewidth=3 + extra, joinstyle="round",
                             zorder=1))
        ax.add_patch(Ellipse((0, 95), 13, 16, facecolor=color, edgecolor=color, linewidth=extra, zorder=1))
