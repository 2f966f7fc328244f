"""Prepares data sets and shows what is in them: `python -m datasets list | prepare | verify | inspect`."""

import argparse
import collections
import itertools
import json
import logging
import pathlib
import sys
from collections.abc import Iterator, Sequence

from datasets.catalogue import load_catalogue, normalize_name
from datasets.cropping import PERSON_SIDE
from datasets.dataset_set import load_dataset_set
from datasets.listing import format_list, list_datasets
from datasets.prepare import PrepareError, prepare
from datasets.registry import load_adapter
from posepile.data.augmentation import AugmentationConfig
from posepile.data.pictures import load_pictures
from posepile.data.records import MANIFEST_NAME, SPLITS, PreparedDataset

CROP_SIDE = 256  # px, of training crops
CROP_OPTIONS = ("dataset_set", "crop_side", "occluder_dir", "background_dir")
FAULTS_EXIT_CODE = 3  # prepared, except for what could not be read; 1 is an error, 2 argparse's for wrong usage
MAX_UNITS_LISTED = 20
INTERRUPTED_EXIT_CODE = 130  # the shell's code for Ctrl-C
# What a user can cause; anything else is a bug and shows its traceback.
_USER_ERRORS = (ValueError, OSError, PrepareError, ImportError)  # the last one: an extra that is not installed


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command. Returns: the exit code."""
    options = _parser().parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    try:
        return options.run(options) or 0
    except _USER_ERRORS as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt as interrupt:
        print(f"\n{interrupt or 'interrupted'}", file=sys.stderr)
        return INTERRUPTED_EXIT_CODE


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m datasets", description=__doc__)
    commands = parser.add_subparsers(title="commands", required=True)

    def command(name, run, help_text):
        subparser = commands.add_parser(name, help=help_text, description=help_text)
        subparser.set_defaults(run=run)
        subparser.add_argument("--data-root", type=pathlib.Path, default=pathlib.Path("data"), metavar="DIR",
                               help="folder of the prepared data sets (default: data)")
        return subparser

    listing = command("list", _list, "Lists the known data sets: paper, kind, joint format, "
                      "examples per batch in the small, medium and full set, licence, source, and whether you have them.")
    listing.add_argument("--raw-dir", type=pathlib.Path, default=pathlib.Path("raw"), metavar="DIR",
                         help="folder with a folder NAME of raw files for each data set (default: raw)")
    listing.add_argument("--json", action="store_true", help="print JSON")

    preparing = command("prepare", _prepare, "Prepares data sets: cuts person crops out of the raw images. Can be "
                        "stopped at any time; the same command continues.")
    preparing.add_argument("names", nargs="+", metavar="NAME", help="data sets, see list")
    preparing.add_argument("--raw-dir", type=pathlib.Path, metavar="DIR",
                           help="folder of the data set's files as its authors distribute them, not needed for "
                           "rendered data sets; of several data sets: the folder that holds a folder NAME for each")
    preparing.add_argument("--name", metavar="NEW_NAME", help="what to call the prepared data set: several of "
                           "one's own, all read by the adapter custom, need different names")
    preparing.add_argument("--splits", type=_comma_separated, metavar="SPLIT[,SPLIT]",
                           help=f"of {', '.join(SPLITS)} (default: all); train+validation puts both into train")
    preparing.add_argument("--limit", type=int, metavar="N", help="only the first N examples of each split")
    faults = preparing.add_mutually_exclusive_group()
    faults.add_argument("--skip-bad", action="store_true", help="be content without what cannot be read. Otherwise the exit "
                        f"code is {FAULTS_EXIT_CODE} if something was left out, and the same command tries it again")
    faults.add_argument("--strict", action="store_true", help="stop at the first thing that cannot be read")
    boxes = preparing.add_mutually_exclusive_group()
    boxes.add_argument("--detections", type=pathlib.Path, metavar="FILE", help="COCO result file of a person detector; its "
                       "boxes are taken where the data set has none of its own")
    boxes.add_argument("--detector", type=pathlib.Path, metavar="FILE.onnx", help="person detector (YOLO11, say) that "
                       "is run on the images, for the same purpose")
    preparing.add_argument("--masks", type=pathlib.Path, metavar="DIR", help="folder of person masks, DIR/PATH.png for the "
                           "image PATH; taken where the data set has none")
    preparing.add_argument("--body-models", type=pathlib.Path, metavar="DIR", help="folder of your licensed SMPL, SMPL-H or "
                           "SMPL-X model files, for data sets that store people as their parameters")
    preparing.add_argument("--workers", type=int, metavar="N", help="processes (default: one per core)")
    preparing.add_argument("--scheduler", metavar="HOST:PORT", help="work on the dask cluster of this scheduler; its "
                           "machines need the same software and see the same folders")
    preparing.add_argument("--person-side", type=int, default=PERSON_SIDE, metavar="PX",
                           help=f"longer side of a person's box in its crop (default: {PERSON_SIDE})")
    preparing.add_argument("--overwrite", action="store_true", help="begin anew, whatever is there")

    verifying = command("verify", _verify, "Checks all that can be wrong with prepared data sets: files, checksums, records, "
                        "images, cameras, labels. The exit code is 1 if something is.")
    verifying.add_argument("names", nargs="+", metavar="NAME")
    verifying.add_argument("--splits", type=_comma_separated, metavar="SPLIT[,SPLIT]",
                           help=f"of {', '.join(SPLITS)} (default: all)")
    verifying.add_argument("--sample", type=int, metavar="N",
                           help="look into N records of each split, evenly spread; files and checksums are checked anyway "
                           "(default: all records)")
    verifying.add_argument("--skip-bad", action="store_true", help="list bad records, but accept a data set that has some")
    verifying.add_argument("--workers", type=int, metavar="N", help="processes (default: one per core)")
    verifying.add_argument("--json", action="store_true", help="print a JSON object per data set, one a line")

    inspecting = command("inspect", _inspect, "Draws examples of a prepared data set with their labels.")
    inspecting.add_argument("name", metavar="NAME")
    inspecting.add_argument("--split", choices=SPLITS, help="default: the first there is")
    inspecting.add_argument("--num", type=int, default=24, metavar="N", help="how many examples (default: 24)")
    inspecting.add_argument("--output", type=pathlib.Path, metavar="FILE.png",
                            help="default: NAME-SPLIT.png, or NAME-SPLIT-augmented.png")
    inspecting.add_argument("--seed", type=int, default=0, help="chooses the examples (default: 0)")
    inspecting.add_argument("--augmented", action="store_true",
                            help="draw the crops with which a training of this seed begins, each without and with its labels")
    crops = inspecting.add_argument_group("training crops, with --augmented")
    crops.add_argument("--dataset-set", metavar="SET", help="name or file of the set whose settings are taken "
                       "(default: the published augmentation)")
    crops.add_argument("--crop-side", type=int, metavar="PX", help=f"default: that of the set, else {CROP_SIDE}")
    crops.add_argument("--occluder-dir", metavar="DIR", help="as for train.py (default: that of the set)")
    crops.add_argument("--background-dir", metavar="DIR", help="as for train.py (default: that of the set)")
    return parser


def _comma_separated(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]


def _list(options: argparse.Namespace) -> None:
    entries = list_datasets(options.data_root, options.raw_dir)
    print(json.dumps(entries, indent=2) if options.json else format_list(entries))


def _prepare(options: argparse.Namespace) -> int:
    for flag, use in (("name", "renames"), ("detections", "is for"), ("masks", "is for")):
        if getattr(options, flag) is not None and len(options.names) > 1:
            raise ValueError(f"--{flag} {use} one data set; got {len(options.names)}: {', '.join(options.names)}")
    options.name = options.name and normalize_name(options.name)
    adapters = [load_adapter(name) for name in options.names]  # all, before the first long run
    raw_dirs = [_raw_dir(adapter.name, options) for adapter in adapters]
    has_faults = False
    for adapter, raw_dir in zip(adapters, raw_dirs, strict=True):
        manifest = prepare(
            adapter, raw_dir, options.data_root, name=options.name, splits=options.splits, limit=options.limit,
            skip_bad=options.skip_bad, strict=options.strict, detections=options.detections, masks=options.masks,
            detector=options.detector if adapter.detection_rule is not None or len(adapters) == 1 else None,
            body_models=options.body_models if adapter.uses_body_models or len(adapters) == 1 else None,
            workers=options.workers, scheduler=options.scheduler, person_side=options.person_side, overwrite=options.overwrite)
        print(f"{manifest['name']}: {_summary(manifest)} in {options.data_root / manifest['name']}")
        for line in [*_result_lines(manifest), *_fault_lines(manifest, options)]:
            print(f"  {line}", flush=True)
        has_faults |= bool(manifest["skipped"])
    return FAULTS_EXIT_CODE if has_faults and not options.skip_bad else 0


def _result_lines(manifest: dict) -> Iterator[str]:
    """What --detections or --detector, and --masks did."""
    counts = collections.Counter(manifest.get("detector_results", {}))
    if counts["images"]:
        yield (f"detections: {counts['images_with_detections']} of {counts['images']} images have some; "
               f"{counts['people_matched']} of {counts['people']} people got their boxes, {counts['people_dropped']} were left "
               "out for want of one")
    if counts["people_without_mask"]:
        yield f"masks: {counts['masks_added']} of {counts['people_without_mask']} people without a mask got one"


def _fault_lines(manifest: dict, options: argparse.Namespace) -> Iterator[str]:
    """What could not be read, unit by unit, and what to do about it."""
    units: dict[str, list[dict]] = {}
    for entry in manifest["skipped"]:
        units.setdefault(entry.get("unit", entry["where"]), []).append(entry)  # former versions did not note the unit
    for entry, *others in itertools.islice(units.values(), MAX_UNITS_LISTED):
        more = f" (and {len(others)} more of this unit)" if others else ""
        yield f"skipped {entry['where']}: {entry['reason']}{more}"
    if (num_more := len(units) - MAX_UNITS_LISTED) > 0:
        yield f"and something of {num_more} more units, listed in {options.data_root / manifest['name'] / MANIFEST_NAME}"
    if units and not options.skip_bad:
        yield ("Mend them and run the same command again: it makes only the shards anew in which something was skipped. With "
               "--skip-bad the data set is accepted as it is.")


def _raw_dir(name: str, options: argparse.Namespace) -> pathlib.Path | None:
    """The folder of a data set's raw files; None where it is rendered."""
    info = load_catalogue().get(name)
    if info is not None and info.is_rendered:
        return None
    if options.raw_dir is None:
        source = f", which come from {info.url}" if info is not None and info.url else ""
        raise ValueError(f"data set {name} needs --raw-dir, the folder of its files{source}")
    folder = options.raw_dir if len(options.names) == 1 else options.raw_dir / name
    # Without the raw files a finished data set is still complete; `prepare` says what is missing otherwise.
    if not folder.is_dir() and not (options.data_root / (options.name or name) / MANIFEST_NAME).is_file():
        raise ValueError(f"--raw-dir: there is no folder {folder}")
    return folder


