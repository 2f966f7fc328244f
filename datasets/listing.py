"""What the catalogue, the adapters, the dataset sets and the folders say about every data set: `python -m datasets list`."""

import pathlib

from datasets.catalogue import load_catalogue
from datasets.dataset_set import list_dataset_sets, load_dataset_set
from datasets.registry import list_adapters
from posepile.data.records import MANIFEST_NAME, PreparedDataset

_SET_COLUMNS = ("small", "medium", "full")


def list_datasets(data_root: pathlib.Path, raw_root: pathlib.Path) -> list[dict]:
    """One table per data set, in the catalogue's order.

    Args:
        data_root: folder of the prepared data sets.
        raw_root: folder with a folder of raw files for each data set, named like it.

    Returns: `name`, `title`, `paper`, `year`, `kind` ("3d", "2d" or None), `category`, `skeleton` and `num_joints` (None where
        the user says them), `examples_per_batch` (by dataset set), `licence`, `url`, `adapter`, `raw` and `prepared` (whether
        there is one), `num_examples` (prepared, by split).
    """
    catalogue, adapters, counts = load_catalogue(), list_adapters(), _examples_per_batch()
    prepared = {path.parent.name: PreparedDataset(path.parent) for path in sorted(data_root.glob(f"*/{MANIFEST_NAME}"))}
    entries = []
    for name in dict.fromkeys([*catalogue, *adapters, *prepared]):
        info, dataset = catalogue.get(name), prepared.get(name)
        if dataset is not None:
            skeleton = dataset.skeleton
        else:
            skeleton = info.load_skeleton() if info is not None and info.skeleton is not None else None
        entries.append({
            "name": name, "title": info.title if info else name, "paper": info.paper if info else "",
            "year": info.year if info else None, "kind": dataset.kind if dataset else info.kind if info else None,
            "category": info.category if info else "own", "skeleton": skeleton and skeleton.name,
            "num_joints": skeleton and skeleton.num_joints, "examples_per_batch": counts.get(name, {}),
            "licence": info.licence if info else dataset.manifest.get("licence", ""), "url": info.url if info else "",
            "adapter": name in adapters, "raw": _has_files(raw_root / name), "prepared": dataset is not None,
            "num_examples": {split: dataset.num_examples(split) for split in dataset.splits()} if dataset else {}})
    return entries


def format_list(entries: list[dict]) -> str:
    """The entries as a table, a line each; what is long comes last."""
    rows = [("name", "paper", "kind", "format", "joints", "/".join(_SET_COLUMNS), "raw", "prepared", "licence", "from")]
    rows += [(entry["name"], _citation(entry), entry["category"], entry["skeleton"] or "-", str(entry["num_joints"] or "-"),
              "/".join(str(entry["examples_per_batch"].get(column, "-")) for column in _SET_COLUMNS),
              "yes" if entry["raw"] else "-", _counts(entry), entry["licence"] or "-", entry["url"] or "-")
             for entry in entries]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows)


def _examples_per_batch() -> dict[str, dict[str, int]]:
    counts: dict[str, dict[str, int]] = {}
    for name in list_dataset_sets():
        dataset_set = load_dataset_set(name)
        for dataset, count in {**dataset_set.datasets_3d, **dataset_set.datasets_2d}.items():
            counts.setdefault(dataset, {})[name] = count
    return counts


def _has_files(folder: pathlib.Path) -> bool:
    return folder.is_dir() and any(folder.iterdir())


def _citation(entry: dict) -> str:
    """First author, venue and year."""
    if not entry["paper"]:
        return "-"
    author = entry["paper"].split(",")[0].removesuffix(" et al.")
    return f"{author} et al., {entry['paper'].rsplit(', ', 1)[-1]} {entry['year']}"


def _counts(entry: dict) -> str:
    return ", ".join(f"{count} {split}" for split, count in entry["num_examples"].items()) or "-"
