"""Made-up body model files in the formats of the official ones: .npz, and .pkl as Python 2 wrote it with chumpy and scipy.

Key names, shapes, number types and the marks of the root are those of the releases of SMPL 1.0, SMPL-H and SMPL-X; only
the numbers of vertices and joints are smaller.
"""

import pathlib
import pickle
from collections.abc import Sequence
from typing import ClassVar

import cv2
import numpy as np
import scipy.sparse

PARENTS = (-1, 0, 1, 2)
# Old module names: what Python 2, numpy 1 and scipy 0.x called them.
_OLD_MODULES = {"numpy._core.multiarray": "numpy.core.multiarray", "scipy.sparse._csc": "scipy.sparse.csc",
                "copyreg": "copy_reg", "builtins": "__builtin__"}


def random_model(num_vertices=10, parents=PARENTS, num_directions=10, seed=0) -> dict[str, np.ndarray]:
    """A body model of noise, about 1 m in size; rows of J_regressor and weights sum to 1."""
    rng = np.random.default_rng(seed)
    num_joints = len(parents)
    return {"v_template": rng.uniform(-0.5, 0.5, (num_vertices, 3)),
            "shapedirs": 0.03 * rng.standard_normal((num_vertices, 3, num_directions)),
            "posedirs": 0.01 * rng.standard_normal((num_vertices, 3, 9 * (num_joints - 1))),
            "J_regressor": rng.dirichlet(np.full(num_vertices, 0.3), num_joints),
            "weights": rng.dirichlet(np.full(num_joints, 0.3), num_vertices),
            "kintree_table": np.array([parents, range(num_joints)]).astype(np.uint32),  # the root: 2**32 - 1
            "f": rng.integers(0, num_vertices, (12, 3)).astype(np.uint32)}


def arm_model() -> dict[str, np.ndarray]:
    """A pelvis at (0, 1, 0), a shoulder 0.5 m above it, an elbow 0.3 m to the left (x), a wrist 0.25 m further.

    Each joint is regressed from two vertices 0.1 m in front of and behind it, which follow it; two more vertices follow
    shoulder and elbow half and half, at the middle of the upper arm, 0.05 m above and below. The first shape direction
    makes the forearm 0.1 m longer, the second lifts everything by 1 m. No pose blend shapes.
    """
    joints = np.array([[0, 1, 0], [0, 1.5, 0], [0.3, 1.5, 0], [0.55, 1.5, 0]])
    depth = np.array([0, 0, 0.1])
    model = random_model()
    model["v_template"] = np.concatenate([joints - depth, joints + depth, [[0.15, 1.55, 0], [0.15, 1.45, 0]]])
    model["J_regressor"] = np.concatenate([np.eye(4) / 2, np.eye(4) / 2, np.zeros((4, 2))], axis=1)
    model["weights"] = np.concatenate([np.eye(4), np.eye(4), np.tile([0, 0.5, 0.5, 0], (2, 1))])
    model["posedirs"] = np.zeros((10, 3, 27))
    model["shapedirs"] = np.zeros((10, 3, 10))
    model["shapedirs"][[3, 7], 0, 0] = 0.1
    model["shapedirs"][:, 1, 1] = 1
    return model


def rigid_model(rest_points: np.ndarray, carriers: Sequence[int], parents: Sequence[int], num_vertices: int,
                num_directions: int = 10) -> dict[str, np.ndarray]:
    """A body of points that a joint each carries along, in the last vertices; all other vertices are at the origin.

    The first shape direction enlarges everything by a tenth. No pose blend shapes.

    Args:
        rest_points: [num_points, 3] m; the first ones are the joints.
        carriers: [num_points] joint that a point follows.
        parents: [num_joints]; that of the root is -1.
    """
    num_joints, first = len(parents), num_vertices - len(rest_points)
    model = {"v_template": np.zeros((num_vertices, 3)), "shapedirs": np.zeros((num_vertices, 3, num_directions)),
             "posedirs": np.zeros((num_vertices, 3, 9 * (num_joints - 1)), np.int8),
             "J_regressor": np.zeros((num_joints, num_vertices)), "weights": np.zeros((num_vertices, num_joints)),
             "kintree_table": np.array([parents, range(num_joints)]).astype(np.uint32), "f": np.zeros((0, 3), np.uint32)}
    model["v_template"][first:] = rest_points
    model["shapedirs"][first:, :, 0] = 0.1 * rest_points
    model["J_regressor"][range(num_joints), range(first, first + num_joints)] = 1
    model["weights"][range(first, num_vertices), carriers] = 1
    model["weights"][:first, 0] = 1
    return model


