"""Files of predictions and annotations that any method can write."""

import dataclasses
import pathlib
import zipfile
import zlib
from collections.abc import Sequence

import numpy as np

from posepile.evaluation import metrics

# A median pose below that is in other units. A person is 0.5 to 2.5 m across.
_SMALLEST_POSE = {"mm": 10.0, "px": 2.0}
_OTHER_UNIT = {"mm": "metres. Millimetres are expected: multiply by 1000.",
               "px": "shares of the image. Pixels are expected: multiply by its width and height."}
_MIN_SWAPPED_GAIN = 0.5  # no method is this much better with left and right swapped, unless they are swapped
_MIN_SWAPPED_ERROR_MM = 30.0  # of poses this good the order is right, whatever swapping gives
_MAX_SWAPPED_POSES = 10_000  # looked at for that
_LABELS = ("sequence", "activity", "split", "frame", "person")


@dataclasses.dataclass(frozen=True)
class Poses:
    """The content of a file of predictions or annotations, or what is predicted for a prepared data set.

    Attributes:
        source: the file, or another name for messages.
        joints3d: [num_poses, num_joints, 3] camera space, mm.
        joints2d: [num_poses, num_joints, 2] px of the whole image.
        validity: [num_poses, num_joints] bool, which annotations count; None: all.
        root: index of the joint that root-relative metrics subtract.
        sequence, activity, split, frame, person: [num_poses] labels.
        joints3d_universal: [num_poses, num_joints, 3] mm: annotations of one body size for all, which 3DHP and MuPoTS-3D have.
        joint_names: of the joints.
    All but the first two may be None: not known.
    """

    source: str
    joints3d: np.ndarray
    joints2d: np.ndarray | None = None
    validity: np.ndarray | None = None
    root: int | None = None
    sequence: np.ndarray | None = None
    activity: np.ndarray | None = None
    split: np.ndarray | None = None
    frame: np.ndarray | None = None
    person: np.ndarray | None = None
    joints3d_universal: np.ndarray | None = None
    joint_names: tuple[str, ...] | None = None

    def select(self, poses: np.ndarray) -> "Poses":
        """The same of some poses: indices or [num_poses] bool."""
        names = ("joints3d", "joints2d", "validity", "joints3d_universal", *_LABELS)
        return dataclasses.replace(self, **{name: value[poses] for name in names
                                            if (value := getattr(self, name)) is not None})

    def to_arrays(self) -> dict[str, np.ndarray]:
        """All that is known, as `read_predictions` and `read_annotations` take it from an .npz file."""
        arrays = {"joints3d": self.joints3d, "joint_validity_mask": self.validity, "joint_names": self.joint_names,
                  **{name: getattr(self, name) for name in ("root", "joints2d", "joints3d_universal", *_LABELS)}}
        return {name: np.asarray(array) for name, array in arrays.items() if array is not None}

    def in_order(self, joint_names: Sequence[str]) -> "Poses":
        """The same with these joints in this order: by name if they have names, else they must be as many.

        Raises: ValueError naming the file and the joints that are missing.
        """
        names = tuple(joint_names)
        if self.joint_names is None:
            if self.joints3d.shape[1] != len(names):
                raise ValueError(f"{self.source}: joints3d has {self.joints3d.shape[1]} joints; the protocol takes "
                                 f"{len(names)}, in the order {', '.join(names)}. With joint_names in the file any order, and "
                                 "more joints, are possible.")
            return dataclasses.replace(self, joint_names=names)
        if missing := [name for name in names if name not in self.joint_names]:
            raise ValueError(f"{self.source}: joint_names lacks {', '.join(missing)}; the protocol scores {', '.join(names)}")
        order = [self.joint_names.index(name) for name in names]
        root = self.root if self.root is None else self.root % len(self.joint_names)
        if root is not None and root not in order:
            raise ValueError(f"{self.source}: root is {root}, {self.joint_names[root]}, which the protocol does not score")
        return dataclasses.replace(
            self, joint_names=names, root=root if root is None else order.index(root),
            **{name: value[:, order] for name in ("joints3d", "joints2d", "validity", "joints3d_universal")
               if (value := getattr(self, name)) is not None})


def read_predictions(path: pathlib.Path | str) -> Poses:
    """Reads a method's predictions.

    Args: path: .npz with `joints3d` [num_poses, num_joints, 3], camera space, mm; optional `joint_names` [num_joints],
        `joints2d` [num_poses, num_joints, 2] px, and the labels `sequence`, `frame`, `person` [num_poses].

    Raises: ValueError, FileNotFoundError: a message that names the file and the array, and says what to do.
    """
    return _read(path, is_annotation=False)


def read_annotations(path: pathlib.Path | str) -> Poses:
    """Reads what predictions are scored against.

    Args: path: .npz as for `read_predictions`; also optional: `joint_validity_mask` [num_poses, num_joints] (default: all),
        `root` (joint index, default: that of the protocol), `joints3d_universal` like joints3d, and the labels `activity` and
        `split`.

    Raises: as `read_predictions`.
    """
    return _read(path, is_annotation=True)


