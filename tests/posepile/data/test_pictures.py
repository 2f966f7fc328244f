import dataclasses
import os
import struct
import zlib

import cv2
import numpy as np
import pytest

from posepile.data import pictures
from posepile.data.pictures import load_pictures

CROP_SIDE = 64
ORANGE = (250, 130, 10)  # RGB, every channel another


@pytest.fixture(autouse=True)
def empty_cache():
    pictures._load_pictures.cache_clear()


def write(path, rgb, **options):
    """Writes [height, width, 3 or 4] RGB or RGBA."""
    path.parent.mkdir(parents=True, exist_ok=True)
    order = [2, 1, 0, 3][:rgb.shape[2]]
    assert cv2.imwrite(str(path), np.ascontiguousarray(rgb[..., order]), **options)


def photo(color=ORANGE, height=100, width=160, margin=30):
    """A square of one colour in the middle, black at the left and right."""
    image = np.zeros((height, width, 3), np.uint8)
    image[:, margin:width - margin] = color
    return image


def cutout(color=ORANGE, box=(10, 20, 40, 30), alpha=255, size=(90, 80)):
    """An object that fills a box (x, y, width, height) of a transparent picture of a height and width."""
    image = np.zeros((*size, 4), np.uint8)
    x, y, width, height = box
    image[..., :3] = 77  # colours without alpha do not count
    image[y:y + height, x:x + width] = (*color, alpha)
    return image


@pytest.fixture
def occluder_dir(tmp_path):
    write(tmp_path / "occluders" / "object.png", cutout())
    return tmp_path / "occluders"


@pytest.fixture
def background_dir(tmp_path):
    write(tmp_path / "backgrounds" / "photo.png", photo())
    return tmp_path / "backgrounds"


