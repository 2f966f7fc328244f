"""The numbers of WACV 2023, supplement, tables S2 to S4, in `published.csv`: flat means over all poses, metric scale.

S2: training length; S3: length of the consistency fine-tuning after 400k steps; S4: Ghost BatchNorm, with and without 1000 last
steps with BatchNorm in inference mode, which the rows of S2 and S3 have.
"""

import csv
import dataclasses
import functools
import pathlib
from collections.abc import Mapping

from posepile.evaluation.parts import parts_of

PUBLISHED_FILE = pathlib.Path(__file__).with_name("published.csv")
SOURCE = "WACV 2023"
EXPLANATION = ("Published: flat means over all poses, metric scale; 3DPW: all 60 sequences; MuPoTS-3D: matched people, at "
               "a recall of 94.6 %. S2: length of the training, S3: of the fine-tuning for consistency, S4: Ghost BatchNorm.")
METRICS = ("mpjpe", "pa_mpjpe", "pck100", "cps200")
_BENCHMARKS = {"h36m": "Human3.6M", "mpi_inf_3dhp": "MPI-INF-3DHP", "3dpw": "3DPW", "mupots": "MuPoTS-3D"}


@dataclasses.dataclass(frozen=True)
class PublishedRow:
    """One model on one benchmark.

    Attributes:
        table: S2, S3 or S4.
        setting: what the table varies, such as "400k steps".
        phase: initial (separate skeletons) or finetuned (consistency regularisation).
        metrics: `mpjpe`, `pa_mpjpe` in mm, `pck100`, `cps200` in percent, rounded to 0.1.
    """

    table: str
    setting: str
    phase: str
    metrics: dict[str, float]

    @property
    def label(self) -> str:
        return f"{self.table}: {self.setting}, {self.phase}"


@functools.cache
def published_rows(protocol: str) -> tuple[PublishedRow, ...]:
    """The rows of a protocol's benchmark, in the order of the tables; none for other protocols."""
    with open(PUBLISHED_FILE, newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["benchmark"] == _BENCHMARKS.get(protocol)]
    return tuple(PublishedRow(row["table"], _setting(row), row["phase"].partition("_")[0],
                              {name: float(row[name.upper()]) for name in METRICS}) for row in rows)


def with_published(record: Mapping) -> dict:
    """A record, see `parts.parts_of`, with `published`: the rows of its benchmark, if there are any."""
    rows = published_rows(parts_of(record)[0].stamp.get("protocol", ""))
    return {**record, **({"published": [dataclasses.asdict(row) for row in rows]} if rows else {})}


def _setting(row):
    if row["table"] == "S2":
        return f"{row['row']} steps"
    if row["table"] == "S3":
        return f"400k + {row['row']} steps"
    return f"{row['row']}, {row['phase'].partition('_')[2].split('_')[0]} inference-mode BN steps"
