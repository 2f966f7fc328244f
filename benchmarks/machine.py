"""What is told of the machine beside every figure."""

import importlib.metadata
import os
import pathlib
import platform


def machine_facts(*packages: str) -> dict:
    """Processor, cores to use, load, and the versions of Python and of packages."""
    model = next((line.partition(":")[2].strip() for line in pathlib.Path("/proc/cpuinfo").read_text().splitlines()
                  if line.startswith("model name")), platform.processor())
    return {"cpu": model, "cores": len(os.sched_getaffinity(0)), "load_average": round(os.getloadavg()[0], 2),
            "python": platform.python_version(), **{name: importlib.metadata.version(name) for name in packages}}
