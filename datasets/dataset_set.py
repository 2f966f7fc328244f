"""Dataset sets: which data sets a training mixes, and how many examples of each a batch has.

A set is a TOML file, one of `datasets/sets` or the user's own; `docs/dataset_sets.md` describes its entries. The order
of its entries is the order of the examples in a batch, those with 3D labels first.
"""

import dataclasses
import pathlib
import re
import tomllib
from collections.abc import Mapping

from datasets.catalogue import KINDS, DatasetInfo, load_catalogue, normalize_name
from datasets.registry import list_adapters
from posepile.data.augmentation import AugmentationConfig, make_augmentation
from posepile.data.records import MANIFEST_NAME, PreparedDataset
from posepile.geometry.skeleton import Skeleton, skeleton_from_dict

SETS_FOLDER = pathlib.Path(__file__).with_name("sets")
_TRAINING_ENTRIES = ("batch_size", "datasets_3d", "datasets_2d", "hyperparameters")  # a set for evaluation has none of them
_ENTRIES = ("description", *_TRAINING_ENTRIES, "evaluation", "own_datasets")


@dataclasses.dataclass(frozen=True)
class DatasetSet:
    """What a training mixes.

    Attributes:
        name: the file's name without its suffix.
        description: one sentence.
        batch_size: examples per training step; the sum of the counts below; 0 where nothing is trained on.
        datasets_3d: examples per batch of every data set with 3D labels; empty where nothing is trained on.
        datasets_2d: the same for those with 2D labels.
        evaluation: the data sets whose test splits are scored.
        hyperparameters: settings of the training that this set recommends, except for these:
        augmentation: how the training crops vary.
        dataset_augmentation: the same, by name, for the data sets that have settings of their own.
        own_datasets: the data sets that the file itself declares, by name.
    """

    name: str
    description: str
    batch_size: int
    datasets_3d: dict[str, int]
    datasets_2d: dict[str, int] = dataclasses.field(default_factory=dict)
    evaluation: tuple[str, ...] = ()
    hyperparameters: dict = dataclasses.field(default_factory=dict)
    augmentation: AugmentationConfig = dataclasses.field(default_factory=AugmentationConfig)
    dataset_augmentation: dict[str, AugmentationConfig] = dataclasses.field(default_factory=dict)
    own_datasets: dict[str, DatasetInfo] = dataclasses.field(default_factory=dict)

    @property
    def num_3d(self) -> int:
        """Examples with 3D labels per batch."""
        return sum(self.datasets_3d.values())

    @property
    def num_2d(self) -> int:
        """Examples with 2D labels per batch."""
        return sum(self.datasets_2d.values())

    def names(self) -> list[str]:
        """Every data set it mentions, each once: for training, then for evaluation."""
        return list(dict.fromkeys([*self.datasets_3d, *self.datasets_2d, *self.evaluation]))


def list_dataset_sets() -> list[str]:
    """Names of the sets that come with the project."""
    order = ["demo", "small", "medium", "full", "benchmarks"]
    return sorted((path.stem for path in SETS_FOLDER.glob("*.toml")),
                  key=lambda name: (order.index(name) if name in order else len(order), name))


def load_dataset_set(name_or_path: str | pathlib.Path, data_root: str | pathlib.Path | None = None) -> DatasetSet:
    """Reads and checks a set.

    Args:
        name_or_path: one of `list_dataset_sets`, or a path to a .toml file.
        data_root: folder of the prepared data sets. What is prepared there may be named though the catalogue lacks it.

    Raises:
        ValueError saying which entry of which file is wrong, and what is valid.
        FileNotFoundError if there is no such file.
    """
    path = pathlib.Path(name_or_path)
    if path.suffix != ".toml":
        if str(name_or_path) not in list_dataset_sets():
            known = ", ".join(list_dataset_sets())
            raise ValueError(f"unknown dataset set {str(name_or_path)!r}; known ones: {known}; "
                             "the path of a file ending in .toml is possible, too")
        path = SETS_FOLDER / f"{name_or_path}.toml"
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise FileNotFoundError(f"there is no dataset set file {path}; the sets that need no file of their own: "
                                f"{', '.join(list_dataset_sets())}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not a valid TOML file: {error}") from error
    return _read_set(path, content, None if data_root is None else pathlib.Path(data_root))


