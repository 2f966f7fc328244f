"""An environment in which tensorflow is not installed, for programs that are to run without."""

import configparser
import dataclasses
import importlib.metadata
import os
import pathlib
import subprocess
import sys
import venv
from collections.abc import Iterable

from packaging.requirements import Requirement

REPOSITORY = pathlib.Path(__file__).resolve().parents[1]
INSTALL_SECONDS, RUN_SECONDS = 200, 240
# Nearly all the time of so short a training goes into compiling, a third of it with these.
_FAST_COMPILATION = "--xla_backend_optimization_level=0 --xla_cpu_use_fusion_emitters=false"


@dataclasses.dataclass(frozen=True)
class CleanEnvironment:
    """A virtual environment.

    Attributes:
        python: its interpreter.
    """

    python: pathlib.Path

    def start(self, *arguments: str, backend: str = "jax", cwd: pathlib.Path = REPOSITORY,
              **variables: str) -> subprocess.Popen:
        """Starts `python ARGUMENTS` with a Keras backend on the CPU and further environment variables."""
        return subprocess.Popen(
            [self.python, *arguments], cwd=cwd, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            env={**os.environ, "KERAS_BACKEND": backend, "JAX_PLATFORMS": "cpu", "XLA_FLAGS": _FAST_COMPILATION, **variables})

    def run(self, *arguments: str, **options) -> str:
        """`start`, and `output_of` it."""
        return output_of(self.start(*arguments, **options))


def output_of(process: subprocess.Popen) -> str:
    """What it prints until it ends. Raises: AssertionError with its errors if it fails."""
    try:
        stdout, stderr = process.communicate(timeout=RUN_SECONDS)
    finally:
        process.kill()
    assert process.returncode == 0, stderr[-4000:]
    return stdout


def make_clean_environment(folder: pathlib.Path) -> CleanEnvironment:
    """Makes an environment with all that the project requires but tensorflow, with JAX, and with PyTorch if that is here.

    What is installed here already is linked, which saves half a minute, and pip installs the rest.

    Raises: ConnectionError if pip cannot.
    """
    requirements = required_packages()
    venv.create(folder)
    environment = CleanEnvironment(folder / "bin" / "python")
    links = folder / "linked"
    links.mkdir()
    for path in _installed_files(requirements):
        (links / path.name).symlink_to(path)
    (site_packages,) = folder.glob("lib/python*/site-packages")
    (site_packages / "linked.pth").write_text(f"{links}\n")
    try:
        subprocess.run([sys.executable, "-m", "pip", f"--python={environment.python}", "install", "--quiet", "--no-compile",
                        "--disable-pip-version-check", "--retries=0", "--timeout=15", *requirements],
                       check=True, capture_output=True, text=True, timeout=INSTALL_SECONDS)
    except (subprocess.CalledProcessError, subprocess.TimeoutExpired) as error:
        raise ConnectionError(f"pip cannot install {', '.join(requirements)}: {error.stderr or error}") from error
    return environment


def required_packages() -> list[str]:
    """As setup.cfg has them: the requirements but tensorflow, and those of the [jax] extra; PyTorch if it is here."""
    options = configparser.ConfigParser()
    options.read(REPOSITORY / "setup.cfg")
    required = [*options["options"]["install_requires"].split("\n"), *options["options.extras_require"]["jax"].split("\n")]
    return [r for r in required if r and Requirement(r).name != "tensorflow"] + ["torch"] * _is_installed("torch")


def _is_installed(name: str) -> bool:
    return any(importlib.metadata.distributions(name=name))


def _installed_files(requirements: Iterable[str]) -> set[pathlib.Path]:
    """The top-level files and folders of the packages that are asked for and are here, and of those that they ask for."""
    files, seen, waiting = set(), set(), list(map(Requirement, requirements))
    while waiting:
        requirement = waiting.pop()
        is_wanted = not requirement.marker or requirement.marker.evaluate({"extra": ""})
        if not is_wanted or requirement.name in seen or not _is_installed(requirement.name):
            continue
        seen.add(requirement.name)
        distribution = importlib.metadata.distribution(requirement.name)
        files |= {pathlib.Path(distribution.locate_file(file.parts[0])) for file in distribution.files
                  if file.parts[0] not in ("..", "__pycache__")}
        waiting += map(Requirement, distribution.requires or ())
    return files
