import hashlib
import subprocess
import sys

import cv2
import numpy as np
import pytest

from posepile.data.procedural_scenes import SCENES, draw_background

SIDE = 80
INDICES = range(2 * len(SCENES))


@pytest.fixture(scope="module")
def backgrounds():
    return np.stack([draw_background(index, SIDE) for index in INDICES])


def test_size_and_type(backgrounds):
    assert backgrounds.shape == (len(INDICES), SIDE, SIDE, 3) and backgrounds.dtype == np.uint8


def test_all_scenes_differ(backgrounds):
    for k, background in enumerate(backgrounds.astype(int)):
        assert min(np.abs(background - other).mean() for other in np.delete(backgrounds, k, axis=0)) > 8


def test_no_scene_is_empty_or_burnt_out(backgrounds):
    for background in backgrounds:
        assert background.std(axis=(0, 1)).max() > 4
        assert np.mean(background == 255) < 0.5 and np.mean(background == 0) < 0.6
    assert 60 < backgrounds.mean() < 170
    assert backgrounds.mean(axis=(1, 2, 3)).std() > 15


def test_sharpness_varies_as_in_photos(backgrounds):
    sharpness = [cv2.Laplacian(cv2.cvtColor(background, cv2.COLOR_RGB2GRAY), cv2.CV_32F).std() for background in backgrounds]
    assert np.quantile(sharpness, 0.9) > 3 * np.quantile(sharpness, 0.1)


def test_the_same_in_every_process(backgrounds):
    script = ("import hashlib; from posepile.data.procedural_scenes import draw_background;"
              f"print(hashlib.sha256(b''.join(draw_background(index, {SIDE}).tobytes() for index in range({len(INDICES)})))"
              ".hexdigest())")
    expected = hashlib.sha256(backgrounds.tobytes()).hexdigest()
    assert subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout.strip() == expected


@pytest.mark.parametrize("side", [8, 21])
def test_any_size_can_be_drawn(side):
    for index in range(len(SCENES)):
        assert draw_background(index, side).shape == (side, side, 3)