def check_pair(pred: Poses, true: Poses) -> tuple[Poses, Poses]:
    """Checks that two files hold the same poses and joints in one order; joint names of one go to both.

    Raises: ValueError that names the file, and the pose or joint that differs.
    """
    if pred.joints3d.shape != true.joints3d.shape:
        raise ValueError(
            f"{pred.source}: joints3d is {list(pred.joints3d.shape)}, but that of {true.source} is "
            f"{list(true.joints3d.shape)}. Both need the same poses and the same joints, in the same order.")
    if pred.joint_names and true.joint_names and pred.joint_names != true.joint_names:
        j = next(j for j, (a, b) in enumerate(zip(pred.joint_names, true.joint_names, strict=True)) if a != b)
        raise ValueError(f"{pred.source}: joint {j} is called {pred.joint_names[j]!r}, but {true.joint_names[j]!r} in "
                         f"{true.source}. Bring the joints into one order.")
    for name in _LABELS:
        a, b = getattr(pred, name), getattr(true, name)
        if a is not None and b is not None and (differs := np.not_equal(*comparable_labels(a, b))).any():
            i = int(differs.argmax())
            raise ValueError(f"{pred.source}: {name} of pose {i} is {a[i]}, but {b[i]} in {true.source}. Bring the poses into "
                             "one order.")
    pred, true = named_alike(pred, true)
    _check_sides(pred, true)
    return pred, true


def check_protocol_pair(pred: Poses, true: Poses, joint_names: Sequence[str]) -> tuple[Poses, Poses]:
    """`check_pair` after both are brought into the joint order of a protocol. If only one file names its joints, the other has
    the same ones in the same order. Raises: as `check_pair` and `Poses.in_order`."""
    pred, true = named_alike(pred, true)
    return check_pair(pred.in_order(joint_names), true.in_order(joint_names))


def named_alike(pred: Poses, true: Poses) -> tuple[Poses, Poses]:
    """Gives the joint names of one file to the other that has none, if it has as many joints."""
    names = pred.joint_names or true.joint_names
    if names is None or pred.joints3d.shape[1] != true.joints3d.shape[1]:
        return pred, true
    return tuple(poses if poses.joint_names else dataclasses.replace(poses, joint_names=names) for poses in (pred, true))


