import numpy as np
import pytest

from ace.fitting import fit_autoencoder
from benchmarks.kinematic_poses import joint_landmarks, kinematic_poses, merged_skeleton, noisy


@pytest.fixture(scope="session")
def skeleton():
    return merged_skeleton("h36m_17", "coco_19")


@pytest.fixture(scope="session")
def poses(skeleton):
    """[600, 36, 3] mm, camera space, noise-free."""
    rng = np.random.default_rng(3)
    return kinematic_poses(rng, 600, joint_landmarks(skeleton, rng, offset_mm=40))


@pytest.fixture(scope="session")
def autoencoder(skeleton, poses):
    """Fitted to noisy poses."""
    return fit_autoencoder(noisy(poses, np.random.default_rng(4), 20, 3), skeleton, progress=False)
