"""What all tests share."""

import os
import pathlib
import subprocess

import pytest

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # before anything imports tensorflow

from tests import end_to_end
from tests.clean_environment import CleanEnvironment, make_clean_environment

REPOSITORY = pathlib.Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def real_samples() -> pathlib.Path:
    """Folder with a few real images and labels of public data sets, whose licences keep them out of the repository."""
    default = REPOSITORY.parent / "shared" / "real_samples"
    folder = pathlib.Path(os.environ.get("POSEPILE_REAL_SAMPLES", default))
    if not folder.is_dir():
        pytest.skip(f"no real samples in {folder}; POSEPILE_REAL_SAMPLES names their folder")
    return folder


@pytest.fixture(scope="session")
def tiny_data_root(tmp_path_factory) -> pathlib.Path:
    """Data root with a few examples of every embedded data set; not to be written to."""
    data_root = tmp_path_factory.mktemp("tiny") / "data"
    end_to_end.prepare_tiny_data(data_root)
    return data_root


@pytest.fixture(scope="session")
def tiny_set(tmp_path_factory) -> pathlib.Path:
    """A dataset set file for a training of seconds on `tiny_data_root`."""
    path = tmp_path_factory.mktemp("set") / "tiny.toml"
    path.write_text(end_to_end.TINY_SET)
    return path


@pytest.fixture(scope="session")
def finished_run(tmp_path_factory, tiny_data_root, tiny_set) -> tuple[pathlib.Path, subprocess.CompletedProcess]:
    """A whole job of train.py, undisturbed: the run's folder, not to be written to, and what the program printed."""
    folder = tmp_path_factory.mktemp("finished")
    result = end_to_end.run_program("train.py", f"--dataset-set={tiny_set}", f"--data-root={tiny_data_root}", cwd=folder)
    assert result.returncode == 0, result.stderr
    return folder / "runs" / "tiny", result


@pytest.fixture(scope="session")
def without_tensorflow(tmp_path_factory) -> CleanEnvironment:
    """An environment in which tensorflow is not installed, but JAX is."""
    try:
        return make_clean_environment(tmp_path_factory.mktemp("without_tensorflow"))
    except ConnectionError as error:
        pytest.skip(str(error))