def describe_datasets(dataset_set: DatasetSet, data_root: str | pathlib.Path) -> list[dict]:
    """The data sets of a training, in the order of the batch.

    Returns: for each `name`, `kind` ("3d" or "2d"), `skeleton` (the format's name), `examples_per_batch`, `prepared`.
    """
    return [{"name": name, "kind": kind,
             "skeleton": dataset_skeleton(name, data_root, dataset_set.own_datasets).name,
             "examples_per_batch": count, "prepared": is_prepared(name, data_root)}
            for kind, counts in (("3d", dataset_set.datasets_3d), ("2d", dataset_set.datasets_2d))
            for name, count in counts.items()]


def missing_datasets(dataset_set: DatasetSet, data_root: str | pathlib.Path) -> list[str]:
    """Those data sets of a set, for training or evaluation, that are not prepared."""
    return [name for name in dataset_set.names() if not is_prepared(name, data_root)]


def missing_datasets_message(missing: list[str], data_root: str | pathlib.Path) -> str:
    """Says what is missing and which command prepares each; empty if nothing is missing."""
    if not missing:
        return ""
    catalogue, adapters, lines = load_catalogue(), list_adapters(), []
    for name in missing:
        info = catalogue.get(name)
        notes = [f"from {info.url}"] if info and info.url else []
        if info and name not in adapters:
            notes.append(f"needs an adapter, datasets/adapters/{name}.py, which this version does not have")
        comment = f"   # {'; '.join(notes)}" if notes else ""
        lines.append(f"  {_prepare_command(name, data_root)}{comment}")
    what = "1 data set is" if len(missing) == 1 else f"{len(missing)} data sets are"
    return f"{what} not prepared in {data_root}: {', '.join(missing)}. To prepare:\n" + "\n".join(lines)


def is_prepared(name: str, data_root: str | pathlib.Path) -> bool:
    """Whether DATA_ROOT/NAME holds a prepared data set: its manifest is written last."""
    return (pathlib.Path(data_root) / name / MANIFEST_NAME).is_file()


def is_rendered(name: str) -> bool:
    """Whether a data set is embedded: `prepare` renders it, from no raw data."""
    info = load_catalogue().get(normalize_name(name))
    return info is not None and info.is_rendered


def dataset_skeleton(name: str, data_root: str | pathlib.Path | None = None,
                     own_datasets: Mapping[str, DatasetInfo] | None = None) -> Skeleton:
    """The joint format of a data set: as its manifest says if it is prepared, else as declared or as in the catalogue.

    Raises: ValueError if none of them knows the data set.
    """
    name = normalize_name(name)
    if data_root is not None and is_prepared(name, data_root):
        return PreparedDataset(pathlib.Path(data_root) / name).skeleton
    known = {**load_catalogue(), **(own_datasets or {})}
    if name not in known:
        raise ValueError(_unknown_message(name, data_root))
    return known[name].load_skeleton()


