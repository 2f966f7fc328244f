"""People in images, found by an ONNX detector of the user that OpenCV runs.

The network takes square RGB images, 0..1, [1, 3, side, side]. Three forms of its output are told apart by their shape:

    [1, 4 + C, n]   centre x, centre y, width, height, and a score per class      as exported from YOLOv8, YOLO11
    [1, n, 5 + C]   the same with the score that there is something before those    YOLOv5, YOLOv7
    [1, n, 6]       left, top, right, bottom, score, class                          end to end: exported with nms, YOLOv10

in px of its input, counted from the corner of the image. Class 0 is a person, as in COCO.
"""

import pathlib
import re

import cv2
import numpy as np

PERSON_CLASS = 0
DEFAULT_SIDE = 640  # px, of networks that take any
PADDING = 114  # grey, code value; what these networks are trained with
MIN_SCORE = 0.2
MAX_OVERLAP = 0.7  # IoU from which of two boxes the less sure one is removed
FORMS = "[1, 4 + C, n], [1, n, 5 + C] or [1, n, 6], C the number of classes"


class OnnxDetector:
    """Calls return the people of an image [height, width, 3] uint8 RGB: [n, 5] x, y, width, height, score, px counted from the
    centre of pixel (0, 0), the surest first.

    Args:
        path: the ONNX file.
        min_score: of a person.

    Raises: ValueError naming the file, if it cannot be read, or has another output.
    """

    def __init__(self, path: pathlib.Path, min_score: float = MIN_SCORE):
        self._min_score = max(min_score, MIN_SCORE)
        try:
            self._network = cv2.dnn.readNetFromONNX(str(path))
            self._side = _input_side(self._network)
            output = self._run(np.zeros((self._side, self._side, 3), np.uint8))
            people_of_output(output)
        except cv2.error as error:
            raise ValueError(f"detector {path} cannot be used by OpenCV {cv2.__version__}; expected an ONNX network that takes "
                             f"a square image, [1, 3, side, side] ({str(error).strip():.300})") from error
        except ValueError as error:
            raise ValueError(f"detector {path}: {error}") from error
        if output.shape[2] == 6 and (output[0, :, 5] % 1).any():  # perhaps [1, n, 5 + C] of one class
            raise ValueError(f"detector {path}: its output has shape {list(output.shape)}, but the last column is no class")

    def __call__(self, image: np.ndarray) -> np.ndarray:
        picture, scale, offset = letterbox(image, self._side)
        people = people_of_output(self._run(picture))
        people = people[people[:, 4] >= self._min_score]
        kept = cv2.dnn.NMSBoxes(people[:, :4], people[:, 4], 0.0, MAX_OVERLAP) if len(people) else ()
        people = people[np.asarray(kept, int)]
        return np.column_stack([(people[:, :2] - offset) / scale - 0.5, people[:, 2:4] / scale, people[:, 4]])

    def _run(self, picture: np.ndarray) -> np.ndarray:
        self._network.setInput(np.ascontiguousarray(picture.transpose(2, 0, 1)[None], np.float32) / 255)
        return self._network.forward()


def _input_side(network: cv2.dnn.Net) -> int:
    """px; OpenCV tells the shape of an input only in its description of the network."""
    match = re.search(r"<Input> \S+ \[\S+ x 3 x (\S+) x (\S+)\]", network.dump())
    if match is None or not (match[1] + match[2]).isdigit():
        return DEFAULT_SIDE
    if match[1] != match[2]:
        raise ValueError(f"its input is {match[2]} x {match[1]} px; expected a square one")
    return int(match[1])


def letterbox(image: np.ndarray, side: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """An image scaled into the middle of a square.

    Returns: [side, side, 3]; scale [2] and offset [2], x and y: what lies at p in the image, px counted from its corner, is at
        scale * p + offset in the square.
    """
    height, width = image.shape[:2]
    size = np.maximum(1, np.rint(side / max(width, height) * np.array([width, height]))).astype(int)
    interpolation = cv2.INTER_AREA if side < max(width, height) else cv2.INTER_LINEAR
    resized = cv2.resize(image, size.tolist(), interpolation=interpolation)
    left, top = (side - size) // 2
    square = np.full((side, side, 3), PADDING, np.uint8)
    square[top:top + size[1], left:left + size[0]] = resized
    return square, size / [width, height], np.array([left, top], np.float64)


def people_of_output(output: np.ndarray) -> np.ndarray:
    """[n, 5]: left, top, width, height and score of the people in a network's output of any of the three forms.

    Raises: ValueError if it has another form.
    """
    shape = list(np.shape(output))
    if len(shape) != 3 or shape[0] != 1 or (shape[2] != 6 and min(shape[1:]) < 5):
        raise ValueError(f"its output has shape {shape}; expected {FORMS}")
    rows = np.asarray(output[0], np.float64)
    if shape[2] == 6:
        corners, scores = rows[:, :4], np.where(rows[:, 5] == PERSON_CLASS, rows[:, 4], 0)
        boxes = np.column_stack([corners[:, :2], corners[:, 2:] - corners[:, :2]])
    else:
        if shape[1] < shape[2]:
            rows = rows.T
            scores = rows[:, 4 + PERSON_CLASS]
        else:
            scores = rows[:, 4] * rows[:, 5 + PERSON_CLASS]
        boxes = np.column_stack([rows[:, :2] - rows[:, 2:4] / 2, rows[:, 2:4]])
    is_box = np.isfinite(boxes).all(axis=1) & (boxes[:, 2:] > 0).all(axis=1) & (scores > 0)
    return np.column_stack([boxes, scores])[is_box]
