"""Joint formats: which joints a data set labels, how they are joined and mirrored, and how formats merge.

The formats themselves are data, in `skeletons.toml` beside this module. A `Skeleton` is one of them, one that a user
defines, or several merged into the joint list that the network predicts.
"""

import dataclasses
import functools
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
    """

    name: str
    family: str
    joint_names: tuple[str, ...]
    mirror: tuple[int, ...]
    edges: tuple[tuple[int, int], ...]
    root: int | None = None
    formats: tuple["Skeleton", ...] = ()

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
        pairs = [[self.joint_names[i], self.joint_names[j]]
                 for i, j in enumerate(self.mirror) if i < j]
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
        definition: the name of a known format, or a table with `name`, `joints`, `mirror_pairs`, `edges` and optionally
            `root` and `family` (default: the name), or a table with `merge`: several definitions, see `merge_skeletons`.

    Raises: ValueError saying which entry is wrong and why.
    """
    if isinstance(definition, str):
        return load_skeleton(definition)
    if "merge" in definition:
        return merge_skeletons([skeleton_from_dict(d) for d in definition["merge"]])
    name = definition.get("name")
    if not isinstance(name, str) or not name:
        raise ValueError("a skeleton needs a name (a non-empty string)")
    known_keys = {"name", "family", "joints", "mirror_pairs", "edges", "root"}
    if unknown := set(definition) - known_keys:
        raise ValueError(f"skeleton {name}: unknown entries {sorted(unknown)}; "
                         f"valid ones: {sorted(known_keys)}")
    joint_names = tuple(definition.get("joints", ()))
    if not joint_names or not all(isinstance(j, str) and j for j in joint_names):
        raise ValueError(f"skeleton {name}: joints must be a non-empty list of joint names")
    if len(set(joint_names)) < len(joint_names):
        twice = sorted({j for j in joint_names if joint_names.count(j) > 1})
        raise ValueError(f"skeleton {name}: joints listed more than once: {', '.join(twice)}")
    index = {joint: i for i, joint in enumerate(joint_names)}

    def index_of(joint, where):
        if joint not in index:
            raise ValueError(f"skeleton {name}: {where} mentions {joint!r}, which is not one of "
                             f"its joints: {', '.join(joint_names)}")
        return index[joint]

    mirror = list(range(len(joint_names)))
    for pair in definition.get("mirror_pairs", ()):
        if len(pair) != 2 or pair[0] == pair[1]:
            raise ValueError(f"skeleton {name}: mirror pair {pair!r} must be two different joints")
        left, right = (index_of(joint, "mirror_pairs") for joint in pair)
        if mirror[left] != left or mirror[right] != right:
            raise ValueError(f"skeleton {name}: a joint of {pair!r} is in another mirror pair, too")
        mirror[left], mirror[right] = right, left
    edges = []
    for chain in definition.get("edges", ()):
        indices = [index_of(joint, "edges") for joint in chain.split("-")]
        for edge in zip(indices[:-1], indices[1:], strict=True):
            for i, j in (edge, (mirror[edge[0]], mirror[edge[1]])):
                if (i, j) not in edges and (j, i) not in edges:
                    edges.append((i, j))
    root = definition.get("root")
    return Skeleton(name=name, family=definition.get("family", name), joint_names=joint_names,
                    mirror=tuple(mirror), edges=tuple(edges),
                    root=None if root is None else index_of(root, "root"))


def merge_skeletons(skeletons: Sequence[Skeleton]) -> Skeleton:
    """Merges formats into the one joint list that a network predicts.

    A joint is called `NAME_FAMILY` there. Formats of one family share the joints of equal name; everything else stays apart
    ("separate skeletons", WACV 2023), since the same word means another point on the body in another data set.

    Raises: ValueError for an empty list.
    """
    formats = tuple(f for s in skeletons for f in (s.formats or (s,)))
    if not formats:
        raise ValueError("merge_skeletons needs one skeleton or more")
    formats = tuple({f.name: f for f in formats}.values())
    joint_names: dict[str, int] = {}
    for fmt in formats:
        for name in merged_joint_names(fmt):
            joint_names.setdefault(name, len(joint_names))
    mirror = [0] * len(joint_names)
    edges: dict[tuple[int, int], None] = {}
    for fmt in formats:
        merged = [joint_names[name] for name in merged_joint_names(fmt)]
        for i, j in enumerate(fmt.mirror):
            mirror[merged[i]] = merged[j]
        for i, j in fmt.edges:
            edges.setdefault((merged[i], merged[j]))
    return Skeleton(name="+".join(f.name for f in formats), family="merged",
                    joint_names=tuple(joint_names), mirror=tuple(mirror), edges=tuple(edges),
                    formats=formats)


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
