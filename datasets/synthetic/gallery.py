"""A contact sheet of the synthetic data sets: one row each, every second picture with the skeleton drawn in."""

import numpy as np

from datasets.synthetic import generator
from datasets.synthetic.pictures import IMAGE_SIDE, RenderedExample
from posepile.geometry.camera import project
from posepile.visualization.contact_sheet import SIDE_LEGEND, contact_sheet
from posepile.visualization.drawing import draw_skeleton

_MARGIN = 14 / IMAGE_SIDE  # of a stored picture, on each side, that the sheet leaves out


def draw_gallery(
    columns: int = 8, picture_side: int = IMAGE_SIDE, stride: int = 21, color_levels: int = 256
) -> np.ndarray:
    """Renders examples of every synthetic data set.

    Args:
        columns: pictures per data set.
        picture_side: px of the rendered pictures; the sheet shows their middle.
        stride: step between the examples shown; more than `generator.FRAMES_PER_SUBJECT`, to see different people.
        color_levels: per channel, up to 256; fewer make a smaller PNG, as pixel noise does not compress.

    Returns: [height, width, 3] uint8 RGB.
    """
    pictures, captions = [], []
    margin = round(_MARGIN * picture_side)
    for name, dataset in generator.DATASETS.items():
        split = next(iter(dataset.num_examples))
        formats = generator.load_skeleton_of(name).formats
        for column in range(columns):
            example = generator.render_example(name, split, column * stride, picture_side)
            picture, caption = example.image, name if column == 0 else ""
            if column % 2:
                fmt = formats[column // 2 % len(formats)] if formats else generator.load_skeleton_of(name)
                picture, caption = _with_skeleton(example, fmt, dataset.family), fmt.name
            pictures.append(_quantized(picture[margin:-margin, margin:-margin], color_levels))
            captions.append(caption)
    return contact_sheet(pictures, columns, captions, title="synthetic data sets", legend=SIDE_LEGEND)


def _with_skeleton(example: RenderedExample, fmt, family):
    joints2d = project(example.joints3d(fmt, family), example.intrinsics)
    return draw_skeleton(example.image, joints2d, fmt, thickness=max(1.0, len(example.image) / IMAGE_SIDE))


def _quantized(image, levels):
    step = 255 / (levels - 1)
    return np.uint8(np.round(np.round(image / step) * step))
