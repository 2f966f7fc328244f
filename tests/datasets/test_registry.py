import pytest

from datasets import registry
from datasets.catalogue import load_catalogue
from datasets.raw_example import Adapter


def test_every_listed_adapter_loads_under_its_name_and_is_in_the_catalogue():
    names = registry.list_adapters()
    assert names == sorted(names) and {"coco", "mpii", "posetrack", "custom"} <= set(names)
    for name in names:
        adapter = registry.load_adapter(name)
        assert isinstance(adapter, Adapter) and adapter.name == name
    assert set(names) <= set(load_catalogue())


def test_hyphens_count_as_underscores(monkeypatch):
    assert registry.load_adapter("synthetic-studio").name == "synthetic_studio"


@pytest.mark.parametrize("name", ["cocoo", "synthetic", "../coco", "__init__", ""])
def test_unknown_name_lists_the_valid_ones(name):
    with pytest.raises(ValueError, match=r"there are: .*coco.*synthetic_test"):
        registry.load_adapter(name)
