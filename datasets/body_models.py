"""SMPL, SMPL-H and SMPL-X: body parameters in, joints and surface points out, through the user's licensed model file.

A body model is a template surface whose vertices are shifted by shape, expression and pose (linear blend shapes) and carried
along by the bones (linear blend skinning). Source: Loper et al., SMPL, SIGGRAPH Asia 2015, Eqs. 2-10; hands: Romero et al.,
Embodied Hands, 2017; face: Pavlakos et al., SMPL-X, CVPR 2019.
"""

import dataclasses
import functools
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np
import scipy.sparse
from scipy.spatial.transform import Rotation

from datasets.readers.files import broken_file_errors, require_file
from datasets.readers.pickles import read_pickle
from posepile.geometry.camera import ROTATION_TOLERANCE

GENDERS = ("neutral", "male", "female")
# Numbers of shapedirs columns that begin with shape and end with expression directions -> how many are of shape.
_NUM_BETAS_BEFORE_EXPRESSION = {400: 300, 20: 10}  # SMPL-X v1.1 and v1.0
# In the order in which the official software appends them to the joints of the skeleton.
LANDMARK_NAMES = ("nose", "right_eye", "left_eye", "right_ear", "left_ear",
                  *(f"{side}_{point}" for side in ("left", "right") for point in ("big_toe", "small_toe", "heel")),
                  *(f"{side}_{finger}_tip" for side in ("left", "right")
                    for finger in ("thumb", "index", "middle", "ring", "pinky")))
# Number of vertices of the surface -> the vertices that the official software (smplx) takes for LANDMARK_NAMES.
_LANDMARK_VERTICES = {
    6890: (332, 6260, 2800, 4071, 583, 3216, 3226, 3387, 6617, 6624, 6787,
           2746, 2319, 2445, 2556, 2673, 6191, 5782, 5905, 6016, 6133),
    10475: (9120, 9929, 9448, 616, 6, 5770, 5780, 8846, 8463, 8474, 8635,
            5361, 4933, 5058, 5169, 5286, 8079, 7669, 7794, 7905, 8022),
}
# Part of the pose -> its numbers, in the order of the pose vector.
_SMPLX_PARTS = {"global_orient": 3, "body_pose": 63, "jaw_pose": 3, "leye_pose": 3, "reye_pose": 3, "left_hand_pose": 45,
                "right_hand_pose": 45}
_KEYS = ("v_template", "shapedirs", "posedirs", "J_regressor", "weights", "kintree_table", "f", "lmk_faces_idx",
         "lmk_bary_coords", "hands_meanl", "hands_meanr", "hands_componentsl", "hands_componentsr")
# Of the 127 points that `BodyModel.joints_and_landmarks` gives of SMPL-X, those of the format smplx_42, in its order.
SMPLX_42_POINTS = [*range(25), 28, 43, *range(55, 67), 68, 71, 73]
_POSES_PER_CHUNK = 50  # bounds the memory of skinning: 1 MB per pose for the whole surface of SMPL-X
_SEARCH_DEPTH = 5  # the official archives have up to three folders in each other


@dataclasses.dataclass(frozen=True)
class _Release:
    """Where the files of a kind of body model come from.

    Attributes:
        title: what the authors call it.
        site: where one registers and downloads.
        download: what to choose there.
        names: gender -> file names, the preferred one first; compared without regard to case.
    """

    title: str
    site: str
    download: str
    names: Mapping[str, tuple[str, ...]]


_RELEASES = {
    "smpl": _Release("SMPL", "https://smpl.is.tue.mpg.de", "version 1.1.0 for Python 2.7", {
        gender: (f"SMPL_{gender.upper()}.pkl", f"{stem}_lbs_10_207_0_v1.0.0.pkl", f"{stem}_lbs_10_207_0_v1.1.0.pkl")
        for gender, stem in zip(GENDERS, ("basicModel_neutral", "basicmodel_m", "basicModel_f"), strict=True)}),
    "smplh": _Release("SMPL-H", "https://mano.is.tue.mpg.de", "Extended SMPL+H model (into a folder smplh)", {
        gender: (f"smplh/{gender}/model.npz", f"SMPLH_{gender.upper()}.npz", f"SMPLH_{gender.upper()}.pkl")
        for gender in GENDERS}),
    "smplx": _Release("SMPL-X", "https://smpl-x.is.tue.mpg.de", "SMPL-X v1.1", {
        gender: (f"SMPLX_{gender.upper()}.npz", f"SMPLX_{gender.upper()}.pkl") for gender in GENDERS}),
}


