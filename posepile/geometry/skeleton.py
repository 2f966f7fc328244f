"""Joint formats: which joints a data set labels, how they are joined and mirrored, and how formats merge.

The formats themselves are data, in `skeletons.toml` beside this module. A `Skeleton` is one of them, one that a user
defines, or several merged into the joint list that the network predicts.
"""

import dataclasses
import functools
import itertools
import pathlib
import tomllib
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

SKELETONS_FILE = pathlib.Path(__file__).with_name("skeletons.toml")


@dataclasses.dataclass(frozen=True)
class Skeleton:
    """One joint format.

    Attributes:
        name: its name, the table's name in `skeletons.toml`.
        family: formats of one family label the same landmarks, see `merge_skeletons`.
        joint_names: in array order; full words, unique.
        mirror: for every joint the index of its mirror image (its own index on the body's centre line).
        edges: bones as pairs of joint indices.
        root: index of the joint that root-relative metrics subtract; None where the format has no such joint.
        formats: the skeletons that were merged into this one; empty for a plain format.
        left: of every mirror pair the joint listed first, the left one by convention; default: the lower index.
    """

    name: str
    family: str
    joint_names: tuple[str, ...]
    mirror: tuple[int, ...]
    edges: tuple[tuple[int, int], ...]
    root: int | None = None
    formats: tuple["Skeleton", ...] = ()
    left: tuple[int, ...] = ()

    def __post_init__(self):
        if not self.left:
            object.__setattr__(self, "left", tuple(i for i, j in enumerate(self.mirror) if i < j))

    @property
    def num_joints(self) -> int:
        return len(self.joint_names)

    def index(self, joint_name: str) -> int:
        """The index of a joint. Raises: ValueError naming the joints there are."""
        try:
            return self.joint_names.index(joint_name)
        except ValueError:
            raise ValueError(f"skeleton {self.name} has no joint {joint_name!r}; "
                             f"it has: {', '.join(self.joint_names)}") from None

    def to_dict(self) -> dict:
        """What `skeleton_from_dict` reads, as plain JSON or TOML types."""
        if self.formats:
            return {"name": self.name, "merge": [s.to_dict() for s in self.formats]}
        pairs = [[self.joint_names[i], self.joint_names[self.mirror[i]]] for i in self.left]
        edges = [f"{self.joint_names[i]}-{self.joint_names[j]}" for i, j in self.edges]
        result = {"name": self.name, "family": self.family, "joints": list(self.joint_names),
                  "mirror_pairs": pairs, "edges": edges}
        return result if self.root is None else {**result, "root": self.joint_names[self.root]}


def list_skeletons() -> list[str]:
    """Names of the formats in `skeletons.toml`."""
    return list(_read_skeletons())


def load_skeleton(name: str) -> Skeleton:
    """A format of `skeletons.toml`. Raises: ValueError listing the valid names."""
    tables = _read_skeletons()
    if name not in tables:
        raise ValueError(f"unknown skeleton {name!r}; known ones: {', '.join(tables)}. A format of "
                         "your own can be defined inline where a skeleton is asked for.")
    return skeleton_from_dict({"name": name, **tables[name]})