@pytest.mark.parametrize("crop_side", [32, 64])
def test_drawn_pictures(crop_side):
    drawn = load_pictures(crop_side)
    assert len(drawn.occluders) == pictures.NUM_DRAWN_OCCLUDERS >= 32
    assert all(max(occluder.shape[:2]) == crop_side // 2 for occluder in drawn.occluders)
    assert drawn.backgrounds.shape == (pictures.NUM_DRAWN_BACKGROUNDS, *(crop_side * 5 // 4,) * 2, 3)


def test_pictures_are_loaded_once_and_cannot_be_changed(occluder_dir):
    once = load_pictures(CROP_SIDE, str(occluder_dir))
    assert load_pictures(CROP_SIDE, occluder_dir=str(occluder_dir), background_dir=None) is once
    assert load_pictures(CROP_SIDE, str(occluder_dir), "") is once
    with pytest.raises(ValueError, match="read-only"):
        once.backgrounds[0, 0, 0, 0] = 1
    with pytest.raises(ValueError, match="read-only"):
        once.occluders[0][0, 0, 0] = 1
    with pytest.raises(dataclasses.FrozenInstanceError):
        once.occluders = ()


def test_pyramids_halve_the_occluders(occluder_dir):
    levels, = load_pictures(CROP_SIDE, str(occluder_dir)).occluder_pyramids
    assert [level.shape for level in levels] == [(24, 32, 4), (12, 16, 4), (6, 8, 4), (3, 4, 4)]
    assert all((level == (*ORANGE, 255)).all() for level in levels)


@pytest.mark.parametrize("suffix", ["png", "PNG", "webp"])
def test_an_occluder_is_trimmed_resized_and_rgb(tmp_path, suffix):
    write(tmp_path / f"object.{suffix}", cutout(box=(10, 20, 40, 30)), params=[cv2.IMWRITE_WEBP_QUALITY, 101])
    occluder, = load_pictures(CROP_SIDE, str(tmp_path)).occluders
    assert occluder.shape == (24, 32, 4)
    np.testing.assert_array_equal(occluder[12, 16], (*ORANGE, 255))


def test_faint_pixels_are_not_the_object(tmp_path):
    image = cutout(box=(10, 20, 40, 30))
    image[5, 5, 3] = pictures._MIN_ALPHA - 1
    write(tmp_path / "object.png", image)
    assert load_pictures(CROP_SIDE, str(tmp_path)).occluders[0].shape == (24, 32, 4)


def test_premultiplied_with_half_alpha(tmp_path):
    write(tmp_path / "object.png", cutout((200, 100, 50), alpha=128))
    occluder, = load_pictures(CROP_SIDE, str(tmp_path)).occluders
    np.testing.assert_array_equal(occluder[12, 16], (100, 50, 25, 128))


@pytest.mark.parametrize("size", [12, 300])
def test_colors_stay_below_alpha_when_resized(tmp_path, size):
    image = np.random.default_rng(0).integers(0, 256, (size, size, 4)).astype(np.uint8)
    image[0] = 0
    write(tmp_path / "object.png", image)
    occluder, = load_pictures(CROP_SIDE, str(tmp_path)).occluders
    assert (occluder[..., :3] <= occluder[..., 3:]).all() and occluder[..., :3].std() > 3


def test_resizing_averages_premultiplied_colors(tmp_path):
    image = np.zeros((64, 128, 4), np.uint8)  # columns, in turn opaque white and transparent black
    image[:, ::2] = 255
    image[:, 1::2, :3] = 0
    write(tmp_path / "object.png", image)
    occluder, = load_pictures(CROP_SIDE, str(tmp_path)).occluders
    np.testing.assert_allclose(occluder[8, 2:-2].astype(int), 128, atol=3)  # white all over, of half coverage


def test_other_kinds_of_png(tmp_path):
    gray_alpha = np.full((40, 40, 2), (200, 255), np.uint8)
    gray_alpha[:, 20:, 1] = 0
    (tmp_path / "a.png").write_bytes(png(40, 40, 4, gray_alpha))
    write(tmp_path / "b.png", cutout().astype(np.uint16) * 257)
    first, second = load_pictures(CROP_SIDE, str(tmp_path)).occluders
    assert first.shape == (32, 16, 4) and (first == (200, 200, 200, 255)).all()
    np.testing.assert_array_equal(second[12, 16], (*ORANGE, 255))


def png(width, height, color_type, rows=None):
    """The bytes of an 8-bit PNG file; without `rows` it has no pixels."""
    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
    pixels = b"" if rows is None else b"".join(b"\0" + row.tobytes() for row in rows)
    return (b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, color_type, 0, 0, 0))
            + chunk(b"IDAT", zlib.compress(pixels)) + chunk(b"IEND", b""))


@pytest.mark.parametrize(("suffix", "height", "width"), [("jpg", 100, 160), ("jpeg", 800, 1280), ("webp", 400, 640),
                                                        ("png", 20, 32), ("JPG", 1600, 2560)])
def test_a_background_is_the_centred_square_in_rgb(tmp_path, suffix, height, width):
    write(tmp_path / f"photo.{suffix}", photo(height=height, width=width, margin=(width - height) // 2))
    background, = load_pictures(CROP_SIDE, None, str(tmp_path)).backgrounds
    assert background.shape == (80, 80, 3)
    np.testing.assert_allclose(background[40, [5, 40, 75]].astype(int), [ORANGE] * 3, atol=6)


def test_large_photos_are_averaged(tmp_path):
    checks = np.indices((640, 640)).sum(axis=0) % 2 * 255
    write(tmp_path / "photo.png", np.repeat(checks[..., None], 3, axis=-1).astype(np.uint8))
    background, = load_pictures(CROP_SIDE, None, str(tmp_path)).backgrounds
    np.testing.assert_allclose(background.astype(int), 128, atol=2)


def test_sorted_by_relative_path_whatever_the_folder_says(tmp_path, monkeypatch):
    names = ["b.png", "a/z.png", "a/b/c.png", "B.png", "10.png", "9.png"]
    for k, name in enumerate(sorted(names)):
        write(tmp_path / name, photo((40 * k, 0, 0)))
    walk = os.walk

    def reversed_walk(folder, **options):
        return [(parent, folders, names[::-1]) for parent, folders, names in walk(folder, **options)][::-1]
    for listing in (walk, reversed_walk):
        monkeypatch.setattr(os, "walk", listing)
        pictures._load_pictures.cache_clear()
        backgrounds = load_pictures(CROP_SIDE, None, str(tmp_path)).backgrounds
        assert backgrounds[:, 40, 40, 0].tolist() == [0, 40, 80, 120, 160, 200]


def test_only_the_chosen_files_are_opened(tmp_path, monkeypatch):
    monkeypatch.setattr(pictures, "MAX_BACKGROUNDS", 3)
    monkeypatch.setattr(pictures, "MAX_OCCLUDERS", 2)
    for k in range(101):
        (tmp_path / f"{k:03}.png").write_bytes(b"")
    for k in (0, 50, 100):
        write(tmp_path / f"{k:03}.png", cutout((k, 2 * k, 255)))
    backgrounds = load_pictures(CROP_SIDE, None, str(tmp_path)).backgrounds
    assert len(backgrounds) == 3
    assert [occluder[12, 16, 0] for occluder in load_pictures(CROP_SIDE, str(tmp_path)).occluders] == [0, 100]


def test_other_and_hidden_files_are_left_out(occluder_dir):
    (occluder_dir / "._object.png").write_bytes(b"not a picture")
    (occluder_dir / "readme.txt").write_text("not a picture")
    write(occluder_dir / "photo.jpg", photo())
    assert len(load_pictures(CROP_SIDE, str(occluder_dir)).occluders) == 1


@pytest.mark.parametrize("flag", ["occluder_dir", "background_dir"])
def test_missing_and_empty_folders(tmp_path, flag):
    with pytest.raises(ValueError, match=r"nowhere.*No such file"):
        load_pictures(CROP_SIDE, **{flag: str(tmp_path / "nowhere")})
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "file.txt").write_text("text")
    with pytest.raises(ValueError, match=r"empty holds no file that ends with .*\.png"):
        load_pictures(CROP_SIDE, **{flag: str(tmp_path / "empty")})
    with pytest.raises(ValueError, match=r"file\.txt.*Not a directory"):
        load_pictures(CROP_SIDE, **{flag: str(tmp_path / "empty" / "file.txt")})


@pytest.mark.parametrize(("image", "problem"), [
    (photo(), "no alpha channel"), (np.zeros((9, 9, 1), np.uint8), "no alpha channel"),
    (cutout(box=(0, 0, 80, 90)), "opaque all over"), (cutout(alpha=9), "transparent all over")])
def test_what_is_not_cut_out_is_no_occluder(occluder_dir, image, problem):
    assert cv2.imwrite(str(occluder_dir / "wrong.png"), image)
    with pytest.raises(ValueError, match=rf"wrong\.png.*{problem}"):
        load_pictures(CROP_SIDE, str(occluder_dir))


def encoded(suffix, image):
    return cv2.imencode(suffix, image)[1].tobytes()


@pytest.mark.parametrize(("name", "content", "problem"), [
    ("wrong.png", b"", "damaged, or no JPEG"),
    ("wrong.jpg", b"text", "damaged, or no JPEG"),
    ("wrong.png", b"\x89PNG\r\n\x1a\n", "truncated or damaged"),
    ("wrong.png", encoded(".png", photo())[:-40], "truncated or damaged"),
    ("wrong.webp", encoded(".webp", photo())[:40], "truncated or damaged"),
    ("wrong.jpg", encoded(".jpg", photo())[:-40], "truncated or damaged"),
    ("wrong.jpg", b"\xff\xd8\xff\xda" + bytes(20), "damaged, or no JPEG"),
    ("wrong.jpg", b"\xff\xd8\xff\xff\xe0\0\2\xff\xc2\0\x11\x08\xff\xff\xff\xfe", "claims to have 65534 x 65535 px"),
    ("wrong.png", png(2**20, 2**20, 2), "claims to have 1048576 x 1048576 px"),
    ("wrong.webp", b"RIFF\0\0\0\0WEBPVP8X" + bytes(8) + b"\xff\xff\x0f" * 2, "claims to have 1048576 x 1048576 px"),
    ("wrong.webp", b"RIFF\0\0\0\0WEBPVP8L" + bytes(5) + b"\xff" * 4, "claims to have 16384 x 16384 px"),
    ("wrong.webp", b"RIFF\0\0\0\0WEBPVP8 " + bytes(10) + b"\xff" * 4, "claims to have 16383 x 16383 px")])
def test_damaged_and_enormous_files(background_dir, name, content, problem):
    (background_dir / name).write_bytes(content)
    with pytest.raises(ValueError, match=rf"{name}.*({problem})"):
        load_pictures(CROP_SIDE, None, str(background_dir))


def test_what_cannot_be_read_as_a_file(background_dir):
    (background_dir / "wrong.png").symlink_to(background_dir / "nowhere.png")
    with pytest.raises(ValueError, match=r"wrong\.png is not a file"):
        load_pictures(CROP_SIDE, None, str(background_dir))
    (background_dir / "wrong.png").unlink()
    os.mkfifo(background_dir / "wrong.png")  # reading it would wait for ever
    with pytest.raises(ValueError, match=r"wrong\.png is not a file"):
        load_pictures(CROP_SIDE, None, str(background_dir))


@pytest.mark.parametrize(("suffix", "channels", "options"), [
    (".png", 4, []), (".webp", 3, [cv2.IMWRITE_WEBP_QUALITY, 80]), (".webp", 4, [cv2.IMWRITE_WEBP_QUALITY, 80]),
    (".webp", 3, [cv2.IMWRITE_WEBP_QUALITY, 101]), (".jpg", 3, []), (".jpg", 3, [cv2.IMWRITE_JPEG_PROGRESSIVE, 1])])
def test_sizes_by_header(suffix, channels, options):
    image = np.random.default_rng(0).integers(0, 256, (45, 67, channels)).astype(np.uint8)
    data = cv2.imencode(suffix, image, options)[1].tobytes()
    assert pictures._stored_size(data) == (45, 67)