def find_body_model(folder: pathlib.Path | None, kind: str, gender: str) -> pathlib.Path:
    """The model file in a folder of unpacked official archives, at any depth that these have.

    Args:
        folder: what the user gave as `--body-models`; None: nothing.
        kind: smpl, smplh or smplx.
        gender: neutral, male or female.

    Raises: FileNotFoundError saying which file is needed, from where, and how to pass it; ValueError for another kind
        or gender.
    """
    if kind not in _RELEASES or gender not in GENDERS:
        raise ValueError(f"there is no body model {kind!r} of gender {gender!r}; kinds: {', '.join(_RELEASES)}; genders: "
                         f"{', '.join(GENDERS)}")
    release = _RELEASES[kind]
    names = release.names[gender]
    if folder is not None:
        files = [path for depth in range(1, _SEARCH_DEPTH + 1) for path in sorted(folder.glob("/".join(depth * "*")))]
        for name in names:
            for path in files:
                if path.absolute().as_posix().lower().endswith(f"/{name.lower()}"):
                    return path
    where = "no folder of body models was given" if folder is None else f"there is none in {folder}"
    raise FileNotFoundError(f"the {gender} {release.title} model is needed, {names[0]} (or {' or '.join(names[1:])}), and "
                            f"{where}. Register at {release.site}, download {release.download}, unpack it, and pass the "
                            "folder as --body-models=DIR.")


def load_body_model(path: pathlib.Path) -> "BodyModel":
    """Reads a model file: .npz, or .pkl as Python 2 wrote it. The last few are kept in memory, up to 130 MB each.

    Raises: FileNotFoundError; ValueError naming file and key.
    """
    path = require_file(path)
    return _load_body_model(path, path.stat().st_mtime_ns)