def skeleton_from_dict(definition: str | Mapping) -> Skeleton:
    """Reads a definition as in `skeletons.toml`, with its `name`; checks every joint it mentions.

    Args:
        definition: the name of a known format, or a table with `name`, `joints`, `mirror_pairs`, `edges` and
            optionally `root` and `family` (default: the name), or a table with `merge`: several definitions, see
            `merge_skeletons`.

    Raises: ValueError saying which entry is wrong and why.
    """
    if isinstance(definition, str):
        return load_skeleton(definition)
    if not isinstance(definition, Mapping):
        raise ValueError(f"a skeleton is the name of a known format or a table that defines one, not {definition!r}")
    if "merge" in definition:
        if unknown := set(definition) - {"name", "merge"}:
            raise ValueError(f"a merged skeleton takes name and merge only, not {', '.join(sorted(unknown))}")
        if not isinstance(definition["merge"], (list, tuple)):
            raise ValueError(f"merge must be a list of skeletons, not {definition['merge']!r}")
        return merge_skeletons([skeleton_from_dict(d) for d in definition["merge"]])
    name = definition.get("name")
    if not isinstance(name, str) or not name:
        raise ValueError("a skeleton needs a name (a non-empty string)")
    known_keys = {"name", "family", "joints", "mirror_pairs", "edges", "root"}
    if unknown := set(definition) - known_keys:
        raise ValueError(f"skeleton {name}: unknown entries {sorted(unknown)}; "
                         f"valid ones: {sorted(known_keys)}")
    for key in ("joints", "mirror_pairs", "edges"):
        if not isinstance(definition.get(key, ()), (list, tuple)):
            raise ValueError(f"skeleton {name}: {key} must be a list, not {definition[key]!r}")
    family = definition.get("family", name)
    if not isinstance(family, str) or not family:
        raise ValueError(f"skeleton {name}: family must be a non-empty string, not {family!r}")
    joint_names = tuple(definition.get("joints", ()))
    if not joint_names or not all(isinstance(j, str) and j for j in joint_names):
        raise ValueError(f"skeleton {name}: joints must be a non-empty list of joint names")
    if hyphened := [joint for joint in joint_names if "-" in joint]:
        raise ValueError(f"skeleton {name}: a hyphen joins the joints of a bone, so a joint cannot be called "
                         f"{hyphened[0]!r}; use an underscore")
    if len(set(joint_names)) < len(joint_names):
        twice = sorted({j for j in joint_names if joint_names.count(j) > 1})
        raise ValueError(f"skeleton {name}: joints listed more than once: {', '.join(twice)}")
    index = {joint: i for i, joint in enumerate(joint_names)}

    def index_of(joint, where):
        if not isinstance(joint, str) or joint not in index:
            raise ValueError(f"skeleton {name}: {where} mentions {joint!r}, which is not one of "
                             f"its joints: {', '.join(joint_names)}")
        return index[joint]

    mirror = list(range(len(joint_names)))
    left_joints = []
    for pair in definition.get("mirror_pairs", ()):
        if not isinstance(pair, (list, tuple)) or len(pair) != 2 or pair[0] == pair[1]:
            raise ValueError(f"skeleton {name}: mirror pair {pair!r} must be two different joints")
        left, right = (index_of(joint, "mirror_pairs") for joint in pair)
        if mirror[left] != left or mirror[right] != right:
            raise ValueError(f"skeleton {name}: a joint of {pair!r} is in another mirror pair, too")
        mirror[left], mirror[right] = right, left
        left_joints.append(left)
    edges = []
    for chain in definition.get("edges", ()):
        if not isinstance(chain, str) or "-" not in chain:
            raise ValueError(f"skeleton {name}: edge {chain!r} must be two or more joints joined by hyphens")
        indices = [index_of(joint, "edges") for joint in chain.split("-")]
        for edge in itertools.pairwise(indices):
            if edge[0] == edge[1]:
                raise ValueError(f"skeleton {name}: edge {chain!r} joins a joint to itself")
            for i, j in (edge, (mirror[edge[0]], mirror[edge[1]])):
                if (i, j) not in edges and (j, i) not in edges:
                    edges.append((i, j))
    root = definition.get("root")
    return Skeleton(name=name, family=family, joint_names=joint_names,
                    mirror=tuple(mirror), edges=tuple(edges),
                    root=None if root is None else index_of(root, "root"), left=tuple(left_joints))


