"""The public API of prediction: an image and person boxes in, joints in camera space out."""

import functools
import json
import pathlib
import zipfile
from collections.abc import Callable, Sequence

import cv2
import keras
import numpy as np

from posepile.data.crops import warp_crop
from posepile.geometry.camera import crop_cameras, crop_homography, weak_crop_intrinsics
from posepile.geometry.skeleton import Skeleton, joint_indices
from posepile.models.pose_model import PoseModel
from posepile.prediction.extra_formats import extend_outputs, load_extra_format
from posepile.prediction.test_time_augmentation import make_views

DEFAULT_BATCH_SIZE = 64


def default_jit_compile() -> bool | str:
    """Whether Keras should compile with XLA: not for TensorFlow on a CPU, where its convolutions are far slower."""
    if keras.backend.backend() != "tensorflow":
        return "auto"
    return "auto" if keras.distribution.list_devices("gpu") or keras.distribution.list_devices("tpu") else False


def find_model_file(path: pathlib.Path | str) -> pathlib.Path:
    """The model file of a run's folder (finetuned, else initial), or the file itself. Raises: FileNotFoundError."""
    path = pathlib.Path(path)
    if not path.is_dir():
        return path
    for name in ("finetuned.keras", "initial.keras"):
        if (path / name).is_file():
            return path / name
    raise FileNotFoundError(f"{path} holds neither finetuned.keras nor initial.keras: has the run got that far?")


def load_model(path: pathlib.Path | str) -> PoseModel:
    """Reads a run's folder or a `.keras` file of the trainer. Raises: FileNotFoundError; ValueError saying what is wrong."""
    path = find_model_file(path)
    if not path.is_file():
        raise FileNotFoundError(f"there is no model file {path}")
    if not zipfile.is_zipfile(path):
        raise ValueError(f"{path} cannot be loaded as a model: it is not a .keras file, or only a part of one")
    try:
        model = keras.models.load_model(path, compile=False)
    except (ValueError, OSError, KeyError, TypeError) as error:
        raise ValueError(f"{path} cannot be loaded as a model: {error}") from error
    if not isinstance(model, PoseModel):
        raise ValueError(f"{path} holds a {type(model).__name__}, not a pose model of this trainer")
    return model


def saved_settings(path: pathlib.Path) -> dict:
    """What a model file says of itself: backbone, crop_side, skeleton and so on, without loading its weights.

    Raises: FileNotFoundError; ValueError if it is not a model file of this trainer.
    """
    if not path.is_file():
        raise FileNotFoundError(f"there is no model file {path}")
    try:
        with zipfile.ZipFile(path) as archive:
            content = json.loads(archive.read("config.json"))
        if content["class_name"] == PoseModel.__name__:
            return content["config"]
    except (zipfile.BadZipFile, KeyError, ValueError, TypeError) as error:
        raise ValueError(f"{path} is not a model file: {error}") from error
    raise ValueError(f"{path} holds a {content['class_name']}, not a pose model of this trainer")


