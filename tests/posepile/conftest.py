"""A small network and small data sets, made once for all tests; a test that changes them makes its own."""

import pytest

from posepile.data.batches import BatchPlan
from posepile.models.pose_model import PoseModel
from tests.posepile import small_model


@pytest.fixture(scope="session")
def pose_model() -> PoseModel:
    """Untrained; not to be changed."""
    return small_model.make_model()


@pytest.fixture(scope="session")
def batch_plan(tmp_path_factory) -> BatchPlan:
    return small_model.make_plan(tmp_path_factory.mktemp("prepared"))
