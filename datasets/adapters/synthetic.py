"""The embedded synthetic data sets (see `datasets.synthetic.generator`): nothing to download, rendered while
preparing."""

import functools

from datasets.raw_example import Adapter
from datasets.synthetic import generator


def _list_units(name, raw_dir, split):
    return generator.list_units(name, split)


def _load_unit(name, raw_dir, unit):
    return generator.load_unit(name, unit)


ADAPTERS = {
    name: Adapter(
        name=name,
        kind=dataset.kind,
        skeleton=dataset.skeleton,
        list_units=functools.partial(_list_units, name),
        load_unit=functools.partial(_load_unit, name),
    )
    for name, dataset in generator.DATASETS.items()
}
