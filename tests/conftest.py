"""What all tests share."""

import os
import pathlib

import pytest

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # before anything imports tensorflow

REPOSITORY = pathlib.Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def real_samples() -> pathlib.Path:
    """Folder with a few real images and labels of public data sets, whose licences keep them out of the repository."""
    default = REPOSITORY.parent / "shared" / "real_samples"
    folder = pathlib.Path(os.environ.get("POSEPILE_REAL_SAMPLES", default))
    if not folder.is_dir():
        pytest.skip(f"no real samples in {folder}; POSEPILE_REAL_SAMPLES names their folder")
    return folder
