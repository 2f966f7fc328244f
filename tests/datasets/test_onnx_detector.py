import numpy as np
import pytest

from datasets.onnx_detector import OnnxDetector, letterbox, people_of_output
from tests.datasets.onnx_files import SIDE, write_square_finder


def test_yolo_v8_output_by_hand():
    """Columns are candidates: centre, size, and scores of a person and two other classes."""
    output = np.float32([[[10, 50, 30], [20, 60, 30], [4, 10, 8], [8, 20, 8], [0.75, 0.125, 0], [0.25, 0.875, 0.5], [0, 0, 0]]])
    output = np.concatenate([output, np.zeros((1, 7, 20), np.float32)], axis=2)  # there are always more of them than rows
    np.testing.assert_array_equal(people_of_output(output), [[8, 16, 4, 8, 0.75], [45, 50, 10, 20, 0.125]])


def test_yolo_v5_output_by_hand():
    """Rows are candidates: centre, size, the score of anything, and those of a person and a dog if there is something."""
    output = np.zeros((1, 20, 7), np.float32)
    output[0, 3] = 10, 20, 4, 8, 0.5, 0.75, 0.25
    output[0, 9] = 50, 60, 10, 20, 1, 0, 1
    np.testing.assert_array_equal(people_of_output(output), [[8, 16, 4, 8, 0.375]])


def test_end_to_end_output_by_hand():
    """Rows are boxes: corners, score, class."""
    output = np.float32([[[8, 16, 12, 24, 0.75, 0], [1, 2, 30, 40, 0.5, 1], [5, 5, 5, 9, 0.5, 0], [np.nan, 0, 1, 1, 1, 0]]])
    np.testing.assert_array_equal(people_of_output(output), [[8, 16, 4, 8, 0.75]])


@pytest.mark.parametrize("shape", [(1, 4, 100), (100, 6), (2, 100, 6), (1, 100, 3), (1, 3, 80, 80)])
def test_other_outputs_are_refused(shape):
    with pytest.raises(ValueError, match=r"output has shape \[.*expected \[1, 4 \+ C, n\], \[1, n, 5 \+ C\] or \[1, n, 6\]"):
        people_of_output(np.zeros(shape, np.float32))


@pytest.mark.parametrize(("width", "height", "scale", "offset"), [
    (128, 64, 0.5, [0, 16]), (32, 16, 2, [0, 16]), (64, 128, 0.5, [16, 0]), (64, 64, 1, [0, 0])])
def test_letterbox_by_hand(width, height, scale, offset):
    image = np.zeros((height, width, 3), np.uint8)
    image[:, :, 0] = 200
    square, found_scale, found_offset = letterbox(image, 64)
    np.testing.assert_array_equal(found_scale, [scale, scale])
    np.testing.assert_array_equal(found_offset, offset)
    left, top = offset
    assert (square[top:64 - top, left:64 - left] == [200, 0, 0]).all()
    is_padding = np.ones((64, 64), bool)
    is_padding[top:64 - top, left:64 - left] = False
    assert (square[is_padding] == 114).all() and is_padding.sum() == 64 * 64 - scale**2 * width * height


def test_letterbox_notes_what_rounding_does_to_the_scale():
    square, scale, offset = letterbox(np.zeros((50, 99, 3), np.uint8), 64)
    np.testing.assert_allclose(scale, [64 / 99, 32 / 50])  # 32.3 is no number of pixels
    np.testing.assert_array_equal(offset, [0, 16])
    assert (square[16:48] == 0).all()


@pytest.mark.parametrize("form", ["4 + C", "5 + C", "6"])
@pytest.mark.parametrize("side", [SIDE, "side"])
def test_box_lies_around_what_the_network_saw(form, side, tmp_path, monkeypatch):
    monkeypatch.setattr("datasets.onnx_detector.DEFAULT_SIDE", SIDE)  # of a network that leaves it open
    detector = OnnxDetector(write_square_finder(tmp_path / "finder.onnx", form, side))
    image = np.full((64, 128, 3), 90, np.uint8)
    image[16:48, 40:72] = 255  # in the letterbox 20..35 across, 24..39 down
    # A square whose left edge is at the corner 40 px from that of the image; the centre of the first pixel lies 0.5 px further.
    np.testing.assert_allclose(detector(image), [[39.5, 15.5, 32, 32, 1]], atol=1e-5)
    np.testing.assert_allclose(detector(np.ascontiguousarray(image.transpose(1, 0, 2))), [[15.5, 39.5, 32, 32, 1]], atol=1e-5)
    assert detector(np.full((64, 128, 3), 90, np.uint8)).shape == (0, 5)


def test_several_people_the_surest_first_and_none_twice(tmp_path):
    detector = OnnxDetector(write_square_finder(tmp_path / "finder.onnx"))
    image = np.zeros((64, 64, 3), np.uint8)
    image[8:24, 4:20] = 251  # 16 x 251/255 - 15 = 0.749
    image[8:24, 40:60] = 255  # at 40 and at 44: IoU 12/20, below 0.7
    image[40:56, 8:24] = 243  # 0.247
    image[40:56, 40:56] = 242  # 0.184, below 0.2
    found = detector(image)
    np.testing.assert_allclose(found[[2, 3]], [[3.5, 7.5, 16, 16, 0.749], [7.5, 39.5, 16, 16, 0.247]], atol=1e-3)
    assert sorted(found[:2].tolist()) == [[39.5, 7.5, 16, 16, 1], [43.5, 7.5, 16, 16, 1]]
    assert len(OnnxDetector(tmp_path / "finder.onnx", min_score=0.5)(image)) == 3


def test_overlapping_boxes_are_one_person(tmp_path, monkeypatch):
    monkeypatch.setattr("datasets.onnx_detector.MAX_OVERLAP", 0.5)
    image = np.zeros((64, 64, 3), np.uint8)
    image[8:24, 40:60] = 255
    image[8:24, 56:60] = 254
    found = OnnxDetector(write_square_finder(tmp_path / "finder.onnx"))(image)
    np.testing.assert_allclose(found, [[39.5, 7.5, 16, 16, 1]], atol=1e-5)  # the other one is less sure


def test_networks_that_cannot_be_used_are_named(tmp_path):
    (tmp_path / "broken.onnx").write_bytes(b"no network")
    with pytest.raises(ValueError, match=r"detector .*broken\.onnx cannot be used by OpenCV .*\[1, 3, side, side\]"):
        OnnxDetector(tmp_path / "broken.onnx")
    with pytest.raises(ValueError, match=r"detector .*other\.onnx: its output has shape \[1, 3, 169\]; expected"):
        OnnxDetector(write_square_finder(tmp_path / "other.onnx", "scores"))


def test_score_before_a_single_class_is_not_taken_for_end_to_end(tmp_path, monkeypatch):
    path = write_square_finder(tmp_path / "finder.onnx")
    monkeypatch.setattr(OnnxDetector, "_run", lambda self, picture: np.full((1, 9, 6), 0.5))
    with pytest.raises(ValueError, match=r"finder\.onnx: its output has shape \[1, 9, 6\], but the last column is no class"):
        OnnxDetector(path)
