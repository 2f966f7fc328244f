import keras
import pytest

from benchmarks import max_norm_stress
from posepile.models.constraints import MAX_KERNEL_NORM


@pytest.fixture(autouse=True)
def _policy():
    policy = keras.config.dtype_policy()
    yield
    keras.config.set_dtype_policy(policy)


def test_bounded_kernels_keep_float16_going():
    """Norms are of every step; at this learning rate nearly all steps overflow without the bound, and few with it."""
    bounded, unbounded = (max_norm_stress.train(100, is_bounded) for is_bounded in (True, False))

    assert MAX_KERNEL_NORM * 0.9 < bounded["max_kernel_norm"] <= MAX_KERNEL_NORM * (1 + 1e-6)
    assert unbounded["max_kernel_norm"] > 2 * MAX_KERNEL_NORM
    assert bounded["skipped_share"] < 0.2 < 0.8 < unbounded["skipped_share"]
    assert bounded["max_activation"] < 65504 / 10
    assert bounded["final_loss"] < 10
