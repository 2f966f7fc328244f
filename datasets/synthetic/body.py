"""People of different proportions: the reference person's surface, joints and landmarks warped, posed and skinned."""

import dataclasses

import numpy as np

from datasets.synthetic.bones import BONE_INDEX, BONES, HIP, REFERENCE_HEIGHT_MM, REFERENCE_PIVOTS, SHOULDER
from datasets.synthetic.surface import ARM, HEAD, LEG, SURFACE_INDEX, TRUNK, load_template

HEIGHT_RANGE_MM = (1500.0, 1950.0)
_BODY_KNOTS = np.array([-50.0, 0.0, 80.0, 490.0, 905.0, 1475.0, 1560.0, 1750.0, 1850.0])

_BONE_CHAINS = np.array(
    [
        HEAD
        if b in ("neck", "head")
        else ARM
        if b.endswith(("upper_arm", "forearm", "hand"))
        else LEG
        if b.endswith(("thigh", "shin", "foot", "toes"))
        else TRUNK
        for b in BONES
    ]
)


@dataclasses.dataclass(frozen=True)
class Shape:
    """Proportions of a person, as factors of the reference person's unless noted.

    Attributes:
        height_mm: from the soles to the top of the head.
        legs, arms: lengths relative to the height; shoulders, hips: widths; girth: of the trunk; limb_girth: of arms
            and legs.
        head: size; belly_mm: how far the belly stands out further; hair: "short", "long" or "none".
    """

    height_mm: float
    legs: float = 1.0
    arms: float = 1.0
    shoulders: float = 1.0
    hips: float = 1.0
    girth: float = 1.0
    limb_girth: float = 1.0
    head: float = 1.0
    belly_mm: float = 0.0
    hair: str = "short"


@dataclasses.dataclass(frozen=True)
class RestBody:
    """A subject in rest pose.

    Attributes:
        pivots: [num_bones, 3] joint of every bone, mm.
        vertices: [V, 3] mm; normals: [V, 3] unit length; faces: [F, 3] int32.
        landmarks: [L, 3] mm, and the bone that carries each: landmark_bones [L].
    """

    pivots: np.ndarray
    vertices: np.ndarray
    normals: np.ndarray
    faces: np.ndarray
    landmarks: np.ndarray
    landmark_bones: np.ndarray


def sample_shape(rng: np.random.Generator) -> Shape:
    """Draws a body shape; heights are uniform, as a test of absolute scale needs short and tall people alike."""
    legs, arms, shoulders, hips, girth, limbs, head = rng.uniform(-1, 1, 7)
    heavy = rng.uniform(-1, 1)
    return Shape(
        height_mm=rng.uniform(*HEIGHT_RANGE_MM),
        legs=1 + 0.05 * legs,
        arms=1 + 0.05 * arms,
        shoulders=1 + 0.09 * shoulders,
        hips=1 + 0.08 * hips,
        girth=1 + 0.08 * girth + 0.08 * heavy,
        limb_girth=1 + 0.08 * limbs + 0.08 * heavy,
        head=1 + 0.05 * head,
        belly_mm=max(0.0, 70 * heavy * rng.uniform(0, 1)),
        hair=str(rng.choice(["short", "long", "none"], p=[0.6, 0.32, 0.08])),
    )


def build_rest_body(shape: Shape, landmarks: np.ndarray, landmark_bones: np.ndarray) -> RestBody:
    """Warps surface, joints and landmarks of the reference person to a shape.

    Args:
        shape: the proportions.
        landmarks: [L, 3] rest positions on the reference person, mm; landmark_bones: [L] bone that carries each.
    """
    template = load_template()
    vertices = np.float32(warp_to_shape(template.vertices, template.chain, shape))
    hidden = [
        SURFACE_INDEX[s] for s in {"short": ("long_hair",), "long": (), "none": ("long_hair", "hair")}[shape.hair]
    ]
    is_hidden = np.isin(template.surface, hidden)
    faces = template.faces[~is_hidden[template.faces[:, 0]]]
    pivots = warp_to_shape(REFERENCE_PIVOTS, _BONE_CHAINS, shape)
    vertices[is_hidden] = pivots[BONE_INDEX["head"]]  # out of the way of bounding boxes
    return RestBody(
        pivots=pivots,
        vertices=vertices,
        normals=_vertex_normals(vertices, template.faces),
        faces=np.ascontiguousarray(faces),
        landmarks=np.float32(warp_to_shape(landmarks, _BONE_CHAINS[landmark_bones], shape)),
        landmark_bones=landmark_bones,
    )