@dataclasses.dataclass(frozen=True, eq=False)
class BodyModel:
    """A body model. In its methods:

        pose: axis-angle, radians, as [n, 3 num_joints] or [n, num_joints, 3]; or rotation matrices
            [n, num_joints, 3, 3]. Each rotation is relative to the parent joint.
        betas: [k] or [1 or n, k] shape; k may be smaller than `num_betas`.
        translation: [3] or [n, 3], metres; added after the turn of the root about its own place.
        expression: as betas; None where there is none.

    All of them raise a ValueError naming the argument if its shape does not fit this model, if it holds nan, or if a
    matrix is no rotation.

    Attributes:
        path: its file.
        v_template: [num_vertices, 3], metres.
        shapedirs: [num_vertices, 3, num_betas + num_expressions] float32, metres per unit.
        posedirs: [num_vertices, 3, 9 (num_joints - 1)] float32, metres per entry of the rotation matrices.
        weights: [num_vertices, num_joints]: which joints carry a vertex along.
        parents: [num_joints]; -1 for the root, joint 0. A parent comes before its children.
        rest_joints: [num_joints, 3], metres: regressed from v_template.
        rest_shapedirs: [num_joints, 3, num_betas + num_expressions], metres per unit: regressed from shapedirs.
        num_betas: number of shape parameters.
        num_expressions: number of expression parameters.
        landmark_regressor: sparse [0, 21, 51 or 72, num_vertices]: LANDMARK_NAMES for the surfaces of SMPL(-H) and SMPL-X,
            then 51 points of the face where the file has them.
        hands: "left" and "right" -> mean [45] and principal components [45, 45] of the hand's pose; empty without.
    """

    path: pathlib.Path
    v_template: np.ndarray
    shapedirs: np.ndarray
    posedirs: np.ndarray
    weights: np.ndarray
    parents: np.ndarray
    rest_joints: np.ndarray
    rest_shapedirs: np.ndarray
    num_betas: int
    num_expressions: int
    landmark_regressor: scipy.sparse.csr_matrix
    hands: Mapping[str, tuple[np.ndarray, np.ndarray]]

    @property
    def num_joints(self) -> int:
        return len(self.parents)

    @property
    def num_vertices(self) -> int:
        return len(self.v_template)

    def joints(self, pose: np.ndarray, betas: np.ndarray, translation: np.ndarray,
               expression: np.ndarray | None = None) -> np.ndarray:
        """[n, num_joints, 3] float64, mm: the joints of the skeleton. See the class for the arguments."""
        rotations = self._rotations(pose)
        rest = self._rest_joints(self._blend_coefficients(betas, expression, len(rotations)))
        positions, _ = self._forward_kinematics(rotations, rest)
        return 1000 * (positions + self._translation(translation, len(rotations)))

    def vertices(self, pose: np.ndarray, betas: np.ndarray, translation: np.ndarray, expression: np.ndarray | None = None,
                 indices: np.ndarray | None = None) -> np.ndarray:
        """[n, num_vertices, 3] float64, mm: the surface, or the vertices `indices` of it. See the class."""
        indices = np.arange(self.num_vertices) if indices is None else np.asarray(indices)
        rotations = self._rotations(pose)
        coefficients = self._blend_coefficients(betas, expression, len(rotations))
        translation = self._translation(translation, len(rotations))
        posedirs = self.posedirs[indices].reshape(3 * len(indices), self.posedirs.shape[2]).T.astype(np.float64)
        result = np.empty((len(rotations), len(indices), 3))
        for start in range(0, len(rotations), _POSES_PER_CHUNK):
            chunk = slice(start, start + _POSES_PER_CHUNK)
            of_chunk = coefficients if len(coefficients) == 1 else coefficients[chunk]
            result[chunk] = self._skin(rotations[chunk], of_chunk, posedirs, indices)
        return 1000 * (result + translation)

    def regressed_joints(self, regressor: Any, pose: np.ndarray, betas: np.ndarray, translation: np.ndarray,
                         expression: np.ndarray | None = None) -> np.ndarray:
        """`regress(vertices(...), regressor)`, skinning only the vertices that the regressor uses. [n, num_points, 3], mm."""
        regressor = _check_regressor(regressor, self.num_vertices)
        indices = np.unique(regressor.indices)
        return regress(self.vertices(pose, betas, translation, expression, indices), regressor[:, indices])

    def joints_and_landmarks(self, pose: np.ndarray, betas: np.ndarray, translation: np.ndarray,
                             expression: np.ndarray | None = None) -> np.ndarray:
        """Joints and surface points in the order of the official software, [n, 45 (SMPL), 73 (SMPL-H) or 127 (SMPL-X), 3],
        mm: the skeleton's joints, LANDMARK_NAMES, 51 points of the face (without the 17 of its contour)."""
        parameters = pose, betas, translation, expression
        return np.concatenate([self.joints(*parameters),
                               self.regressed_joints(self.landmark_regressor, *parameters)], axis=1)

    def smplx_pose(self, parts: Mapping[str, Any]) -> np.ndarray:
        """[n, 165] the pose vector of SMPL-X from the parts that fits to it are stored in.

        Args:
            parts: global_orient [n, 3], body_pose [n, 63], jaw_pose, leye_pose, reye_pose [n, 3], axis-angle; left_hand_pose
                and right_hand_pose relative to the mean hand: axis-angle [n, 45], or fewer principal components [n, k].

        Raises: ValueError naming a part that is missing or has another shape, or if the model file has no hands.
        """
        if missing := [name for name in _SMPLX_PARTS if name not in parts]:
            raise ValueError(f"{', '.join(missing)} missing; a pose of SMPL-X has the parts {', '.join(_SMPLX_PARTS)}")
        if not self.hands:
            raise ValueError(f"{self.path} has no hands_meanl and hands_meanr; the pose of SMPL-X needs them")
        columns = []
        for name, width in _SMPLX_PARTS.items():
            values = np.asarray(parts[name], np.float64)
            is_hand = name.endswith("hand_pose")
            if values.ndim != 2 or len(values) != len(parts["global_orient"]) \
                    or not (values.shape[1] <= width if is_hand else values.shape[1] == width):
                raise ValueError(f"{name} has shape {list(values.shape)}; expected [{len(parts['global_orient'])}, {width}]"
                                 f"{' or fewer principal components' if is_hand else ''}")
            if is_hand:
                mean, components = self.hands[name.removesuffix("_hand_pose")]
                values = mean + (values if values.shape[1] == width else values @ components[:values.shape[1]])
            columns.append(values)
        return np.concatenate(columns, axis=1)

    def _rotations(self, pose: np.ndarray) -> np.ndarray:
        """[n, num_joints, 3, 3], checked."""
        pose, num = np.asarray(pose, np.float64), self.num_joints
        if pose.shape[1:] not in ((3 * num,), (num, 3), (num, 3, 3)):
            raise ValueError(f"pose has shape {list(pose.shape)}; expected [n, {3 * num}], [n, {num}, 3] or "
                             f"[n, {num}, 3, 3], as {self.path} has {num} joints")
        _check_finite(pose, "pose")
        if pose.ndim < 4:
            return Rotation.from_rotvec(pose.reshape(-1, 3)).as_matrix().reshape(-1, num, 3, 3)
        error = np.abs(pose @ np.swapaxes(pose, -1, -2) - np.eye(3)).max(axis=(-1, -2))
        wrong = np.argwhere((error > ROTATION_TOLERANCE) | (np.linalg.det(pose) < 0))
        if len(wrong):
            i, j = wrong[0]
            raise ValueError(f"pose[{i}, {j}] is no rotation matrix: {pose[i, j].tolist()}")
        return pose

    def _blend_coefficients(self, betas: np.ndarray, expression: np.ndarray | None, num_poses: int) -> np.ndarray:
        """[1 or n, num_betas + num_expressions]; 0 where fewer are given."""
        parts = []
        for name, values, width in (("betas", betas, self.num_betas),
                                    ("expression", () if expression is None else expression, self.num_expressions)):
            values = np.atleast_2d(np.asarray(values, np.float64))
            if values.ndim != 2 or len(values) not in (1, num_poses) or values.shape[1] > width:
                raise ValueError(f"{name} has shape {list(values.shape)}; expected [1 or {num_poses}, up to {width}], as "
                                 f"{self.path} has {width} of them")
            _check_finite(values, name)
            parts.append(np.pad(values, ((0, 0), (0, width - values.shape[1]))))
        num_rows = 1 if all(len(part) == 1 for part in parts) else num_poses
        return np.concatenate([np.broadcast_to(part, (num_rows, part.shape[1])) for part in parts], axis=1)

    def _translation(self, translation: np.ndarray, num_poses: int) -> np.ndarray:
        """[1 or n, 1, 3]."""
        translation = np.atleast_2d(np.asarray(translation, np.float64))
        if translation.shape not in ((1, 3), (num_poses, 3)):
            raise ValueError(f"translation has shape {list(translation.shape)}; expected [3] or [{num_poses}, 3]")
        _check_finite(translation, "translation")
        return translation[:, None]

    def _rest_joints(self, coefficients: np.ndarray) -> np.ndarray:
        """[1 or n, num_joints, 3], metres: where the joints of this shape are before the pose."""
        return self.rest_joints + _blend(self.rest_shapedirs, coefficients)

    def _forward_kinematics(self, rotations: np.ndarray, rest: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """[n, num_joints, 3] joint positions, metres, and [n, num_joints, 3, 3] their rotations relative to the rest pose."""
        positions = np.broadcast_to(rest, rotations.shape[:3]).copy()
        turned = rotations.copy()
        for joint, parent in enumerate(self.parents[1:], start=1):
            turned[:, joint] = turned[:, parent] @ rotations[:, joint]
            bone = rest[:, joint] - rest[:, parent]
            positions[:, joint] = positions[:, parent] + (turned[:, parent] @ bone[..., None])[..., 0]
        return positions, turned

    def _skin(self, rotations: np.ndarray, coefficients: np.ndarray, posedirs: np.ndarray,
              indices: np.ndarray) -> np.ndarray:
        """[n, len(indices), 3], metres: shape and pose blend shapes, then linear blend skinning.

        Args:
            posedirs: [9 (num_joints - 1), 3 len(indices)]: those of `indices`.
        """
        pose_features = (rotations[:, 1:] - np.eye(3)).reshape(len(rotations), -1)
        blended = (self.v_template[indices] + _blend(self.shapedirs[indices], coefficients)
                   + (pose_features @ posedirs).reshape(len(rotations), -1, 3))
        rest = self._rest_joints(coefficients)
        positions, turned = self._forward_kinematics(rotations, rest)
        offsets = positions - (turned @ rest[..., None])[..., 0]
        weights = self.weights[indices]
        carried = (weights @ turned.reshape(len(rotations), -1, 9)).reshape(len(rotations), -1, 3, 3)
        return (carried @ blended[..., None])[..., 0] + weights @ offsets


def regress(vertices: np.ndarray, regressor: Any) -> np.ndarray:
    """Points that are weighted sums of vertices: joints of another format, say, or landmarks.

    Args:
        vertices: [..., num_vertices, 3].
        regressor: [num_points, num_vertices], an array or a scipy.sparse one.

    Returns: [..., num_points, 3] in the unit of the vertices.
    Raises: ValueError if the regressor does not fit, or holds nan.
    """
    return _check_regressor(regressor, vertices.shape[-2]).toarray() @ vertices


def _check_regressor(regressor: Any, num_vertices: int) -> scipy.sparse.csr_matrix:
    regressor = scipy.sparse.csr_matrix(regressor)
    if regressor.shape[1] != num_vertices or not np.isfinite(regressor.data).all():
        raise ValueError(f"the regressor has shape {list(regressor.shape)}; expected finite numbers, [num_points, "
                         f"{num_vertices}], a column per vertex")
    return regressor


def _blend(directions: np.ndarray, coefficients: np.ndarray) -> np.ndarray:
    """[m, 3, k] directions and [n, k] coefficients -> [n, m, 3] shifts."""
    return np.tensordot(coefficients, directions, axes=(1, 2))


def _check_finite(values: np.ndarray, name: str) -> None:
    bad = np.flatnonzero(~np.isfinite(values).all(axis=tuple(range(1, values.ndim))))
    if len(bad):
        raise ValueError(f"{name} holds nan or infinity in {len(bad)} of {len(values)} rows, first in {name}[{bad[0]}]")


# ------------------------------------------------------------------------------------------------------ reading the file


@functools.lru_cache(maxsize=4)
def _load_body_model(path: pathlib.Path, _mtime: int) -> BodyModel:
    content = _read_npz(path) if path.suffix.lower() == ".npz" else read_pickle(path, allow_sparse=True, allow_chumpy=True)
    if not isinstance(content, dict):
        raise ValueError(f"{path} holds a {type(content).__name__}; expected the table of arrays that a body model is")
    v_template = _array(content, path, "v_template", (None, 3))
    parents = _parents(content, path)
    num_vertices, num_joints = len(v_template), len(parents)
    shapedirs = _array(content, path, "shapedirs", (num_vertices, 3, None))
    posedirs = _array(content, path, "posedirs", (num_vertices, 3, 9 * (num_joints - 1)))
    joint_regressor = _array(content, path, "J_regressor", (num_joints, num_vertices))
    num_directions = shapedirs.shape[2]
    num_betas = _NUM_BETAS_BEFORE_EXPRESSION.get(num_directions, num_directions)
    return BodyModel(
        path=path, v_template=v_template, shapedirs=shapedirs.astype(np.float32), posedirs=posedirs.astype(np.float32),
        weights=_array(content, path, "weights", (num_vertices, num_joints)), parents=parents,
        rest_joints=joint_regressor @ v_template, rest_shapedirs=np.tensordot(joint_regressor, shapedirs, axes=1),
        num_betas=num_betas, num_expressions=num_directions - num_betas,
        landmark_regressor=_landmark_regressor(content, path, num_vertices),
        hands={side: (_array(content, path, f"hands_mean{side[0]}", (45,)),
                      _array(content, path, f"hands_components{side[0]}", (45, 45)))
               for side in ("left", "right") if "hands_meanl" in content})


def _read_npz(path: pathlib.Path) -> dict[str, np.ndarray]:
    content = {}
    for key in _KEYS:
        with broken_file_errors(path, f"a .npz file with the array {key}"), np.load(path, allow_pickle=False) as archive:
            if key in archive.files:
                content[key] = archive[key]
    return content


def _array(content: Mapping[str, Any], path: pathlib.Path, key: str, shape: tuple[int | None, ...]) -> np.ndarray:
    """float64, of this shape (None: any number), finite. Raises: ValueError naming file and key."""
    if key not in content:
        raise ValueError(f"{path} has no {key}; is it the model file of SMPL, SMPL-H or SMPL-X? It has "
                         f"{', '.join(sorted(map(str, content))[:12])}")
    value = content[key]
    try:
        array = value if scipy.sparse.issparse(value) else np.asarray(value, np.float64)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{path}: {key} is no array of numbers: {error}") from error
    if array.ndim != len(shape) or any(want not in (None, got) for want, got in zip(shape, array.shape, strict=True)):
        expected = ", ".join("any" if n is None else str(n) for n in shape)
        raise ValueError(f"{path}: {key} has shape {list(array.shape)}; expected [{expected}]")
    if scipy.sparse.issparse(array):  # only now: the shape that a file states may be of any size
        array = array.toarray().astype(np.float64)
    if not np.isfinite(array).all():
        raise ValueError(f"{path}: {key} holds nan or infinity")
    return array


def _parents(content: Mapping[str, Any], path: pathlib.Path) -> np.ndarray:
    """[num_joints] from kintree_table: a row of parents, that of the root -1 (as uint32: 2**32 - 1), and a row of joints."""
    parents, joints = _array(content, path, "kintree_table", (2, None)).astype(np.int64)
    numbers = np.arange(len(joints))
    is_tree = (joints == numbers).all() and (parents[1:] >= 0).all() and (parents[1:] < numbers[1:]).all()
    if not is_tree or parents[:1].tolist() not in ([-1], [2**32 - 1]):
        raise ValueError(f"{path}: kintree_table is {parents.tolist()} over {joints.tolist()}; expected parents, -1 for the "
                         "first one, over 0, 1, 2, ..., each parent before its children")
    return np.array([-1, *parents[1:]])


def _landmark_regressor(content: Mapping[str, Any], path: pathlib.Path, num_vertices: int) -> scipy.sparse.csr_matrix:
    """See `BodyModel.landmark_regressor`."""
    points = np.array(_LANDMARK_VERTICES.get(num_vertices, ()), np.int64)
    vertices, weights = points[:, None], np.ones((len(points), 1))
    regressor = _point_regressor(vertices, weights, num_vertices)
    if "lmk_faces_idx" not in content:
        return regressor
    faces = _array(content, path, "f", (None, 3))
    triangles = _array(content, path, "lmk_faces_idx", (None,))
    barycentric = _array(content, path, "lmk_bary_coords", (len(triangles), 3))
    for key, indices, count in (("f", faces, num_vertices), ("lmk_faces_idx", triangles, len(faces))):
        if indices.size and (indices.min() < 0 or indices.max() >= count):
            raise ValueError(f"{path}: {key} counts from {indices.min():.0f} to {indices.max():.0f}; expected 0 to {count - 1}")
    corners = faces[triangles.astype(np.int64)].astype(np.int64)
    return scipy.sparse.vstack([regressor, _point_regressor(corners, barycentric, num_vertices)]).tocsr()


def _point_regressor(vertices: np.ndarray, weights: np.ndarray, num_vertices: int) -> scipy.sparse.csr_matrix:
    """[n, k] vertices and their weights -> [n, num_vertices]."""
    n, k = vertices.shape
    return scipy.sparse.csr_matrix((weights.ravel(), (np.repeat(np.arange(n), k), vertices.ravel())), (n, num_vertices))