def comparable_labels(a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Labels of two files as numbers if one has numbers and the other can be read so, else as text: 3 is 3.0, "3" and "003"."""
    are_numbers = [np.issubdtype(labels.dtype, np.number) for labels in (a, b)]
    try:
        if any(are_numbers):
            return (a if are_numbers[0] else a.astype(b.dtype)), (b if are_numbers[1] else b.astype(a.dtype))
    except (ValueError, OverflowError):
        pass
    return a.astype(str), b.astype(str)


def _check_sides(pred: Poses, true: Poses) -> None:
    """Raises: ValueError if the predictions fit far better with left and right swapped; only where the joints have names."""
    mirror = _mirror(true.joint_names or ())
    if mirror == list(range(len(mirror))):
        return
    poses = slice(None, None, -(-len(true.joints3d) // _MAX_SWAPPED_POSES))
    joints3d_pred, joints3d_true = pred.joints3d[poses], true.joints3d[poses]
    is_counted = (np.isfinite(joints3d_pred) & np.isfinite(joints3d_true)).all(axis=-1)
    if true.validity is not None:
        is_counted &= true.validity[poses]
    is_counted &= is_counted[:, mirror]
    if not is_counted.any():
        return
    error, swapped = (metrics.mpjpe(joints3d, joints3d_true, is_counted, root=None)
                      for joints3d in (joints3d_pred, joints3d_pred[:, mirror]))
    if error > _MIN_SWAPPED_ERROR_MM and swapped < _MIN_SWAPPED_GAIN * error:
        raise ValueError(f"{pred.source}: left and right seem to be swapped: the mean error is {error:.0f} mm, and "
                         f"{swapped:.0f} mm with left and right joints exchanged. Bring the joints into the order "
                         f"{', '.join(true.joint_names)}.")


def _mirror(names: Sequence[str]) -> list[int]:
    """For each joint the one on the other side; itself where the names do not tell."""
    swapped = [name.replace("left", "\0").replace("right", "left").replace("\0", "right") for name in names]
    return [names.index(name) if name in names else j for j, name in enumerate(swapped)]


def _read(path, is_annotation: bool) -> Poses:
    arrays = _read_npz(path)
    joints3d = arrays["joints3d"]
    _check_numbers(joints3d, (None, None, 3), "joints3d", path)
    num_poses, num_joints = joints3d.shape[:2]
    if not num_poses:
        raise ValueError(f"{path}: joints3d holds no pose")
    optional = {name: shape for name, shape in (("joints2d", (num_poses, num_joints, 2)),
                                                ("joints3d_universal", (num_poses, num_joints, 3))) if name in arrays}
    for name, shape in optional.items():
        _check_numbers(arrays[name], shape, name, path)
    labels = {name: arrays[name] for name in _LABELS if name in arrays}
    for name, values in labels.items():
        if values.shape != (num_poses,):
            raise ValueError(f"{path}: {name} must be [{num_poses}], one label per pose; got shape {list(values.shape)}")
    root = arrays.get("root") if is_annotation else None
    if root is not None and (root.ndim or not np.issubdtype(root.dtype, np.integer)):
        raise ValueError(f"{path}: root must be one joint index, an integer; got {root!r}")
    if root is not None and not -num_joints <= root < num_joints:
        raise ValueError(f"{path}: root is {root}, but the poses have {num_joints} joints: it must be 0..{num_joints - 1}")
    validity = _read_validity(arrays, path, joints3d.shape[:2]) if is_annotation else None
    for name in ("joints3d", *optional):
        is_finite = np.isfinite(arrays[name]).all(axis=-1)
        is_wrong = ~is_finite if validity is None else ~is_finite & validity
        if is_annotation and is_wrong.any():
            pose, joint = np.argwhere(is_wrong)[0]
            raise ValueError(f"{path}: {name} is not finite at pose {pose}, joint {joint} ({arrays[name][pose, joint]}), which "
                             "counts. Set joint_validity_mask to False where there is no annotation.")
        _check_units(arrays[name], is_finite if validity is None else is_finite & validity, name, path)
    return Poses(str(path), joints3d, validity=validity, root=None if root is None else int(root) % num_joints,
                 joint_names=_joint_names(arrays, path), **labels, **{name: arrays[name] for name in optional})


def _read_validity(arrays, path, shape):
    if (mask := arrays.get("joint_validity_mask")) is None:
        return None
    if mask.shape != shape:
        raise ValueError(f"{path}: joint_validity_mask must be {list(shape)}, one flag per joint; got shape {list(mask.shape)}")
    if not np.isin(mask, (0, 1)).all():
        raise ValueError(f"{path}: joint_validity_mask must be boolean, or hold only 0 and 1")
    return mask.astype(bool)


def _read_npz(path):
    path = pathlib.Path(path)
    try:
        archive = np.load(path, allow_pickle=False)
        if not isinstance(archive, np.lib.npyio.NpzFile):
            raise ValueError("it holds a single array, not several by name")
        with archive:
            arrays = {name: _as_text(archive[name]) for name in archive.files}
    except FileNotFoundError:
        raise FileNotFoundError(f"{path}: there is no such file") from None
    except (zipfile.BadZipFile, zlib.error, EOFError, ValueError) as error:  # Python objects are a ValueError, too
        raise ValueError(f"{path} cannot be read as an .npz archive of plain numeric and text arrays: {error}. "
                         "Write it with numpy.savez.") from error
    if "joints3d" not in arrays:
        raise ValueError(f"{path} lacks joints3d; it holds: {', '.join(arrays) or 'nothing'}")
    return arrays


def _as_text(array):
    """Bytes, as in arrays of C strings, as text: else labels would be shown as b'TS1', and joints would not be found."""
    return np.strings.decode(array, "utf-8") if array.dtype.kind == "S" else array


def _check_numbers(array, shape, name, path):
    if array.ndim != len(shape) or any(want not in (None, got) for want, got in zip(shape, array.shape, strict=True)):
        expected = ", ".join(str(n or what) for n, what in zip(shape, ("num_poses", "num_joints", ""), strict=True))
        raise ValueError(f"{path}: {name} must be [{expected}]; got shape {list(array.shape)}")
    if not np.issubdtype(array.dtype, np.floating) and not np.issubdtype(array.dtype, np.integer):
        raise ValueError(f"{path}: {name} must hold numbers; got {array.dtype}")


def _joint_names(arrays, path):
    if "joint_names" not in arrays:
        return None
    names = tuple(str(name) for name in np.ravel(arrays["joint_names"]))
    if len(names) != arrays["joints3d"].shape[1]:
        raise ValueError(f"{path}: joint_names has {len(names)} names for {arrays['joints3d'].shape[1]} joints")
    if len(set(names)) < len(names):
        raise ValueError(f"{path}: joint_names has the same name twice: {', '.join(names)}")
    return names


def _check_units(joints, is_counted, name, path):
    """Raises ValueError if the poses, [num_poses, num_joints, 3] mm or [num_poses, num_joints, 2] px, are far too small."""
    unit = "mm" if joints.shape[-1] == 3 else "px"
    joints, is_counted = joints.astype(np.float64, copy=False), is_counted[..., None]
    extent = (np.max(joints, axis=1, where=is_counted, initial=-np.inf)
              - np.min(joints, axis=1, where=is_counted, initial=np.inf)).max(axis=-1)
    extent = extent[extent > 0]  # poses with two counted points or more
    if extent.size and (median := float(np.median(extent))) < _SMALLEST_POSE[unit]:
        raise ValueError(f"{path}: the median pose of {name} is {median:.3g} across, as if in {_OTHER_UNIT[unit]}")
