"""Frames of videos that OpenCV writes, each with its number painted in."""

import random
import tracemalloc

import cv2
import numpy as np
import pytest

from datasets.readers.video import frame_rate, num_frames, read_frames
from tests.datasets.adapters.painted_people import write_video

WIDTH, HEIGHT = 96, 64


def frame(number):
    """RGB: the number in binary digits as 8 x 8 px black and white squares along the top; below red left, blue right."""
    image = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    for bit in range(8):
        image[:16, 12 * bit:12 * bit + 12] = 255 * (number >> bit & 1)
    image[16:, :WIDTH // 2, 0] = 220
    image[16:, WIDTH // 2:, 2] = 220
    return image


def number_in(image):
    assert image.shape == (HEIGHT, WIDTH, 3) and image.dtype == np.uint8
    assert image[40, 10, 0] > 150 > 80 > image[40, 10, 2] and image[40, 90, 2] > 150 > 80 > image[40, 90, 0]
    return sum(int(image[8, 12 * bit + 6].mean() > 128) << bit for bit in range(8))


def write_frames(path, codec, count, size=(WIDTH, HEIGHT), rate=25.0):
    write_video(path, (cv2.resize(frame(number), size) for number in range(count)), codec, rate)
    return path


@pytest.mark.parametrize(("name", "codec"), [("a.mp4", "mp4v"), ("a.avi", "XVID"), ("a.avi", "MJPG"), ("a.mkv", "mp4v")])
def test_frames_are_exact(tmp_path, name, codec):
    path = write_frames(tmp_path / name, codec, 60)  # five groups of pictures between key frames
    assert num_frames(path) == 60
    assert [(index, number_in(image)) for index, image in read_frames(path)] == [(i, i) for i in range(60)]
    wanted = [0, 1, 13, 14, 37, 59]
    assert [(index, number_in(image)) for index, image in read_frames(path, iter(wanted))] == [(i, i) for i in wanted]
    assert list(read_frames(path, [])) == []


def test_indices_are_asked_as_it_goes(tmp_path):
    path = write_frames(tmp_path / "a.avi", "MJPG", 5)
    asked = []

    def indices():
        for index in (1, 3, 9999):
            asked.append(index)
            yield index

    frames = read_frames(path, indices())
    assert number_in(next(frames)[1]) == 1 and asked == [1]
    assert number_in(next(frames)[1]) == 3 and asked == [1, 3]


def test_wanted_frames_must_exist_and_rise(tmp_path):
    path = write_frames(tmp_path / "a.mp4", "mp4v", 10)
    with pytest.raises(ValueError, match=r"a\.mp4: frame 10 cannot be decoded: the video ends after 10 frames"):
        list(read_frames(path, [3, 10]))
    for indices in ([3, 3], [3, 2], [-1]):
        with pytest.raises(ValueError, match=rf"a\.mp4: frame {indices[-1]} was asked for after .* must rise from 0"):
            list(read_frames(path, indices))


def test_rotation_in_the_header_does_not_turn_the_picture(tmp_path):
    path = write_frames(tmp_path / "a.mp4", "mp4v", 3)
    content = bytearray(path.read_bytes())
    matrix = content.index(b"tkhd") + 44  # track header: version, times, id, duration, layer, volume, then 3 x 3 numbers
    quarter_turn = [0, 0x10000, 0, -0x10000, 0, 0, 0, 0, 0x40000000]
    assert content[matrix:matrix + 4] == (0x10000).to_bytes(4)
    content[matrix:matrix + 36] = b"".join(number.to_bytes(4, signed=True) for number in quarter_turn)
    path.write_bytes(content)
    assert cv2.VideoCapture(str(path)).read()[1].shape == (WIDTH, HEIGHT, 3)  # OpenCV's own default turns it
    assert [number_in(image) for _, image in read_frames(path)] == [0, 1, 2]


def test_a_video_cut_short(tmp_path):
    path = write_frames(tmp_path / "a.avi", "MJPG", 60)
    path.write_bytes(path.read_bytes()[:path.stat().st_size // 2])
    found = []
    with pytest.raises(ValueError, match=r"a\.avi: frame (\d+) cannot be decoded: the video ends after \1 frames, .*states 60"):
        found.extend(index for index, _ in read_frames(path))
    assert 20 <= len(found) < 40 and found == list(range(len(found)))  # what there is has been given
    frames = read_frames(path)
    assert [number_in(next(frames)[1]) for _ in range(20)] == list(range(20))
    path = write_frames(tmp_path / "b.mp4", "mp4v", 20)
    path.write_bytes(path.read_bytes().partition(b"moov")[0])  # the index, which is at the end
    with pytest.raises(ValueError, match=r"b\.mp4 cannot be read as a video"):
        num_frames(path)


def test_what_is_no_video(tmp_path):
    path = tmp_path / "a_%04d.mp4"  # a pattern for a series of images, to some
    cv2.imwrite(str(tmp_path / "a_0000.mp4.png"), frame(0))
    path.write_bytes(b"no video" * 100)
    for function in (num_frames, lambda path: list(read_frames(path))):
        with pytest.raises(ValueError, match=r"a_%04d\.mp4 cannot be read as a video"):
            function(path)
    with pytest.raises(FileNotFoundError, match=r"b\.mp4 is missing\. Get it there\."):
        next(read_frames(tmp_path / "b.mp4", hint="Get it there."))


def test_a_frame_at_a_time_is_in_memory(tmp_path):
    path = write_frames(tmp_path / "a.avi", "MJPG", 100, (640, 480))
    tracemalloc.start()
    for _ in read_frames(path):
        pass
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 8 * 640 * 480 * 3


def test_mutated_videos_are_read_or_named(tmp_path):
    generator = random.Random(0)
    path = tmp_path / "a.avi"
    for name, codec in (("b.avi", "MJPG"), ("b.mp4", "mp4v")):
        content = write_frames(tmp_path / name, codec, 10).read_bytes()
        for _ in range(20):
            changed = bytearray(content[:generator.randrange(1, 2 * len(content))])
            changed[generator.randrange(len(changed))] = generator.randrange(256)
            path.write_bytes(changed)
            try:
                assert all(image.dtype == np.uint8 for _, image in read_frames(path))
            except ValueError as error:
                assert "a.avi" in str(error)


@pytest.mark.parametrize("rate", [12.5, 29.97, 60.0])
def test_frame_rate_is_that_of_the_container(tmp_path, rate):
    assert frame_rate(write_frames(tmp_path / "a.mp4", "mp4v", 3, rate=rate)) == pytest.approx(rate, rel=1e-4)
    assert frame_rate(write_frames(tmp_path / "a.avi", "MJPG", 3, rate=rate)) == pytest.approx(rate, rel=1e-4)


@pytest.mark.parametrize("stated", [0.0, -25.0, np.nan, np.inf, 90000.0])
def test_absurd_frame_rate_is_an_error(tmp_path, monkeypatch, stated):
    path = write_frames(tmp_path / "a.avi", "MJPG", 3)
    capture_class = cv2.VideoCapture

    class Capture:
        def __init__(self, *arguments):
            self._capture = capture_class(*arguments)

        def get(self, key):
            return stated if key == cv2.CAP_PROP_FPS else self._capture.get(key)

        def __getattr__(self, name):
            return getattr(self._capture, name)

    monkeypatch.setattr(cv2, "VideoCapture", Capture)
    with pytest.raises(ValueError, match=rf"a\.avi states a frame rate of {stated}, expected 1 to 1000"):
        frame_rate(path)


def test_frame_rate_of_no_video(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"a\.mp4 is missing\. Get it there\."):
        frame_rate(tmp_path / "a.mp4", "Get it there.")
    (tmp_path / "a.mp4").write_bytes(b"\0" * 999)
    with pytest.raises(ValueError, match=r"a\.mp4 cannot be read as a video"):
        frame_rate(tmp_path / "a.mp4")
