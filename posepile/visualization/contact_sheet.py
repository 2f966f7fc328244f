"""Contact sheets: many small pictures with captions, and a legend, in one PNG."""

import pathlib
from collections.abc import Sequence

import cv2
import numpy as np

from posepile.data.atomic_files import atomic_file
from posepile.visualization.drawing import CENTER_COLOR, FONT, LEFT_COLOR, RIGHT_COLOR

SIDE_LEGEND = (("left", LEFT_COLOR), ("right", RIGHT_COLOR), ("centre", CENTER_COLOR))
_BACKGROUND, _INK = (32, 32, 32), (225, 225, 225)
_GAP = 6  # px between cells
_FONT_SCALE, _LINE_HEIGHT = 0.38, 15
_LEGEND_HEIGHT = 28


def contact_sheet(images: Sequence[np.ndarray], columns: int, captions: Sequence[str] | None = None, *,
                  title: str = "", legend: Sequence[tuple[str, tuple[int, int, int]]] = ()) -> np.ndarray:
    """Arranges pictures row by row.

    Args:
        images: each [height, width, 3] uint8 RGB, of any sizes; all columns are as wide as the widest picture, a row is
            as high as its highest.
        columns: pictures in a row, fewer if there are fewer pictures.
        captions: per image; broken into lines as wide as the cell, so that nothing is cut off.
        title: a line at the top.
        legend: names and their colours, beside the title.

    Returns: [height, width, 3] uint8 RGB.
    Raises: ValueError without images, for a wrong number of captions or of columns.
    """
    if not len(images) or columns < 1:
        raise ValueError(f"contact_sheet got {len(images)} images and {columns} columns; expected one or more of each")
    captions = [""] * len(images) if captions is None else list(captions)
    if len(captions) != len(images):
        raise ValueError(f"contact_sheet got {len(images)} images but {len(captions)} captions")
    columns = min(columns, len(images))
    cell_width = max(image.shape[1] for image in images)
    lines = [wrap_text(caption, cell_width) for caption in captions]
    header = _header(title, legend, columns * (cell_width + _GAP) + _GAP)
    bands = [header]
    for first in range(0, len(images), columns):
        row = slice(first, first + columns)
        picture_height = max(image.shape[0] for image in images[row])
        num_lines = max(len(text) for text in lines[row])
        band = np.full((_GAP + picture_height + _LINE_HEIGHT * num_lines + (4 if num_lines else 0), header.shape[1], 3),
                       _BACKGROUND, np.uint8)
        for column, (image, text) in enumerate(zip(images[row], lines[row], strict=True)):
            left = _GAP + column * (cell_width + _GAP)
            bottom = _GAP + picture_height  # pictures stand on their captions
            band[bottom - image.shape[0]:bottom, left:left + image.shape[1]] = image
            for k, line in enumerate(text):
                _put_text(band, line, (left, bottom + _LINE_HEIGHT * (k + 1) - 2))
        bands.append(band)
    return np.concatenate([*bands, np.full((_GAP, header.shape[1], 3), _BACKGROUND, np.uint8)])


def wrap_text(text: str, width: int) -> list[str]:
    """Breaks a text into lines that are at most `width` px wide as captions; between words where possible."""
    lines, line = [], ""
    for word in text.split():
        if line and _text_width(f"{line} {word}") <= width:
            line = f"{line} {word}"
            continue
        if line:
            lines.append(line)
        while _text_width(word) > width and len(word) > 1:
            length = len(word) - 1
            while length > 1 and _text_width(word[:length]) > width:
                length -= 1
            lines.append(word[:length])
            word = word[length:]
        line = word
    return [*lines, line] if line else lines


def write_png(path: pathlib.Path | str, image: np.ndarray) -> None:
    """Writes an RGB uint8 image; it appears under its name only when complete."""
    encoded, data = cv2.imencode(".png", image[..., ::-1])
    if not encoded:
        raise ValueError(f"{path}: an image of shape {list(image.shape)} and type {image.dtype} cannot be stored as "
                         "PNG")
    with atomic_file(pathlib.Path(path)) as file:
        file.write(data.tobytes())


def _header(title: str, legend, width: int) -> np.ndarray:
    """The legend on the right of the title, or below it where the sheet is narrow."""
    if not title and not legend:
        return np.zeros((0, width, 3), np.uint8)
    titles = wrap_text(title, width - 2 * _GAP)
    legend_width = sum(34 + _text_width(name) for name, _ in legend)
    one_line = len(titles) <= 1 and _text_width(title) + legend_width + 4 * _GAP <= width
    height = _LEGEND_HEIGHT + _LINE_HEIGHT * (len(titles) - 1 + (not one_line and bool(legend) and bool(titles)))
    header = np.full((height, width, 3), _BACKGROUND, np.uint8)
    for k, line in enumerate(titles):
        _put_text(header, line, (_GAP, 19 + _LINE_HEIGHT * k))
    x = _text_width(title) + 4 * _GAP if one_line and titles else _GAP
    for name, color in legend:
        cv2.line(header, (x, height - 13), (x + 14, height - 13), color, 4)
        _put_text(header, name, (x + 19, height - 9))
        x += 34 + _text_width(name)
    return header


def _text_width(text: str) -> int:
    return cv2.getTextSize(text, FONT, _FONT_SCALE, 1)[0][0] if text else 0


def _put_text(image: np.ndarray, text: str, position) -> None:
    cv2.putText(image, text, tuple(int(c) for c in position), FONT, _FONT_SCALE, _INK, 1, cv2.LINE_AA)
