import configparser
import pathlib

import pytest

from posepile.evaluation import published
from posepile.evaluation.published import published_rows, with_published

BENCHMARKS = ("h36m", "mpi_inf_3dhp", "3dpw", "mupots")


@pytest.mark.parametrize("protocol", BENCHMARKS)
def test_every_table_has_its_rows(protocol):
    rows = published_rows(protocol)
    assert [sum(row.table == table for row in rows) for table in ("S2", "S3", "S4")] == [10, 3, 12]
    assert len({row.label for row in rows}) == 25
    assert {row.phase for row in rows} == {"initial", "finetuned"}


def test_numbers_as_printed():
    by_label = {protocol: {row.label: tuple(row.metrics[name] for name in ("mpjpe", "pa_mpjpe", "pck100", "cps200"))
                           for row in published_rows(protocol)} for protocol in BENCHMARKS}
    assert by_label["h36m"]["S2: 400k steps, finetuned"] == (45.2, 33.3, 94.4, 90.1)
    assert by_label["3dpw"]["S2: 1.6M steps, initial"] == (61.5, 41.9, 84.4, 74.2)
    assert by_label["mupots"]["S3: 400k + 80k steps, finetuned"] == (81.6, 57.8, 72.4, 73.2)
    without = "S4: Ghost BN (3D/2D), without inference-mode BN steps, finetuned"
    assert by_label["mpi_inf_3dhp"][without] == (73.4, 52.9, 76.4, 70.9)


def test_default_setting_is_the_same_in_all_tables():
    for protocol in BENCHMARKS:
        rows = {row.label: row.metrics for row in published_rows(protocol)}
        assert (rows["S2: 400k steps, finetuned"] == rows["S3: 400k + 40k steps, finetuned"]
                == rows["S4: Ghost BN 16, with inference-mode BN steps, finetuned"])


def test_other_protocols_have_none():
    assert published_rows("flat") == published_rows("") == ()
    record = {"metrics": {}, "intervals": {}, "stamp": {"protocol": "flat", "confidence": 0.9, "num_poses": 1}}
    assert with_published(record) == record
    record["stamp"]["protocol"] = "h36m"
    assert with_published(record)["published"][0]["metrics"]["mpjpe"] == 47.7


def test_an_installed_package_has_the_file():
    repository = pathlib.Path(__file__).resolve().parents[3]
    config = configparser.ConfigParser()
    config.read(repository / "setup.cfg")
    pattern = config["options.package_data"]["posepile.evaluation"]
    assert published.PUBLISHED_FILE in (repository / "posepile" / "evaluation").glob(pattern)
