"""The data sets this project knows: what they are, how their labels look, where to get them.

The facts are data, in `catalogue.toml` beside this module.
"""

import dataclasses
import functools
import pathlib
import tomllib

from posepile.geometry.skeleton import Skeleton, skeleton_from_dict

CATALOGUE_FILE = pathlib.Path(__file__).with_name("catalogue.toml")
KINDS = ("3d", "2d")
CATEGORIES = ("markerless", "marker-based", "synthetic", "2D", "own")


@dataclasses.dataclass(frozen=True)
class DatasetInfo:
    """One data set of the catalogue.

    Attributes:
        name: how flags, folders and data set files call it.
        title: what its authors call it.
        kind: "3d" or "2d": what its labels are.
        category: one of CATEGORIES: how the labels were made.
        skeleton: its joint format, as `skeleton_from_dict` reads it; None where the user says it.
        paper: where it was published; empty for a user's own.
        year: of that paper; None for a user's own.
        licence: in short; the text that comes with the data is what counts.
        url: where to get it; empty where there is nothing to download.
        evaluation_only: True where there is no training split.
    """

    name: str
    title: str
    kind: str
    category: str
    skeleton: str | dict | None = None
    paper: str = ""
    year: int | None = None
    licence: str = ""
    url: str = ""
    evaluation_only: bool = False

    @property
    def is_rendered(self) -> bool:
        """Whether `prepare` renders it, from no raw data."""
        return self.name.startswith("synthetic_")

    def load_skeleton(self) -> Skeleton:
        """Its joint format. Raises: ValueError if the user has to say it."""
        if self.skeleton is None:
            raise ValueError(f"the joint format of {self.name} is what its own files say, known once they are prepared")
        return skeleton_from_dict(self.skeleton)


def normalize_name(name: str) -> str:
    """The name of a data set as the catalogue spells it: a hyphen is as good as an underscore."""
    return name.replace("-", "_")


@functools.cache
def load_catalogue() -> dict[str, DatasetInfo]:
    """All data sets by name, in the catalogue's order."""
    tables = tomllib.loads(CATALOGUE_FILE.read_text())
    return {name: _read_info(name, table) for name, table in tables.items()}


def dataset_info(name: str) -> DatasetInfo:
    """One data set of the catalogue. Raises: ValueError listing the names there are."""
    catalogue = load_catalogue()
    if (normalized := normalize_name(name)) not in catalogue:
        raise ValueError(f"unknown data set {name!r}; known ones: {', '.join(catalogue)}")
    return catalogue[normalized]


def _read_info(name: str, table: dict) -> DatasetInfo:
    skeleton = table.get("skeleton")
    if isinstance(skeleton, list):
        skeleton = {"name": "+".join(skeleton), "merge": skeleton}
    return DatasetInfo(name=name, **{**table, "skeleton": skeleton})