def posed_rigid_points(rest_points: np.ndarray, carriers: Sequence[int], parents: Sequence[int], rotations: np.ndarray,
                       translation: np.ndarray) -> np.ndarray:
    """[num_points, 3] m: where the points of a `rigid_model` go, joint by joint, by 4 x 4 matrices.

    Args:
        rotations: [num_joints, 3] axis-angle, radians, relative to the parent.
        translation: [3] m.
    """
    to_world = []
    for joint, (parent, rotation) in enumerate(zip(parents, rotations, strict=True)):
        about_joint = np.eye(4)
        about_joint[:3, :3] = cv2.Rodrigues(np.float64(rotation))[0]
        about_joint[:3, 3] = rest_points[joint] - about_joint[:3, :3] @ rest_points[joint]
        to_world.append(about_joint if parent < 0 else to_world[parent] @ about_joint)
    points = [to_world[joint][:3] @ np.append(point, 1) for point, joint in zip(rest_points, carriers, strict=True)]
    return np.array(points) + translation


def write_npz(path: pathlib.Path, model: dict[str, np.ndarray]) -> pathlib.Path:
    """As SMPL-H and SMPL-X: one compressed array per key, and a dictionary that only a pickle can hold."""
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(path, joint2num=np.array({"Pelvis": 0}), bs_style=np.array("lbs"), **model)
    return path


def write_pickle(path: pathlib.Path, model: dict[str, np.ndarray], protocol: int = 2) -> pathlib.Path:
    """As SMPL: Python 2, blend shapes and weights in chumpy objects, the regressor sparse."""
    path.parent.mkdir(parents=True, exist_ok=True)
    content = {**model, **{key: Ch(model[key]) for key in ("v_template", "shapedirs", "posedirs", "weights")},
               "J_regressor": scipy.sparse.csc_matrix(model["J_regressor"]), "bs_style": "lbs", "bs_type": "lrotmin"}
    with path.open("wb") as file:
        _Python2Pickler(file, protocol).dump(content)
    return path


class Ch:
    """Pickled as a chumpy.ch.Ch is."""

    def __init__(self, x):
        self.x = x
        self._dirty_vars, self._itr, self._depends_on_deps = set(), None, False


Ch.__module__ = "chumpy.ch"


class _Python2Pickler(pickle._Pickler):
    """Writes text and bytes as the 8-bit strings of Python 2, and old names of modules."""

    dispatch: ClassVar[dict] = dict(pickle._Pickler.dispatch)

    def _save_string(self, text):
        data = text.encode("latin1") if isinstance(text, str) else text
        if self.bin:
            self.write(pickle.BINSTRING + len(data).to_bytes(4, "little") + data)
        else:
            self.write(pickle.STRING + b"'" + repr(b'"' + data)[3:-1].encode("ascii") + b"'\n")
        self.memoize(text)

    def save_global(self, obj, name=None):
        module = _OLD_MODULES.get(obj.__module__, obj.__module__)
        self.write(pickle.GLOBAL + f"{module}\n{name or obj.__qualname__}\n".encode("ascii"))
        self.memoize(obj)

    dispatch[str] = dispatch[bytes] = _save_string
    for _type in (type, type(lambda: 0), type(len)):
        dispatch[_type] = save_global
