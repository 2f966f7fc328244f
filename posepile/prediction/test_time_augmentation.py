"""Test-time augmentation: each person is predicted in several views, and the predictions are averaged.

A view is the person's crop with the camera rolled, zoomed or mirrored, and with another brightness. What is predicted there is
turned back into the frame of the plain crop (centred, upright, not mirrored), where perfect predictions of all views are equal.
"""

import dataclasses
import functools
import numbers
from collections.abc import Iterator, Sequence

import cv2
import numpy as np

from posepile.geometry.camera import crop_cameras

MAX_ROLL_DEGREES = 25.0  # roll, zoom and gamma vary as much as in MeTRAbs' published model
ZOOM = (0.8, 1.1)
MIN_GAMMA = 0.6


@dataclasses.dataclass(frozen=True, eq=False)
class Views:
    """The views in which every person is predicted, n of them; `make_views` makes them.

    Attributes:
        roll: [n] radians; zoom: [n]; flip: [n] bool: of the crop camera, see `crop_cameras`.
        gamma: [n]: the pixels v of 0 .. 255 become 255 (v / 255) ** gamma.
        flip_only: whether these are the plain and the mirrored crop and no others.
    """

    roll: np.ndarray
    zoom: np.ndarray
    flip: np.ndarray
    gamma: np.ndarray
    flip_only: bool

    def __len__(self) -> int:
        return len(self.roll)

    @property
    def stamp(self) -> dict[str, int | bool]:
        """Of scores: `num_aug`, how many predictions are averaged, and `flip`, which is `flip_only`."""
        return {"num_aug": len(self), "flip": self.flip_only}

    def batches(self, num_people: int, batch_size: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yields whom, and in which view, the crops of every batch show: two times [up to batch_size] int64. All views of a
        person follow one another."""
        end = num_people * len(self)
        for start in range(0, end, batch_size):
            yield np.divmod(np.arange(start, min(start + batch_size, end)), len(self))

    def geometry(self, view: np.ndarray) -> dict[str, np.ndarray]:
        """For `crop_cameras`, of crops that show these views, [n] int64."""
        return {"roll": self.roll[view], "zoom": self.zoom[view], "flip": self.flip[view]}

    def adjust_brightness(self, images: np.ndarray, view: np.ndarray) -> None:
        """Changes, in place, crops [n, height, width, 3] uint8 that show these views, [n] int64."""
        for image, gamma in zip(images, self.gamma[view], strict=True):
            if gamma != 1:
                cv2.LUT(image, np.uint8(np.rint(255 * (np.arange(256) / 255) ** gamma)), image)

    def add_to_means(self, means: np.ndarray, person: np.ndarray, view: np.ndarray, joints3d: np.ndarray,
                     mirror: Sequence[int]) -> None:
        """Adds what is predicted for a batch to the means over the views, which begin as zeros.

        Args:
            means: [num_people, num_joints, 3] mm, in the frames of the plain crops.
            person, view: [n] int64, see `batches`.
            joints3d: [n, num_joints, 3] mm, in the frames of the views.
            mirror: [num_joints], of the skeleton.
        """
        joints3d = np.where(self.flip[view][:, None, None], joints3d[:, list(mirror)], joints3d)
        joints3d = np.einsum("nji,nkj->nki", self._plain_to_view[view], joints3d)
        np.add.at(means, person, joints3d / len(self))

    @functools.cached_property
    def _plain_to_view(self) -> np.ndarray:
        """[n, 3, 3]: what is left of a crop camera's rotation for a box that the image's camera looks at already."""
        intrinsics, box = np.eye(3), np.array([-0.5, -0.5, 1, 1])
        return crop_cameras([intrinsics] * len(self), [box] * len(self), 1, roll=self.roll, flip=self.flip)[1]


def make_views(num_aug: int = 1, flip_aug: bool = False) -> Views:
    """The views, always the same ones for the same arguments.

    View i of n stands at t = (2 i + 1) / n - 1: evenly spread over -1 .. 1, as many on either side of the plain crop, which is
    the middle one of an odd number, and the only one of 1. Roll is 25 t degrees, zoom 1 + 0.2 t below 0 and 1 + 0.1 t above,
    gamma 1 - 0.4 |t|; every other view is mirrored, the middle one is not. For 5 views:

        t           -0.8   -0.4    0      0.4    0.8
        roll       -20    -10      0     10     20    degrees
        zoom         0.84   0.92   1      1.04   1.08
        gamma        0.68   0.84   1      0.84   0.68
        mirrored     no     yes    no     yes    no

    Args:
        num_aug: how many.
        flip_aug: instead of these, the plain and the mirrored crop.

    Raises: ValueError if `num_aug` is no whole number from 1 on, or given beside `flip_aug`.
    """
    if not isinstance(num_aug, numbers.Integral) or num_aug < 1:
        raise ValueError(f"num_aug must be a whole number from 1 on, such as 5; 1 is the plain crop alone; got {num_aug!r}")
    if flip_aug:
        if num_aug != 1:
            raise ValueError(f"flip_aug averages the plain and the mirrored crop alone; leave out num_aug, which is {num_aug}")
        return Views(np.zeros(2), np.ones(2), np.array([False, True]), np.ones(2), flip_only=True)
    number = np.arange(num_aug)
    place = (2 * number + 1) / num_aug - 1
    return Views(np.radians(MAX_ROLL_DEGREES * place), np.interp(place, [-1, 0, 1], [ZOOM[0], 1, ZOOM[1]]),
                 (number - num_aug // 2) % 2 == 1, 1 - (1 - MIN_GAMMA) * abs(place), flip_only=False)


PLAIN = make_views()
