"""Flags that several programs share; absl refuses a second definition."""

from absl import flags

DATA_ROOT = flags.DEFINE_string("data_root", "data", "Folder of the prepared data sets.")


def with_underscores(argv: list[str]) -> list[str]:
    """--dataset-set=my-set.toml -> --dataset_set=my-set.toml: absl wants underscores in names; values stay as they are."""
    result = []
    for argument in argv:
        name, separator, value = argument.partition("=")
        if name.startswith("--"):
            argument = "--" + name[2:].replace("-", "_") + separator + value
        result.append(argument)
    return result