def warp_to_shape(points: np.ndarray, chain: np.ndarray, shape: Shape) -> np.ndarray:
    """Moves points [n, 3] of the reference person in rest pose to where they are on a person of this shape. chain:
    [n]."""
    scale = shape.height_mm / REFERENCE_HEIGHT_MM
    # Leg length is traded for trunk length, so that the height stays.
    leg, head = (905 - 80) * shape.legs, (1750 - 1475) * shape.head
    trunk = 1750 - 80 - leg - head
    at = 80 + leg + trunk
    knots = scale * np.array(
        [-50, 0, 80, 80 + leg * 410 / 825, 80 + leg, at, at + head * 85 / 275, 1750, 1750 + 100 * shape.head]
    )
    x, y, z = np.abs(points[:, 0]), points[:, 1], points[:, 2]
    side = np.sign(points[:, 0])
    body_y = np.interp(y, _BODY_KNOTS, knots)
    shoulder_y = np.interp(SHOULDER[1], _BODY_KNOTS, knots)
    shoulder_x, hip_x = scale * SHOULDER[0] * shape.shoulders, scale * HIP[0] * shape.hips
    is_trunk, is_arm, is_leg, is_head = (chain == c for c in (TRUNK, ARM, LEG, HEAD))
    limb = scale * shape.limb_girth
    width = scale * np.interp(y, [950, 1100, 1200, 1380], [shape.hips, shape.girth, shape.girth, shape.shoulders])
    belly = scale * shape.belly_mm * np.exp(-(((y - 1080) / 110) ** 2)) * np.clip(z / 90, 0, 1)
    is_foot = is_leg & (y < 100)
    warped_x = np.select(
        [is_trunk, is_arm, is_leg, is_head],
        [x * width, shoulder_x + limb * (x - SHOULDER[0]), hip_x + limb * (x - HIP[0]), scale * shape.head * x],
    )
    warped_y = np.where(
        is_arm, shoulder_y + scale * (y - SHOULDER[1]) * np.where(y < SHOULDER[1], shape.arms, 1), body_y
    )
    warped_z = np.select(
        [is_trunk, is_arm, is_foot, is_leg, is_head],
        [
            scale * shape.girth * z + belly,
            scale * SHOULDER[2] + limb * (z - SHOULDER[2]),
            scale * z,
            limb * z,
            scale * shape.head * z,
        ],
    )
    return np.stack([side * warped_x, warped_y, warped_z], axis=-1)


def skin(rest: RestBody, bone_transforms: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Linear blend skinning.

    Args:
        rest: the subject.
        bone_transforms: [num_bones, 3, 4] float32, rest position -> world (or any other rigidly moved frame).

    Returns: vertices [V, 3], normals [V, 3] (about unit length), landmarks [L, 3], float32, in that frame.
    """
    template = load_template()
    weights = template.weights[:, None, None]
    first, second = bone_transforms[template.bones[:, 0]], bone_transforms[template.bones[:, 1]]
    transforms = second + weights * (first - second)
    vertices = np.einsum("vij,vj->vi", transforms[:, :, :3], rest.vertices) + transforms[:, :, 3]
    normals = np.einsum("vij,vj->vi", transforms[:, :, :3], rest.normals)
    carried = bone_transforms[rest.landmark_bones]
    landmarks = np.einsum("lij,lj->li", carried[:, :, :3], rest.landmarks) + carried[:, :, 3]
    return vertices, normals, landmarks


def lowest_point(rest: RestBody, bone_transforms: np.ndarray) -> float:
    """The y of the lowest vertex of a posed subject, mm; arguments as for `skin`."""
    template = load_template()
    transforms = bone_transforms[:, 1]
    first, second = transforms[template.bones[:, 0]], transforms[template.bones[:, 1]]
    row = second + template.weights[:, None] * (first - second)
    return float((np.einsum("vj,vj->v", row[:, :3], rest.vertices) + row[:, 3]).min())


def _vertex_normals(vertices, faces):
    """[V, 3] area-weighted mean of the normals of the faces around every vertex."""
    a, b, c = (vertices[faces[:, i]] for i in range(3))
    face_normals = np.cross(b - a, c - a)
    normals = np.stack(
        [sum(np.bincount(faces[:, i], face_normals[:, axis], len(vertices)) for i in range(3)) for axis in range(3)],
        axis=-1,
    )
    return np.float32(normals / np.maximum(np.linalg.norm(normals, axis=-1, keepdims=True), 1e-9))
