import hashlib
import subprocess
import sys

import numpy as np
import pytest

from posepile.data.painting import plain
from posepile.data.procedural_objects import OBJECTS, cuboids, draw_occluder

SIDE = 64
INDICES = range(3 * len(OBJECTS))


@pytest.fixture(scope="module")
def occluders():
    return [draw_occluder(index, SIDE) for index in INDICES]


def test_pictures_are_cut_to_the_object(occluders):
    for occluder in occluders:
        assert occluder.dtype == np.uint8 and occluder.shape[2] == 4 and max(occluder.shape[:2]) == SIDE
        alpha = occluder[..., 3]
        for border in (alpha[:3], alpha[-3:], alpha[:, :3], alpha[:, -3:]):  # thin leaves end in faint pixels
            assert border.max() > 60


def test_colors_are_premultiplied(occluders):
    for occluder in occluders:
        assert (occluder[..., :3] <= occluder[..., 3:]).all()


def test_objects_hide_much_but_not_everything(occluders):
    coverage = np.array([(occluder[..., 3] / 255).mean() for occluder in occluders])
    assert coverage.min() > 0.1 and coverage.max() <= 1 and coverage.std() > 0.1
    assert np.mean(coverage < 0.95) > 0.9
    soft = np.mean([np.mean((occluder[..., 3] > 0) & (occluder[..., 3] < 255)) for occluder in occluders])
    assert soft > 0.02  # edges


def test_all_objects_differ(occluders):
    thumbnails = []
    for occluder in occluders:
        square = np.zeros((SIDE, SIDE, 4))
        square[:occluder.shape[0], :occluder.shape[1]] = occluder
        thumbnails.append(square)
    for k, thumbnail in enumerate(thumbnails):
        assert min(np.abs(thumbnail - other).mean() for other in thumbnails[:k] + thumbnails[k + 1:]) > 3


def test_some_objects_have_holes(occluders):
    def has_hole(alpha):
        reached = np.zeros(np.add(alpha.shape, 2), bool)
        free = np.pad(alpha, 1) < 16
        reached[0, 0] = True
        while True:  # grows from a corner through what is free
            grown = reached.copy()
            grown[1:] |= reached[:-1]
            grown[:-1] |= reached[1:]
            grown[:, 1:] |= reached[:, :-1]
            grown[:, :-1] |= reached[:, 1:]
            grown &= free
            if (grown == reached).all():
                return np.count_nonzero(free & ~reached) > 20
            reached = grown
    assert sum(has_hole(occluder[..., 3]) for occluder in occluders) > 5


def test_the_same_in_every_process(occluders):
    script = ("import hashlib; from posepile.data.procedural_objects import draw_occluder;"
              f"print(hashlib.sha256(b''.join(draw_occluder(index, {SIDE}).tobytes() for index in range({len(INDICES)})))"
              ".hexdigest())")
    expected = hashlib.sha256(b"".join(occluder.tobytes() for occluder in occluders)).hexdigest()
    assert subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout.strip() == expected


@pytest.mark.parametrize("side", [1, 2, 7, 33])
def test_any_size_can_be_drawn(side):
    for index in range(len(OBJECTS)):
        assert max(draw_occluder(index, side).shape[:2]) == side


def color_of(shape):
    return shape.material(np.zeros((1, 1), np.float32), np.zeros((1, 1), np.float32))[:, 0, 0]


def test_a_cube_seen_from_the_front_and_from_above():
    cube = ((0, 0, 0), (2, 2, 2), plain((100, 100, 100)))
    front, = cuboids([cube], yaw=0, pitch=0)
    np.testing.assert_allclose(sorted(front.contours[0].tolist()), [(-1, -1), (-1, 1), (1, -1), (1, 1)])
    top, front = sorted(cuboids([cube], yaw=0, pitch=np.arctan2(3, 4)), key=lambda face: face.contours[0][:, 1].mean())
    np.testing.assert_allclose(np.ptp(top.contours[0], axis=0), (2, 1.2), atol=1e-5)  # a sine of 0.6, a cosine of 0.8
    np.testing.assert_allclose(np.ptp(front.contours[0], axis=0), (2, 1.6), atol=1e-5)
    assert (color_of(top) > color_of(front)).all()  # light comes from above


def test_nearer_boxes_are_painted_later():
    near, far = ((0, 0, -2), (1, 1, 1), plain((1, 1, 1))), ((0, 0, 2), (1, 1, 1), plain((2, 2, 2)))
    for order in ([near, far], [far, near]):
        first, second = cuboids(order, yaw=0, pitch=0)
        np.testing.assert_allclose(color_of(first), 2 * color_of(second))
