"""Tiny data sets for tests of `prepare`; in a module of their own, so that worker processes can import them.

The raw folder holds one JSON file per split: a list of units, each {"name": ..., "examples": ..., and optionally
"bad": {index of an example: what is wrong with it}}. Files in the raw folder steer: `slow` makes every example take 50
ms, `interrupt` holds the name of a unit that raises KeyboardInterrupt.
"""

import json
import pathlib
import time

import numpy as np

from datasets.raw_example import Adapter, RawExample
from posepile.data.records import Example
from posepile.geometry.camera import Camera

SKELETON = {"name": "tiny_5", "joints": ["pelvis", "head", "left_hand", "right_hand", "foot"], "root": "pelvis",
            "mirror_pairs": [["left_hand", "right_hand"]], "edges": ["head-pelvis-foot", "head-left_hand"]}
CAMERA = Camera(np.array([[200.0, 0, 79.5], [0, 200.0, 59.5], [0, 0, 1]]))


def write_raw(folder: pathlib.Path, **splits) -> pathlib.Path:
    """Writes a raw folder; per split a list of examples per unit, or of unit tables."""
    folder.mkdir(parents=True, exist_ok=True)
    for split, units in splits.items():
        tables = [unit if isinstance(unit, dict) else {"name": f"{split}{i}", "examples": unit}
                  for i, unit in enumerate(units)]
        (folder / f"{split}.json").write_text(json.dumps(tables))
    return folder


def list_units(raw_dir, split):
    path = raw_dir / f"{split}.json"
    return json.loads(path.read_text()) if path.exists() else []


def example_pose(name: str, index: int) -> np.ndarray:
    """[5, 3] mm, camera frame; the pose of one example."""
    rng = np.random.default_rng([index, *name.encode()])
    pose = np.array([[0, 0, 3000], [0, -600, 3000], [400, -300, 3000], [-400, -300, 2900], [0, 800, 3000.0]])
    pose = pose + rng.normal(0, 30, (5, 3))
    if index % 3 == 2:
        pose[2] = np.nan
    return pose


def load_unit(raw_dir, unit):
    interrupt = raw_dir / "interrupt"
    for index in range(unit["examples"]):
        if interrupt.exists() and interrupt.read_text() == unit["name"] and index == 1:
            raise KeyboardInterrupt
        if (raw_dir / "slow").exists():
            time.sleep(0.05)
        bad = unit.get("bad", {}).get(str(index))
        if bad == "annotation":
            yield ValueError("annotations.json: joints are wrong")
            continue
        if bad == "crash":
            raise KeyError("keypoints")
        rng = np.random.default_rng([index, *unit["name"].encode()])
        image = rng.integers(0, 255, (12, 16, 3), np.uint8).repeat(10, axis=0).repeat(10, axis=1)
        pose = example_pose(unit["name"], index) / (1000 if bad == "metres" else 1)
        bbox = np.array([50.0, 20, 60, 0 if bad == "box" else 90])
        yield RawExample(image if bad != "missing" else raw_dir / "gone.jpg", bbox, CAMERA, pose,
                         provenance={"source": f"{unit['name']}.jpg", "frame": index})


def load_finished_unit(raw_dir, unit):
    """Yields finished examples, as a renderer does."""
    for index in range(unit["examples"]):
        yield Example(b"\xff\xd8" + bytes([index]), np.eye(3), np.eye(4), np.array([1, 2, 3, 4]),
                      joints2d=np.full((5, 2), float(index)), provenance={"frame": index})


def skeleton(raw_dir):
    return SKELETON


ADAPTER = Adapter("tiny", "3d", skeleton, list_units, load_unit)
FINISHED_ADAPTER = Adapter("tiny_2d", "2d", skeleton, list_units, load_finished_unit)