class Predictor:
    """Predicts joints with a trained model.

    Attributes:
        model: the `PoseModel`.
        skeleton: the merged skeleton of all joints predicted: the model's, then those of the extra formats.
    """

    def __init__(self, model: PoseModel | pathlib.Path | str, batch_size: int = DEFAULT_BATCH_SIZE,
                 extra_formats: Sequence[pathlib.Path | str] = ()):
        """
        Args: extra_formats: files of formats that are predicted, too, see `posepile.prediction.extra_formats`.
        Raises: as `load_model`, `load_extra_format` and `extend_outputs`.
        """
        formats = [load_extra_format(path) for path in extra_formats]
        self.model = model if isinstance(model, PoseModel) else load_model(model)
        self.skeleton, self._extra_weights = extend_outputs(self.model.skeleton, formats)
        self.model.compile(jit_compile=default_jit_compile())
        self.batch_size = batch_size

    def predict_crops(self, image: np.ndarray, intrinsics: np.ndarray) -> np.ndarray:
        """Joints in the crop cameras' frames.

        Args:
            image: [n, crop_side, crop_side, 3] uint8 RGB crops.
            intrinsics: [n, 3, 3] of the crops, px.

        Returns: [n, skeleton.num_joints, 3] float32, mm.
        """
        results = []
        for start in range(0, len(image), self.batch_size):
            part = image[start:start + self.batch_size], intrinsics[start:start + self.batch_size]
            count = len(part[0])
            # Every call has the same batch size, so that nothing is compiled twice.
            padded = [np.concatenate([p, np.repeat(p[-1:], self.batch_size - count, axis=0)]) for p in part]
            inputs = {"image": padded[0], "intrinsics": np.float32(padded[1])}
            results.append(np.asarray(self.model.predict_on_batch(inputs))[:count])
        joints3d = np.concatenate(results) if results else np.zeros((0, self.model.skeleton.num_joints, 3), np.float32)
        return np.concatenate([joints3d, self._extra_weights @ joints3d], axis=1)

    def predict(self, image: np.ndarray, boxes: np.ndarray, intrinsics: np.ndarray | None = None,
                distortion: np.ndarray | None = None, skeleton: Skeleton | str | None = None, num_aug: int = 1,
                flip_aug: bool = False) -> np.ndarray:
        """Joints of the people in an image, in the camera's frame.

        Args:
            image: [height, width, 3] uint8 RGB.
            boxes: [n, 4] x, y, width, height of each person, px.
            intrinsics: [3, 3], px; None: a guess in which the largest person is seen under 8 degrees: depths are then only
                right up to scale.
            distortion: OpenCV coefficients, or None.
            skeleton: a format or its name, see `skeleton.formats`; None: all joints.
            num_aug, flip_aug: test-time augmentation, see `make_views`: the views whose predictions are averaged.

        Returns: [n, num_joints, 3] float32, mm.
        Raises: ValueError for an image or boxes of the wrong shape, or a format that the model does not predict;
            as `make_views`.
        """
        views = make_views(num_aug, flip_aug)
        if isinstance(skeleton, str):
            formats = {fmt.name: fmt for fmt in self.skeleton.formats}
            if skeleton not in formats:
                raise ValueError(f"the model does not predict the format {skeleton!r}; its formats: {', '.join(formats)}")
            skeleton = formats[skeleton]
        if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
            raise ValueError(f"image must be [height, width, 3] uint8 RGB, got {image.dtype} {list(image.shape)}")
        boxes = np.asarray(boxes, np.float64)
        if boxes.size and (boxes.ndim != 2 or boxes.shape[1] != 4):
            raise ValueError(f"boxes must be [n, 4] x, y, width, height in px, got shape {list(boxes.shape)}")
        if not boxes.size:
            num_joints = (skeleton or self.skeleton).num_joints
            return np.zeros((0, num_joints, 3), np.float32)
        if intrinsics is None:
            intrinsics = weak_crop_intrinsics(boxes[:, 2:].max(), image.shape[1::-1])
        side = self.model.crop_side
        source = np.repeat(np.asarray(intrinsics, np.float64)[None], len(boxes), axis=0)
        _, plain_rotation = crop_cameras(source, boxes, side, distortion=distortion)
        if distortion is not None and np.any(distortion):
            image = cv2.undistort(image, np.float64(intrinsics), np.float64(distortion))
        reduced = functools.cache(lambda reduction: _reduce(image, reduction))
        joints3d = np.zeros((len(boxes), self.skeleton.num_joints, 3), np.float32)
        for person, view in views.batches(len(boxes), self.batch_size):
            crop_intrinsics, rotation = crop_cameras(source[person], boxes[person], side, distortion=distortion,
                                                     **views.geometry(view))
            homographies = crop_homography(source[person], crop_intrinsics, rotation)
            shrinking = source[person, 0, 0] / crop_intrinsics[:, 0, 0]
            crops = _warp_crops(reduced, np.linalg.inv(homographies), shrinking, side)
            views.adjust_brightness(crops, view)
            views.add_to_means(joints3d, person, view, self.predict_crops(crops, crop_intrinsics), self.skeleton.mirror)
        joints3d = np.einsum("nji,nkj->nki", plain_rotation, joints3d).astype(np.float32)
        return joints3d if skeleton is None else joints3d[:, joint_indices(self.skeleton, skeleton)]


def _warp_crops(reduced: Callable[[int], np.ndarray], crop_to_image: np.ndarray, shrinking: np.ndarray,
                side: int) -> np.ndarray:
    """[n, side, side, 3] crops of an image, for [n, 3, 3] homographies that shrink it [n] times.

    Large people are cut from `reduced(2)`, `reduced(4)`, ..., means over so many px, as in training: the warp by itself would
    skip pixels.
    """
    reductions = 2 ** np.maximum(np.floor(np.log2(shrinking)), 0).astype(np.int64)
    return np.stack([warp_crop(reduced(reduction), homography, side, reduction=reduction)
                     for reduction, homography in zip(reductions.tolist(), crop_to_image, strict=True)])


def _reduce(image: np.ndarray, reduction: int) -> np.ndarray:
    """[height, width, 3] -> means over blocks of reduction x reduction px; blocks that jut out repeat the last pixels."""
    if reduction == 1:
        return image
    height, width = image.shape[:2]
    image = cv2.copyMakeBorder(image, 0, -height % reduction, 0, -width % reduction, cv2.BORDER_REPLICATE)
    return cv2.resize(image, None, fx=1 / reduction, fy=1 / reduction, interpolation=cv2.INTER_AREA)