def merge_skeletons(skeletons: Sequence[Skeleton]) -> Skeleton:
    """Merges formats into the one joint list that a network predicts.

    A joint is called `NAME_FAMILY` there. Formats of one family share the joints of equal name; everything else stays
    apart ("separate skeletons", WACV 2023), since the same word means another point on the body in another data set.

    Raises: ValueError for an empty list, for different formats of one name, or for formats of one family that disagree
        about the mirror image of a joint.
    """
    formats = tuple(f for s in skeletons for f in (s.formats or (s,)))
    if not formats:
        raise ValueError("merge_skeletons needs one skeleton or more")
    by_name: dict[str, Skeleton] = {}
    for fmt in formats:
        first = by_name.setdefault(fmt.name, fmt)
        if (first.family, first.joint_names, first.mirror) != (fmt.family, fmt.joint_names, fmt.mirror):
            raise ValueError(f"two different skeletons are called {fmt.name}; rename one of them. Their joints: "
                             f"{', '.join(first.joint_names)}; and {', '.join(fmt.joint_names)}")
    formats = tuple(by_name.values())
    joint_names: dict[str, int] = {}
    for fmt in formats:
        for name in merged_joint_names(fmt):
            joint_names.setdefault(name, len(joint_names))
    mirror = [0] * len(joint_names)
    edges: dict[tuple[int, int], None] = {}
    left: dict[int, None] = {}
    for fmt in formats:
        merged = [joint_names[name] for name in merged_joint_names(fmt)]
        for i, j in enumerate(fmt.mirror):
            mirror[merged[i]] = merged[j]
        for i in fmt.left:
            if mirror[merged[i]] not in left:
                left.setdefault(merged[i])
        for i, j in fmt.edges:
            if (merged[j], merged[i]) not in edges:
                edges.setdefault((merged[i], merged[j]))
    if wrong := [name for name, i in joint_names.items() if mirror[mirror[i]] != i]:
        raise ValueError(f"formats of one family, of {', '.join(by_name)}, disagree about the mirror image of "
                         f"{', '.join(wrong)}")
    return Skeleton(name="+".join(f.name for f in formats), family="merged",
                    joint_names=tuple(joint_names), mirror=tuple(mirror), edges=tuple(edges),
                    formats=formats, left=tuple(left))


def joint_indices(merged: Skeleton, skeleton: Skeleton) -> np.ndarray:
    """Where the joints of one format stand in a merged joint list.

    Returns: [skeleton.num_joints] int64.
    Raises: ValueError if the merged list lacks one of them.
    """
    names = skeleton.joint_names if skeleton.formats else merged_joint_names(skeleton)
    return np.array([merged.index(name) for name in names], np.int64)


def merged_joint_names(skeleton: Skeleton) -> list[str]:
    """What the joints of a plain format are called in a merged joint list."""
    return [f"{joint}_{skeleton.family}" for joint in skeleton.joint_names]


def averaging_matrix(merged: Skeleton, joint_names: Iterable[str]) -> np.ndarray:
    """The average-over-formats rule for 2D labels (WACV 2023, supplement S2).

    The prediction for a 2D-labelled joint such as left_shoulder is the mean of all formats' joints of that name.

    Returns: [len(joint_names), merged.num_joints] float32. A row sums to 1, or is all zero where no merged format has a
        joint of that name: such a joint gives no supervision.
    """
    plain_names = plain_joint_names(merged)
    matrix = np.array([[name == joint for name in plain_names] for joint in joint_names], np.float32)
    matrix = matrix.reshape(-1, len(plain_names))  # without any joint, too
    return matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)


def plain_joint_names(merged: Skeleton) -> list[str]:
    """The joint names of a merged skeleton without their family: several joints may share one."""
    names: dict[str, str] = {}
    for fmt in merged.formats:
        names.update(zip(merged_joint_names(fmt), fmt.joint_names, strict=True))
    return [names[joint] for joint in merged.joint_names] if names else list(merged.joint_names)


@functools.cache
def _read_skeletons() -> dict:
    return tomllib.loads(SKELETONS_FILE.read_text())