def _read_set(path: pathlib.Path, content: dict, data_root: pathlib.Path | None) -> DatasetSet:
    if unknown := [key for key in content if key not in _ENTRIES]:
        raise ValueError(f"{path}: unknown entries {', '.join(unknown)}; valid ones: {', '.join(_ENTRIES)}")
    is_for_training = not content.get("evaluation") or any(key in content for key in _TRAINING_ENTRIES)
    for key in ("batch_size", "datasets_3d") if is_for_training else ():
        if key not in content:
            raise ValueError(f"{path}: entry {key} is missing")
    for key in ("datasets_3d", "datasets_2d", "evaluation", "hyperparameters", "own_datasets"):
        if not isinstance(content.get(key, {}), dict):
            raise ValueError(f"{path}: {key} must be a table, [{key}], not {content[key]!r}")
    own_datasets = {normalize_name(name): _read_own_dataset(path, name, entry)
                    for name, entry in content.get("own_datasets", {}).items()}
    kinds = {**{name: info.kind for name, info in load_catalogue().items() if info.skeleton is not None},
             **{name: info.kind for name, info in own_datasets.items()}}
    counts = {kind: _read_counts(path, f"datasets_{kind}", content.get(f"datasets_{kind}", {})) for kind in KINDS}
    evaluation = _read_evaluation(path, content.get("evaluation", {}))
    for name in (*counts["3d"], *counts["2d"], *evaluation):
        if data_root is not None and is_prepared(name, data_root):
            kinds[name] = PreparedDataset(data_root / name).kind
        elif name not in kinds:
            raise ValueError(f"{path}: {_unknown_message(name, data_root)}")
    for kind in KINDS:
        _check_kinds(path, kind, counts[kind], kinds)
    if both := [name for name in counts["3d"] if name in counts["2d"]]:
        raise ValueError(f"{path}: {', '.join(both)} stands both in [datasets_3d] and in [datasets_2d]")
    batch_size = content.get("batch_size", 0)
    if is_for_training and not counts["3d"]:
        raise ValueError(f"{path}: [datasets_3d] is empty; a training needs a data set with 3D labels")
    if is_for_training and not _is_positive_integer(batch_size):
        raise ValueError(f"{path}: batch_size must be a positive whole number, not {batch_size!r}")
    num_3d, num_2d = (sum(counts[kind].values()) for kind in KINDS)
    if num_3d + num_2d != batch_size:
        raise ValueError(f"{path}: batch_size is {batch_size}, but the examples per batch add up to {num_3d} (3D) + "
                         f"{num_2d} (2D) = {num_3d + num_2d}. Change batch_size or the counts.")
    hyperparameters = dict(content.get("hyperparameters", {}))
    augmentation = _read_augmentation(path, "augmentation", hyperparameters.pop("augmentation", {}), AugmentationConfig())
    dataset_augmentation = _read_dataset_augmentation(path, hyperparameters.pop("dataset_augmentation", {}),
                                                      [*counts["3d"], *counts["2d"]], augmentation)
    description = content.get("description", "")
    if not isinstance(description, str):
        raise ValueError(f"{path}: description must be a text, not {description!r}")
    return DatasetSet(name=path.stem, description=description, batch_size=batch_size,
                      datasets_3d=counts["3d"], datasets_2d=counts["2d"], evaluation=evaluation,
                      hyperparameters=hyperparameters, augmentation=augmentation,
                      dataset_augmentation=dataset_augmentation, own_datasets=own_datasets)


def _read_counts(path: pathlib.Path, key: str, table: dict) -> dict[str, int]:
    counts = {}
    for name, count in table.items():
        _check_name(path, key, name)
        if not _is_positive_integer(count):
            raise ValueError(f"{path}: [{key}] {name} = {count!r}: examples per batch must be a positive whole number; "
                             "leave a data set out by removing its line")
        if normalize_name(name) in counts:
            raise ValueError(f"{path}: [{key}] lists {normalize_name(name)} twice (a hyphen is read as an underscore)")
        counts[normalize_name(name)] = count
    return counts


def _read_evaluation(path: pathlib.Path, table: dict) -> tuple[str, ...]:
    if unknown := set(table) - {"datasets"}:
        raise ValueError(f"{path}: [evaluation] takes datasets only, not {', '.join(sorted(unknown))}")
    names = table.get("datasets", [])
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise ValueError(f"{path}: [evaluation] datasets must be a list of names, not {names!r}")
    for name in names:
        _check_name(path, "evaluation", name)
    return tuple(dict.fromkeys(normalize_name(name) for name in names))


