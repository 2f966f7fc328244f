"""Finds the adapter of a data set by name. Adapters are imported when asked for, never before."""

import importlib
import pathlib
import pkgutil
import re

from datasets.catalogue import normalize_name
from datasets.raw_example import Adapter

ADAPTERS_FOLDER = pathlib.Path(__file__).with_name("adapters")
SYNTHETIC_MODULE = "synthetic"  # one module, several data sets
SYNTHETIC_DATASETS = ("synthetic_studio", "synthetic_street", "synthetic_gym", "synthetic_garden", "synthetic_photos",
                      "synthetic_test")


def list_adapters() -> list[str]:
    """Names of the data sets that can be prepared, in alphabetical order."""
    names = {re.sub("^three", "3", module.name)  # a module's name cannot begin with a digit: threedpw reads 3dpw
             for module in pkgutil.iter_modules([str(ADAPTERS_FOLDER)]) if not module.name.startswith("_")}
    if SYNTHETIC_MODULE in names:
        names = (names - {SYNTHETIC_MODULE}) | set(SYNTHETIC_DATASETS)
    return sorted(names)


def load_adapter(name: str) -> Adapter:
    """The adapter of a data set; hyphens in the name count as underscores. Raises: ValueError listing the names there
    are."""
    key = normalize_name(name)
    valid_names = list_adapters()
    if key not in valid_names:
        raise ValueError(f"no adapter for data set {name!r}; there are: {', '.join(valid_names)}. Data of your own are "
                         "read by the adapter custom.")
    if key in SYNTHETIC_DATASETS:
        return importlib.import_module(f"datasets.adapters.{SYNTHETIC_MODULE}").ADAPTERS[key]
    module = re.sub("^3", "three", key)
    return importlib.import_module(f"datasets.adapters.{module}").ADAPTER
