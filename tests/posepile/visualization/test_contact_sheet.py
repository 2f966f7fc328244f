import cv2
import numpy as np
import pytest

from posepile.visualization.contact_sheet import contact_sheet, wrap_text, write_png


def colored(color, height, width):
    return np.full((height, width, 3), color, np.uint8)


def boxes(sheet, color):
    """The rectangle x, y, width, height that a colour fills."""
    y, x = np.nonzero((sheet == color).all(axis=-1))
    return x.min(), y.min(), np.ptp(x) + 1, np.ptp(y) + 1


def test_pictures_are_laid_out_row_by_row_without_overlap():
    red, green, blue = (250, 0, 0), (0, 250, 0), (0, 0, 250)
    sheet = contact_sheet([colored(red, 40, 60), colored(green, 20, 100), colored(blue, 30, 30)], columns=2)
    red_box, green_box, blue_box = (boxes(sheet, color) for color in (red, green, blue))
    assert red_box[2:] == (60, 40) and green_box[2:] == (100, 20) and blue_box[2:] == (30, 30)
    assert green_box[0] - red_box[0] == 106  # the widest picture and the gap
    assert red_box[1] + 40 == green_box[1] + 20  # stand on one line
    assert blue_box[0] == red_box[0] and blue_box[1] == red_box[1] + 46


def test_captions_are_not_cut_off():
    caption = "an_unbreakably_long_file_name_of_a_sequence/000123.jpg with some words more"
    without = contact_sheet([colored(50, 60, 90)] * 2, columns=2, captions=["", ""])
    sheet = contact_sheet([colored(50, 60, 90)] * 2, columns=2, captions=["", caption])
    num_lines = len(wrap_text(caption, 90))
    assert num_lines > 3 and sheet.shape[0] == without.shape[0] + 15 * num_lines + 4
    ink = np.nonzero((sheet > 180).all(axis=-1))
    assert ink[1].min() >= 6 + 90 + 6 - 1 and ink[1].max() < sheet.shape[1] - 4  # below the second picture, inside
    assert ink[0].min() > 66 and ink[0].max() < sheet.shape[0] - 2


def test_wrapping_keeps_every_character():
    text = "a few words " + "x" * 200 + " and an end"
    lines = wrap_text(text, 100)
    assert "".join(lines).replace(" ", "") == text.replace(" ", "")
    assert wrap_text("", 100) == []
    assert wrap_text("two words", 1000) == ["two words"]


@pytest.mark.parametrize("width", [60, 2000])
def test_legend_shows_its_colors(width):
    color = (1, 222, 111)
    sheet = contact_sheet([colored(50, 40, width)], columns=1, title="a title of some length", legend=[("left", color)])
    assert (sheet == color).all(axis=-1).sum() > 40


def test_png_comes_back(tmp_path):
    image = np.random.default_rng(0).integers(0, 255, (20, 30, 3), np.uint8)
    write_png(tmp_path / "new folder" / "sheet.png", image)
    np.testing.assert_array_equal(cv2.imread(str(tmp_path / "new folder" / "sheet.png"))[..., ::-1], image)


@pytest.mark.parametrize("images, columns, captions, message", [
    ([], 2, None, "0 images"), ([np.zeros((4, 4, 3), np.uint8)], 0, None, "0 columns"),
    ([np.zeros((4, 4, 3), np.uint8)], 1, ["a", "b"], "2 captions")])
def test_wrong_arguments(images, columns, captions, message):
    with pytest.raises(ValueError, match=message):
        contact_sheet(images, columns, captions)
