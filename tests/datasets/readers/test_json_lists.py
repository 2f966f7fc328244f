"""Lists of JSON files, element by element."""

import json

import pytest

from datasets.readers import json_lists
from datasets.readers.json_lists import iterate_lists


@pytest.mark.parametrize("chunk", [1, 2, 7, 2**20])
@pytest.mark.parametrize("indent", [None, 2])
def test_the_same_as_the_whole_file(tmp_path, monkeypatch, chunk, indent):
    monkeypatch.setattr(json_lists, "_CHUNK", chunk)
    content = {"images": [{"name": "a\n\"]}\u00e9.jpg", "id": 12345}, {}], "version": 17.25, "none": [], "info": {"a": [1]},
               "numbers": [1, 234567, -1e-5, [2, [3]], None, "x", True]}
    path = tmp_path / "content.json"
    path.write_text("\n " + json.dumps(content, indent=indent, ensure_ascii=False) + "\n", encoding="utf-8")
    assert list(iterate_lists(path)) == [(name, element) for name in ("images", "none", "numbers") for element in content[name]]


@pytest.mark.parametrize(("text", "message"), [
    ('{"a": [1, 2', "character 10: a value without an end"),
    ('{"a": [1 2]}', r"character 9: expected \], got '2\]\}'"),
    ('{"a": [1], "b"}', "character 14: expected :"),
    ('{"a": [1]', "character 9: expected }, got ''"),
    ('{"a": [{"b": oops}]}', "character 7: Expecting value"),
    ("[1]", "character 0: expected {"),
    ("", "character 0: expected {"),
])
def test_broken_files_are_named(tmp_path, text, message):
    path = tmp_path / "content.json"
    path.write_text(text)
    with pytest.raises(ValueError, match=rf"content\.json cannot be read as a JSON table of lists: {message}"):
        list(iterate_lists(path))


def test_what_is_no_element_does_not_fill_the_memory(tmp_path, monkeypatch):
    monkeypatch.setattr(json_lists, "_CHUNK", 10)
    monkeypatch.setattr(json_lists, "_MAX_VALUE", 50)
    path = tmp_path / "content.json"
    path.write_text('{"a": ["' + 1000 * "x" + '"]}')
    reads = []
    with pytest.raises(ValueError, match="character 7: Unterminated string"), pytest.MonkeyPatch.context() as patch:
        patch.setattr(json_lists._Text, "_read", lambda self, read=json_lists._Text._read: reads.append(1) or read(self))
        list(iterate_lists(path))
    assert len(reads) < 10


def test_missing_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"none\.json is missing\. Get it there\."):
        list(iterate_lists(tmp_path / "none.json", "Get it there."))