def _read_augmentation(path: pathlib.Path, key: str, table, base: AugmentationConfig) -> AugmentationConfig:
    where = f"{path}: [hyperparameters.{key}]"
    if not isinstance(table, dict):
        raise ValueError(f"{where} must be a table of settings, not {table!r}")
    try:
        return make_augmentation(table, base)
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from error


def _read_dataset_augmentation(path: pathlib.Path, tables, names: list[str],
                               base: AugmentationConfig) -> dict[str, AugmentationConfig]:
    where, result = f"{path}: [hyperparameters.dataset_augmentation]", {}
    if not isinstance(tables, dict):
        raise ValueError(f"{where} must hold a table of settings for each data set, not {tables!r}")
    for name, table in tables.items():
        normalized = normalize_name(name)
        if normalized not in names:
            raise ValueError(f"{where} names {name}, on which the set does not train; valid ones: {', '.join(names)}")
        if normalized in result:
            raise ValueError(f"{where} lists {normalized} twice (a hyphen is read as an underscore)")
        result[normalized] = _read_augmentation(path, f"dataset_augmentation.{name}", table, base)
    return result


def _read_own_dataset(path: pathlib.Path, name: str, entry) -> DatasetInfo:
    where = f"{path}: [own_datasets] {name}"
    _check_name(path, "own_datasets", name)
    known = load_catalogue().get(normalize_name(name))
    if known is not None and known.skeleton is not None:
        raise ValueError(f"{where}: the catalogue has a data set of this name, {known.title}; choose another name")
    if not isinstance(entry, dict) or set(entry) != {"kind", "skeleton"}:
        raise ValueError(f'{where} must be a table with kind and skeleton, {{kind = "3d", skeleton = "h36m_17"}} say, '
                         f"not {entry!r}")
    if entry["kind"] not in KINDS:
        raise ValueError(f"{where}: kind must be one of {', '.join(KINDS)}, not {entry['kind']!r}")
    skeleton = entry["skeleton"]
    if not isinstance(skeleton, (str, dict)):
        raise ValueError(f"{where}: skeleton must be the name of a joint format or a table that defines one, "
                         f"not {skeleton!r}")
    try:
        skeleton_from_dict(skeleton)
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from error
    return DatasetInfo(name=normalize_name(name), title=name, kind=entry["kind"], category="own", skeleton=skeleton)


def _check_kinds(path: pathlib.Path, kind: str, counts: dict[str, int], kinds: dict[str, str]) -> None:
    catalogue = load_catalogue()
    for name in counts:
        if kinds[name] != kind:
            raise ValueError(f"{path}: [datasets_{kind}] lists {name}, which is labelled in {kinds[name]}; "
                             f"move it to [datasets_{kinds[name]}]")
        if name in catalogue and catalogue[name].evaluation_only:
            raise ValueError(f"{path}: [datasets_{kind}] lists {name}, which is for evaluation only; "
                             "list it under [evaluation]")


def _check_name(path: pathlib.Path, key: str, name: str) -> None:
    """A data set is a folder under the data root, so its name must not lead out of there."""
    if not re.fullmatch(r"\w[\w-]*", name):
        raise ValueError(f"{path}: [{key}] {name!r} is not the name of a data set: letters, digits, _ and - only")


def _unknown_message(name: str, data_root: str | pathlib.Path | None) -> str:
    names = ", ".join(name for name, info in load_catalogue().items() if info.skeleton is not None)
    place = "DATA_ROOT" if data_root is None else data_root
    return (f"data set {name!r} is unknown, and {place}/{name}/{MANIFEST_NAME} does not exist. A data set of your own "
            f"has to be prepared there first (`{_prepare_command(name, place)}`), or declared in the set's table "
            f"[own_datasets]. Known ones: {names}")


def _prepare_command(name: str, data_root: str | pathlib.Path) -> str:
    what = name if name in load_catalogue() else f"custom --name={name}"
    raw_dir = "" if is_rendered(name) else " --raw-dir=RAW_DIR"
    return f"python -m datasets prepare {what}{raw_dir} --data-root={data_root}"


def _is_positive_integer(value) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0
