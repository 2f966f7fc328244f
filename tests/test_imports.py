"""The import statements of the packages point one way, and tensorflow stays where it belongs.

    train.py, evaluate.py -> datasets, ace, posepile
    datasets              -> posepile.data, .geometry, .visualization
    ace                   -> posepile.geometry
    posepile              -> neither; each of its floors only to those below it
"""

import ast
import pathlib

import pytest

REPOSITORY = pathlib.Path(__file__).resolve().parents[1]
OWN = {"posepile", "ace", "datasets", "benchmarks", "tests", "train", "evaluate"}
FLOORS = ("geometry", "data", "models", "visualization", "prediction", "training", "evaluation")  # from the ground up
ALLOWED = {
    "datasets": ("datasets", "posepile.data", "posepile.geometry", "posepile.visualization"),
    "ace": ("ace", "posepile.geometry"),
    "train": ("datasets", "ace", "posepile"),
    "evaluate": ("datasets", "ace", "posepile"),
    "posepile": (),  # posepile/__init__.py
    **{f"posepile.{floor}": tuple(f"posepile.{below}" for below in FLOORS[:i + 1]) for i, floor in enumerate(FLOORS)},
}
TENSORFLOW_IN = ("posepile.data.input_pipeline", "posepile.training")
NUMPY_ONLY = ("posepile.geometry", "posepile.evaluation.metrics")


def is_in(module, package):
    return module == package or module.startswith(package + ".")


def module_name(path, root):
    parts = path.relative_to(root).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imported_modules(path, root):
    """Yields line and full name of everything a file imports, `import_module("x")` and imports inside functions too.

    `from a import b` gives a.b, since b may be a module.
    """
    package = path.relative_to(root).parent.parts
    for node in ast.walk(ast.parse(path.read_text(), str(path))):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name
        elif isinstance(node, ast.ImportFrom):
            base = [] if node.level == 0 else list(package[:len(package) - node.level + 1])
            base += [node.module] if node.module else []
            for alias in node.names:
                yield node.lineno, ".".join([*base, alias.name])
        elif isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
            name = getattr(node.func, "attr", getattr(node.func, "id", None))
            if name in ("import_module", "__import__") and isinstance(node.args[0].value, str):
                yield node.lineno, node.args[0].value


def checked_files(root):
    programs = [root / name for name in ("train.py", "evaluate.py") if (root / name).is_file()]
    packages = [root / name for name in ("posepile", "ace", "datasets")]
    return programs + sorted(path for package in packages for path in package.rglob("*.py"))


def find_violations(root):
    """Lists `file:line: what is wrong` for the packages under a folder."""
    violations = []
    for path in checked_files(root):
        module = module_name(path, root)
        room = ".".join(module.split(".")[:2]) if is_in(module, "posepile") else module.split(".")[0]
        if room not in ALLOWED:
            violations.append(f"{path.relative_to(root)}: {room} is not a room of the design")
            continue
        for line, target in imported_modules(path, root):
            top = target.split(".")[0]
            where = f"{path.relative_to(root)}:{line}"
            if top in OWN and not any(is_in(target, package) for package in ALLOWED[room]):
                violations.append(f"{where}: {room} must not import {target}")
            if top == "tensorflow" and not any(is_in(module, place) for place in TENSORFLOW_IN):
                violations.append(f"{where}: tensorflow is for {' and '.join(TENSORFLOW_IN)}")
            if top in ("tensorflow", "keras") and any(is_in(module, place) for place in NUMPY_ONLY):
                violations.append(f"{where}: {module} is numpy only, it must not import {top}")
    return violations


def plant(root, path, source):
    (root / path).parent.mkdir(parents=True, exist_ok=True)
    (root / path).write_text(source)


def test_imports_point_one_way():
    assert REPOSITORY / "posepile" / "geometry" / "skeleton.py" in checked_files(REPOSITORY)
    assert find_violations(REPOSITORY) == []


@pytest.mark.parametrize(("path", "source", "message"), [
    ("posepile/geometry/camera.py", "from posepile.data import records", "posepile.geometry must not import"),
    ("posepile/data/records.py", "import posepile.models.heads", "posepile.data must not import posepile.models"),
    ("posepile/models/heads.py", "from posepile import training", "posepile.models must not import posepile.training"),
    ("posepile/training/phases.py", "def run():\n    import posepile.evaluation", "phases.py:2: posepile.training"),
    ("posepile/models/heads.py", "from ..training import phases", "must not import posepile.training.phases"),
    ("posepile/models/heads.py", "import ace.autoencoder", "posepile.models must not import ace.autoencoder"),
    ("posepile/training/phases.py", "from datasets import catalogue", "must not import datasets.catalogue"),
    ("posepile/__init__.py", "from posepile.prediction import predictor", "posepile must not import posepile."),
    ("posepile/utils/x.py", "", "posepile.utils is not a room of the design"),
    ("ace/fitting.py", "from posepile.models import losses", "ace must not import posepile.models.losses"),
    ("ace/fitting.py", "import datasets", "ace must not import datasets"),
    ("datasets/prepare.py", "import posepile.training.phases", "datasets must not import posepile.training.phases"),
    ("datasets/adapters/coco.py", "import ace", "datasets must not import ace"),
    ("datasets/prepare.py", "import tests.conftest", "datasets must not import tests.conftest"),
    ("posepile/training/phases.py", "import train", "posepile.training must not import train"),
    ("posepile/models/heads.py", "import tensorflow as tf", "heads.py:1: tensorflow is for"),
    ("posepile/models/heads.py", "import importlib\nimportlib.import_module('tensorflow')", "heads.py:2: tensor"),
    ("posepile/data/batches.py", "from tensorflow import data", "batches.py:1: tensorflow is for"),
    ("ace/fitting.py", "import tensorflow.math", "fitting.py:1: tensorflow is for"),
    ("train.py", "import tensorflow", "train.py:1: tensorflow is for"),
    ("posepile/evaluation/metrics.py", "import keras", "posepile.evaluation.metrics is numpy only"),
])
def test_a_planted_violation_is_found(tmp_path, path, source, message):
    plant(tmp_path, path, source)
    violations = find_violations(tmp_path)
    assert len(violations) == 1 and message in violations[0], violations


def test_what_the_design_allows_passes(tmp_path):
    plant(tmp_path, "train.py", "import ace.fitting, datasets.catalogue, posepile.training\nfrom absl import flags")
    plant(tmp_path, "posepile/evaluation/run.py", "from posepile.prediction.predictor import Predictor")
    plant(tmp_path, "posepile/evaluation/protocols/h36m.py", "from ..metrics import mpjpe\nfrom . import flat")
    plant(tmp_path, "posepile/training/phases.py", "import tensorflow as tf\nfrom posepile.models import heads")
    plant(tmp_path, "posepile/data/input_pipeline.py", "import tensorflow as tf\nimport keras")
    plant(tmp_path, "posepile/models/heads.py", "import keras\nfrom posepile.geometry.camera import Camera")
    plant(tmp_path, "ace/fitting.py", "import posepile.geometry.skeleton\nfrom ace.autoencoder import fit")
    plant(tmp_path, "datasets/prepare.py", "from posepile.data.records import Example\nimport posepile.visualization")
    assert find_violations(tmp_path) == []
