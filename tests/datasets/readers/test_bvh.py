"""Forward kinematics of BVH files against poses worked out by hand and rotations of scipy."""

import random

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from datasets.readers.bvh import read_bvh

# An arm along x: shoulder at the root, elbow 10 from it, hand 5 further. All angles in degrees.
ARM = """HIERARCHY
ROOT Shoulder
{
\tOFFSET 1.0 2.0 3.0
\tCHANNELS 6 Xposition Yposition Zposition Zrotation Xrotation Yrotation
\tJOINT Elbow
\t{
\t\tOFFSET 10 0 0
\t\tCHANNELS 3 Zrotation Xrotation Yrotation
\t\tEnd Site
\t\t{
\t\t\tOFFSET 5 0 0
\t\t}
\t}
\tJOINT Spine
\t{
\t\tOFFSET 0 -4 0
\t\tCHANNELS 1 Yposition
\t}
}
MOTION
Frames: 4
Frame Time: 0.02
0 0 0 0 0 0  0 0 0  -4
100 0 0 90 0 0  0 0 0  -4
0 0 0 90 0 0  90 0 0  -4
0 0 0 90 90 0  0 0 90  -6
"""


def test_poses_worked_out_by_hand(tmp_path):
    path = tmp_path / "arm.bvh"
    path.write_text(ARM)
    motion = read_bvh(path)
    assert motion.joint_names == ("Shoulder", "Elbow", "Elbow_end", "Spine") and motion.frame_time == 0.02
    np.testing.assert_allclose(motion.positions, [
        [[0, 0, 0], [10, 0, 0], [15, 0, 0], [0, -4, 0]],  # the position channels take the place of the root's offset
        [[100, 0, 0], [100, 10, 0], [100, 15, 0], [104, 0, 0]],  # 90 degrees about z: x becomes y, and y becomes -x
        [[0, 0, 0], [0, 10, 0], [-5, 10, 0], [6 - 2, 0, 0]],  # the elbow turns on: its bone points to -x
        # The root turns by Rz Rx, which takes x to y, y to z and z to x; the elbow by Ry, which takes its bone to -z.
        [[0, 0, 0], [0, 10, 0], [-5, 10, 0], [0, 0, -6]],
    ], atol=1e-12)
    path.write_text(ARM.replace("\n", "\r\n"))
    np.testing.assert_array_equal(read_bvh(path).positions, motion.positions)


@pytest.mark.parametrize("order", ["XYZ", "XZY", "YXZ", "YZX", "ZXY", "ZYX"])
def test_rotations_in_any_order(tmp_path, order):
    generator = np.random.default_rng(0)
    angles, offset = generator.uniform(-180, 180, (5, 3)), generator.normal(size=3)
    lines = "\n".join(" ".join(map(str, row)) for row in angles)
    (tmp_path / "a.bvh").write_text(
        f"HIERARCHY ROOT a {{ OFFSET 0 0 0 CHANNELS 3 {' '.join(axis + 'rotation' for axis in order)} JOINT b {{ "
        f"OFFSET {offset[0]} {offset[1]} {offset[2]} CHANNELS 0 }} }}\nMOTION\nFrames: 5\nFrame Time: 0.01\n{lines}\n")
    expected = Rotation.from_euler(order, angles, degrees=True).apply(offset)  # upper case: about axes that turn along
    np.testing.assert_allclose(read_bvh(tmp_path / "a.bvh").positions[:, 1], expected, atol=1e-12)


def test_real_motion(real_samples):
    motion = read_bvh(real_samples / "cmu_mocap" / "subjects" / "01" / "01_01_first401.bvh")
    assert motion.positions.shape == (401, 38, 3) and motion.frame_time == pytest.approx(1 / 120, abs=1e-5)
    joint = motion.joint_names.index
    bones = motion.positions[:, joint("LeftUpLeg")] - motion.positions[:, joint("LeftLeg")]
    np.testing.assert_allclose(np.linalg.norm(bones, axis=-1), np.linalg.norm(bones[0]), rtol=1e-6)
    assert (motion.positions[:, joint("Head"), 1] > motion.positions[:, joint("LeftFoot"), 1]).all()  # y is up


@pytest.mark.parametrize(("old", "new", "reason"), [
    ("HIERARCHY", "HIERARKY", "does not begin with HIERARCHY"), ("MOTION", "", "no line MOTION"),
    ("Frames: 4", "Frames: 5", "states 5 frames of 10 channels"), ("Frames: 4", "Frames: 400000000000000", "states 4000000"),
    ("Frame Time: 0.02", "Frame Time: 0", "0.0 s apart"), ("Frames:", "Fr:", "expected the lines Frames"),
    ("Zrotation Xrotation", "Zrotation Zrotation", "channels"), ("Yposition\n\t}", "Wposition\n\t}", "channels"),
    ("CHANNELS 3", "CHANNELS 999999999999", "channels"), ("OFFSET 10", "OFFSET ten", "could not convert"),
    ("0 0 0 90 90", "0 0 0 nan 90", "frame 3 has a number that is not finite"),
    ("\tJOINT Elbow\n\t{", "\tJOINT Elbow\n", "brace"),
    ("\t}\n}\n", "\t}\n", "not closed"), ("\tJOINT Elbow", "\tROOT Elbow", "ROOT Elbow stands inside"),
    ("-6", "x", "could not convert"), ("ROOT Shoulder", "JOINT Shoulder", "stands outside")])
def test_broken_files_are_explained(tmp_path, old, new, reason):
    assert old in ARM
    (tmp_path / "arm.bvh").write_text(ARM.replace(old, new))
    with pytest.raises(ValueError, match=rf"arm\.bvh cannot be read as a BVH file: .*{reason}"):
        read_bvh(tmp_path / "arm.bvh")


def test_deep_and_mutated_hierarchies(tmp_path):
    path = tmp_path / "deep.bvh"
    path.write_text("HIERARCHY ROOT a { OFFSET 0 0 0 " + "JOINT b { OFFSET 1 0 0 " * 2000 + "}" * 2001
                    + "\nMOTION\nFrames: 1\nFrame Time: 1\n\n")
    with pytest.raises(ValueError, match=r"deep\.bvh"):
        read_bvh(path)  # no channel at all: it has no frames that could be counted
    generator = random.Random(0)
    for _ in range(100):
        changed = bytearray(ARM.encode())
        changed[generator.randrange(len(changed))] = generator.randrange(256)
        path.write_bytes(bytes(changed[:generator.randrange(2 * len(changed))]))
        try:
            read_bvh(path)
        except ValueError as error:
            assert "deep.bvh" in str(error)
