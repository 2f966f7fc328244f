"""The folder of a run: its settings, what is done already, how long each part took."""

import contextlib
import fcntl
import importlib.metadata
import itertools
import json
import pathlib
import platform
import resource
import shutil
import sys
import time
from collections.abc import Callable, Iterator

from posepile.data.atomic_files import write_json

CONFIG_NAME, PROGRESS_NAME, LOCK_NAME = "config.json", "progress.json", ".lock"
_PACKAGES = ("tensorflow", "jax", "torch", "keras", "numpy", "scipy", "opencv-python-headless", "tfrecord-lite", "absl-py")
UNFINISHED = ".*.part*"  # how the names of files look that are being written
_MISSING = "(not set)"
_REMINDER_SECONDS = 60


class RunDirectory:
    """`runs/NAME`. A part of a run that is done is not done again; its time and memory are kept in progress.json.

    Of several processes that work in one folder together, only the chief writes to it; the others wait for what it does.

    Attributes:
        path: the folder.
        is_chief: whether this process is the chief.
    """

    def __init__(self, path: pathlib.Path, is_chief: bool = True):
        self.path, self.is_chief = path, is_chief
        self._progress_path = path / PROGRESS_NAME
        self._at_work_path = path / ".at_work"  # there while the chief works in the folder

    def open(self, settings: dict, overwrite: bool = False) -> None:
        """Makes the folder with these settings, or checks that it was made with the same ones; first of all in the chief.

        Raises: ValueError listing the settings that differ, unless `overwrite`: then the old run is deleted. A folder that
            holds something else than a run is never touched.
        """
        settings = json.loads(json.dumps(settings))
        config_path = self.path / CONFIG_NAME
        if not self.is_chief:
            if not config_path.is_file() or _read_settings(config_path) != settings:
                raise ValueError(f"{self.path} is not the folder that the chief has opened: all processes need one that they "
                                 "share. Set --workdir to such a folder.")
            return
        if config_path.is_file():
            old = _read_settings(config_path)
            if old == settings:
                return
            if not overwrite:
                differing = [f"  {name}: {old.get(name, _MISSING)!r} in the run, {settings.get(name, _MISSING)!r} now"
                             for name in sorted(old.keys() | settings.keys())
                             if old.get(name, _MISSING) != settings.get(name, _MISSING)]
                raise ValueError(f"{self.path} holds a run with other settings:\n" + "\n".join(differing)
                                 + "\nUse another --workdir, or --overwrite to delete that run.")
        elif self.path.exists() and (not self.path.is_dir() or any(self.path.iterdir())):
            raise ValueError(f"{self.path} exists and holds no run ({CONFIG_NAME} is missing). Use another --workdir, or "
                             "delete it yourself.")
        if self.path.is_dir():
            shutil.rmtree(self.path)
        self.path.mkdir(parents=True)
        write_json(config_path, {"settings": settings, "versions": package_versions(), "command": sys.argv})

    def progress(self) -> dict:
        """{"seconds": {part: s}, "peak_memory_mb": m, "done": [parts]}."""
        if not self._progress_path.is_file():
            return {"seconds": {}, "peak_memory_mb": 0, "done": []}
        return json.loads(self._progress_path.read_text())

    def is_done(self, part: str) -> bool:
        return part in self.progress()["done"]

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Keeps other chiefs out of the run, and clears what a killed one was writing; the others stay until the chief leaves.

        Raises: ValueError if one works in it now.
        """
        if not self.is_chief:
            yield
            self.wait_until(lambda: not self._at_work_path.exists(), "finish")
            return
        with open(self.path / LOCK_NAME, "w") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise ValueError(f"another process is working in {self.path}; wait for it, or use another --workdir") from None
            for unfinished in self.path.rglob(UNFINISHED):
                unfinished.unlink()
            try:
                self._at_work_path.touch()
                yield
            finally:
                self._at_work_path.unlink(missing_ok=True)

    def run_part(self, part: str, function: Callable[[], None], *, again: bool = False, together: bool = False) -> None:
        """Runs a part unless it is done, or `again`. Its seconds add up over interruptions, also when it raises.

        Args: together: all processes do the part; else the chief alone.
        """
        if self.is_done(part) and not again:
            return
        if not self.is_chief:
            if together:
                function()
            self.wait_until(lambda: self.is_done(part), f"do the part {part}")
            return
        start = time.monotonic()
        try:
            function()
        except BaseException:
            with contextlib.suppress(OSError):  # on a full disk, the first error says more
                self._note(part, time.monotonic() - start, is_done=False)
            raise
        self._note(part, time.monotonic() - start, is_done=True)

    def wait_until(self, condition: Callable[[], bool], what: str) -> None:
        """Waits for the chief to do something, asking every second. Ctrl-C and SIGTERM interrupt it.

        Raises: ValueError if the chief has stopped without doing it.
        """
        start = time.monotonic()
        for attempt in itertools.count():
            is_at_work = self._at_work_path.exists()
            if condition():
                return
            if not is_at_work:
                raise ValueError(f"the chief has stopped and did not {what}; its output says why. The same commands go on.")
            if attempt % _REMINDER_SECONDS == 1:
                print(f"waiting for the chief to {what}, {time.monotonic() - start:.0f} s so far", file=sys.stderr, flush=True)
            time.sleep(1)

    def _note(self, part: str, seconds: float, is_done: bool) -> None:
        progress = self.progress()
        progress["seconds"][part] = round(progress["seconds"].get(part, 0.0) + seconds, 1)
        progress["peak_memory_mb"] = max(progress["peak_memory_mb"], peak_memory_mb())
        if is_done and part not in progress["done"]:
            progress["done"].append(part)
        write_json(self._progress_path, progress)


def _read_settings(config_path: pathlib.Path) -> dict:
    """Raises: ValueError unless it is the config.json of a run: other programs call their files so, too."""
    try:
        content = json.loads(config_path.read_text())
        settings, _ = content["settings"], content["versions"]
        if not isinstance(settings, dict):
            raise TypeError("settings is not a table")
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{config_path} is not the {CONFIG_NAME} of a run ({error!r}), so its folder is left alone. Use "
                         "another --workdir, or delete that folder yourself.") from error
    return settings


def package_versions() -> dict[str, str]:
    """Versions of Python and of the packages that influence a result."""
    versions = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            versions[package] = "not installed"
    return versions


def peak_memory_mb() -> int:
    """The largest resident memory of this process and of its largest child so far, MB."""
    own = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    children = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    unit = 1 << 20 if sys.platform == "darwin" else 1 << 10
    return round((own + children) / unit)