def _summary(manifest: dict) -> str:
    counts = ", ".join(f"{split['num_examples']} {name}" for name, split in manifest["splits"].items())
    return counts + (f", {len(manifest['skipped'])} skipped" if manifest["skipped"] else "")


def _verify(options: argparse.Namespace) -> int:
    from datasets.verification import verify

    reports = []
    for name in options.names:
        reports.append(verify(options.data_root / normalize_name(name), splits=options.splits, sample=options.sample,
                              skip_bad=options.skip_bad, workers=options.workers))
        print(json.dumps(reports[-1].to_dict()) if options.json else reports[-1].to_text(), flush=True)
    return 0 if all(report.is_right for report in reports) else 1


def _inspect(options: argparse.Namespace) -> None:
    from datasets.inspection import describe, draw_augmented, draw_examples  # only this command draws

    if options.num < 1:
        raise ValueError(f"--num is {options.num}; expected 1 or more")
    if not options.augmented and (given := [name for name in CROP_OPTIONS if getattr(options, name) is not None]):
        raise ValueError(f"--{given[0].replace('_', '-')} is for training crops; add --augmented")
    dataset = PreparedDataset(options.data_root / normalize_name(options.name))
    split = options.split or dataset.splits()[0]
    output = options.output or pathlib.Path(f"{dataset.name}-{split}{'-augmented' if options.augmented else ''}.png")
    if options.augmented:
        draw_augmented(dataset, split, options.num, options.seed, output, **_crop_settings(dataset.name, options))
        drawn = f"{options.num} training crops"
    else:
        drawn = f"{draw_examples(dataset, split, options.num, options.seed, output)} examples"
    print(describe(dataset))
    print(f"{drawn} of {split} drawn in {output}")


def _crop_settings(name: str, options: argparse.Namespace) -> dict:
    """What `draw_augmented` needs to know of a training on a dataset set; options override what the set says."""
    config, settings = AugmentationConfig(), {"crop_side": CROP_SIDE, "occluder_dir": "", "background_dir": ""}
    kinds = {key: type(value) for key, value in settings.items()}
    if options.dataset_set is not None:
        dataset_set = load_dataset_set(options.dataset_set, options.data_root)
        config = dataset_set.dataset_augmentation.get(name, dataset_set.augmentation)
        settings |= {key: dataset_set.hyperparameters[key] for key in kinds if key in dataset_set.hyperparameters}
    settings |= {key: getattr(options, key) for key in kinds if getattr(options, key) is not None}
    if wrong := [key for key in kinds if not isinstance(settings[key], kinds[key])]:
        raise ValueError(f"{wrong[0]} must be a {kinds[wrong[0]].__name__}, got {settings[wrong[0]]!r}")
    if settings["crop_side"] < 1:
        raise ValueError(f"crop_side must be 1 px or more, got {settings['crop_side']}")
    return {"config": config, "crop_side": settings["crop_side"], "pictures": load_pictures(**settings)}


if __name__ == "__main__":
    sys.exit(main())
