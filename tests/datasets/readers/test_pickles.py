"""The restricted unpickler against pickles of all protocols, hand-made ones of Python 2, attacks and broken files."""

import collections
import math
import os
import pathlib
import pickle
import random
import struct

import numpy as np
import pytest
import scipy.sparse

from datasets.readers.pickles import ChumpyArray, DataFrame, read_pickle
from tests.datasets.readers.pandas_files import VERSIONS, Call, Name, data_frame, dumps

NESTED = {"array": np.arange(6, dtype=">f4").reshape(2, 3), "fortran": np.asfortranarray(np.arange(6).reshape(2, 3)),
          "list": [1, 2.5, "text", b"bytes", None, True, 2**70, 1 + 2j], "names": np.array(["ab", "c"]),
          ("S1", 54138969): (np.float32(1.5), np.bool_(True), {"a", "b"}, frozenset([1])), "empty": np.empty((0, 24, 3)),
          "objects": np.array([{"pose": np.ones(3)}, [1, 2]], object), "ordered": collections.OrderedDict(a=1),
          "grouped": collections.defaultdict(list, a=[1]), "mutable": bytearray(b"12")}


def write(folder, content):
    path = folder / "file.pkl"
    path.write_bytes(content)
    return path


def assert_same(found, expected):
    if isinstance(expected, np.ndarray):
        assert isinstance(found, np.ndarray) and found.shape == expected.shape
        assert found.dtype.newbyteorder("=") == expected.dtype.newbyteorder("=")  # numpy may turn it round
        if expected.dtype == object:
            expected, found = list(expected), list(found)
        else:
            np.testing.assert_array_equal(found, expected)
            return
    if isinstance(expected, dict):
        assert isinstance(found, dict) and list(found) == list(expected)
        found, expected = list(found.values()), list(expected.values())
    if isinstance(expected, (list, tuple)):
        assert type(found) is type(expected) and len(found) == len(expected)
        for a, b in zip(found, expected, strict=True):
            assert_same(a, b)
    else:
        assert type(found) is type(expected) and found == expected


@pytest.mark.parametrize("protocol", range(6))
def test_arrays_and_containers_come_back(tmp_path, protocol):
    content = pickle.dumps(NESTED, protocol)
    assert_same(read_pickle(write(tmp_path, content)), NESTED)
    assert b"numpy._core" in content  # what follows is the name of numpy 1
    if protocol < 4:  # without lengths of frames and names
        assert_same(read_pickle(write(tmp_path, content.replace(b"numpy._core", b"numpy.core"))), NESTED)


# What Python 2.7 and numpy 1 write for {"x": numpy.array([[1.0, -2.0]])} in protocols 0 and 2, put together by hand from
# the opcodes: strings are 8-bit strings.
PYTHON2_TEXT = (b"(dp0\nS'x'\np1\ncnumpy.core.multiarray\n_reconstruct\np2\n(cnumpy\nndarray\np3\n(I0\ntp4\nS'b'\np5\ntp6\n"
                b"Rp7\n(I1\n(I1\nI2\ntp8\ncnumpy\ndtype\np9\n(S'f8'\np10\nI0\nI1\ntp11\nRp12\n(I3\nS'<'\np13\nNNNI-1\n"
                b"I-1\nI0\ntp14\nbI00\nS'\\x00\\x00\\x00\\x00\\x00\\x00\\xf0?\\x00\\x00\\x00\\x00\\x00\\x00\\x00\\xc0'\np15\ntp16\nbs.")
PYTHON2_BINARY = (b"\x80\x02}q\x00U\x01xq\x01cnumpy.core.multiarray\n_reconstruct\nq\x02cnumpy\nndarray\nq\x03K\x00\x85U\x01b"
                  b"\x87R(K\x01K\x01K\x02\x86cnumpy\ndtype\nU\x02f8K\x00K\x01\x87R(K\x03U\x01<NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
                  b"\x89U\x10\x00\x00\x00\x00\x00\x00\xf0?\x00\x00\x00\x00\x00\x00\x00\xc0tbs.")


@pytest.mark.parametrize("content", [PYTHON2_TEXT, PYTHON2_BINARY])
def test_pickles_of_python_2(tmp_path, content):
    np.testing.assert_array_equal(pickle.loads(content, encoding="latin1")["x"], [[1.0, -2.0]])  # it is what it says
    assert_same(read_pickle(write(tmp_path, content)), {"x": np.array([[1.0, -2.0]])})


def test_real_cameras(real_samples):
    cameras = read_pickle(real_samples / "h36m" / "cameras.pkl")
    assert len(cameras) == 44
    rotation = cameras["S1", "54138969"]["R"]
    np.testing.assert_allclose(rotation @ rotation.T, np.eye(3), atol=1e-6)
    assert cameras["S1", "54138969"]["w"] == 1000 and cameras["S1", "54138969"]["h"] == 1002


class Attack:
    def __init__(self, function, *arguments):
        self._call = function, arguments

    def __reduce__(self):
        return self._call


@pytest.mark.parametrize("protocol", [0, 2, 4])
@pytest.mark.parametrize(("attack", "name"), [
    (Attack(os.system, "touch planted"), r"posix\.system"),
    (Attack(eval, "open('planted', 'w')"), r"builtins\.eval"),
    (Attack(getattr, [], "append"), r"builtins\.getattr"),
    (Attack(pathlib.Path.touch, pathlib.PurePath("planted")), r"(builtins\.getattr|pathlib\.[\w.]+)"),
    (Attack(np.load, "planted"), r"numpy\.load"),
    (Attack(np.zeros, 10), r"numpy\.zeros"),
    (random.Random(1), r"random\.Random"),
    (scipy.sparse.csc_matrix(np.eye(2)), r"scipy\.sparse\._csc\.csc_matrix"),
    (os.path.join, r"posixpath\.join"),
])
def test_other_names_are_refused_before_anything_runs(tmp_path, monkeypatch, attack, name, protocol):
    monkeypatch.chdir(tmp_path)
    path = write(tmp_path, pickle.dumps({"pose": np.zeros(3), "attack": attack}, protocol))
    with pytest.raises(ValueError, match=rf"file\.pkl.*it asks for {name}, which is refused"):
        read_pickle(path)
    assert [file.name for file in tmp_path.iterdir()] == ["file.pkl"]


@pytest.mark.parametrize("content", [
    b"(S'touch planted'\nios\nsystem\n.",  # INST
    b"(cos\nsystem\nS'touch planted'\no.",  # OBJ
    b"\x80\x02cos\nsystem\nU\x0dtouch planted\x85\x81.",  # NEWOBJ
    b"\x80\x04\x8c\x02os\x8c\x06system\x93\x8c\x0dtouch planted\x85R.",  # STACK_GLOBAL
    b"\x80\x04\x8c\x05numpy\x8c\x10ndarray.__init__\x93.",  # a name with a dot leads into the class
    b"\x82\x01.", b"Pplanted\n."])  # extension registry, persistent id
def test_hand_made_attacks_are_refused(tmp_path, monkeypatch, content):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=r"file\.pkl cannot be read as a pickle"):
        read_pickle(write(tmp_path, content))
    assert [file.name for file in tmp_path.iterdir()] == ["file.pkl"]


def dtype_state(order):
    return b"(K\x03U\x01" + order + b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00t"


LITTLE_ENDIAN = dtype_state(b"<")


def array_pickle(dtype=b"U\x02f8", shape=b"K\x01\x85", data=b"U\x08" + bytes(8), state=LITTLE_ENDIAN):
    """A pickle of one array, in which a part can be exchanged."""
    return (b"\x80\x02cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R(K\x01" + shape
            + b"cnumpy\ndtype\n" + dtype + b"K\x00K\x01\x87R" + state + b"b\x89" + data + b"tb.")


def number(layout, value):
    return struct.pack("<" + layout, value)


HUGE = b"\x8a\x08" + number("q", 10**15)
OBJECTS, NO_TEXT = b"U\x02O8", b"U\x02U0"
DEEP = b"N" + b"\x85" * 500_000
TWICE_EACH = b"K\x01q\x00" + b"".join(b"h" + bytes([i]) + b"h" + bytes([i]) + b"\x86q" + bytes([i + 1]) for i in range(60))
AGAIN_AND_AGAIN = (b"\x80\x02](c_codecs\nencode\nX" + number("I", 10_000) + b"a" * 10_000 + b"\x85q\x00R"
                   + b"c_codecs\nencode\nh\x00R" * 1000 + b"e.")
OBJECTS_AGAIN = (b"\x80\x02](](" + b"N" * 1000 + b"eq\x00" + 200 * (
    b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R(K\x01M\xe8\x03\x85cnumpy\ndtype\nU\x02O8"
    b"K\x00K\x01\x87R" + dtype_state(b"|") + b"b\x89h\x00tb") + b"e.")  # 1000 objects, in 200 arrays


@pytest.mark.parametrize(("content", "reason"), [
    (array_pickle(shape=HUGE + b"\x85"), "has 8 bytes"), (array_pickle(shape=b"K\x02\x85"), "has 8 bytes"),
    (array_pickle(shape=b"J\xff\xff\xff\xff\x85"), "has 8 bytes"),
    (array_pickle(dtype=OBJECTS), "content of an array of object"),
    (array_pickle(dtype=b"U\x03V99"), "type 'V99'"), (array_pickle(dtype=b"U\x05f4,f4"), "type 'f4,f4'"),
    (array_pickle(dtype=b"K\x08"), "type 8"), (array_pickle(dtype=OBJECTS, shape=HUGE + b"\x85", data=b"]"), "has 0 bytes"),
    (array_pickle(dtype=NO_TEXT, shape=HUGE + b"\x85", data=b"U\x00"), "has 0 bytes"),
    (array_pickle(state=dtype_state(b"?")), r"byte order '\?'"), (array_pickle(state=b"N"), "TypeError"),
    (array_pickle(data=b"K\x08"), "content of an array of float64 is a int"),
    (b"\x80\x02c__builtin__\nbytearray\n" + HUGE + b"\x85R.", "bytes of a int"),
    (b"\x80\x02c_codecs\nencode\n" + HUGE + b"\x85R.", "bytes of a int"),
    (b"\x80\x05\x96" + number("Q", 10**12) + b".", "a value of 1000000000000 bytes"),  # BYTEARRAY8
    (b"\x80\x04\x8e" + number("Q", 10**12) + b".", "a value of 1000000000000 bytes"),  # BINBYTES8
    (b"\x80\x04\x95" + number("Q", 10**12) + b".", "a value of 1000000000000 bytes"),  # FRAME
    (b"\x80\x02}(" + TWICE_EACH + b"Nu.", "tuple in a key"),  # takes 2**60 steps to hash
    (b"\x80\x02}" + DEEP + b"Ns.", "tuple in a key"),  # overflows the stack
    (b"\x80\x04\x8f(" + DEEP + b"\x90.", "tuple in a key"), (AGAIN_AND_AGAIN, "more bytes of arrays"),
    (OBJECTS_AGAIN, "more bytes of arrays"),
    (b"\x80\x02c__builtin__\nset\nq\x000h\x00b.", "IndexError|sets the state"),
    (b"", "EOFError"), (b"\x80", "struct|index"), (b".", "IndexError"), (b"\xff\xfe\xfd", "KeyError"),
    (b"\x80\x09N.", "unsupported pickle protocol"), (b"I" + b"9" * 10_000 + b"\n.", "integer string conversion")])
def test_absurd_pickles_are_refused_at_once(tmp_path, content, reason):
    with pytest.raises(ValueError, match=rf"file\.pkl cannot be read as a pickle.*({reason})"):
        read_pickle(write(tmp_path, content))


def test_memory_for_remembered_objects_is_not_set_aside(tmp_path):
    content = b"\x80\x02K\x07r" + number("I", 2**32 - 1) + b"0j" + number("I", 2**32 - 1) + b"."  # as the last of 2**32
    assert read_pickle(write(tmp_path, content)) == 7


def test_the_pickle_that_the_absurd_ones_are_made_of_is_read(tmp_path):
    assert_same(read_pickle(write(tmp_path, array_pickle())), np.zeros(1))
    assert_same(read_pickle(write(tmp_path, array_pickle(state=dtype_state(b">"), data=b"U\x08" + struct.pack(">d", 1.5)))),
                np.array([1.5], ">f8"))
    assert np.dtype("f8").isnative  # numpy shares its dtypes among all


def test_deep_nesting_is_read(tmp_path):
    value = read_pickle(write(tmp_path, b"\x80\x02N" + b"\x85" * 200_000 + b"."))
    depth = 0
    while value is not None:
        value, = value
        depth += 1
    assert depth == 200_000


def test_broken_files_are_named(tmp_path):
    generator = random.Random(0)
    for protocol in (0, 2, 5):
        content = pickle.dumps(NESTED, protocol)
        for _ in range(40):
            cut = content[:generator.randrange(len(content))]
            with pytest.raises(ValueError, match=r"file\.pkl cannot be read as a pickle"):
                read_pickle(write(tmp_path, cut))
            changed = bytearray(content)
            changed[generator.randrange(len(content))] ^= generator.randrange(1, 256)
            try:
                read_pickle(write(tmp_path, bytes(changed)))
            except ValueError as error:
                assert "file.pkl cannot be read as a pickle" in str(error)
    with pytest.raises(FileNotFoundError, match=r"other\.pkl is missing\. Get it there\."):
        read_pickle(tmp_path / "other.pkl", "Get it there.")


def model_pickle(protocol):
    """The parts of an SMPL model file that are no plain arrays: a sparse regressor and an array of the chumpy package.

    As Python 2 writes them: with the class of its time, made by copy_reg or NEWOBJ, and the attributes as its state.
    """
    def new_object(module, name):
        if protocol == 2:
            return f"c{module}\n{name}\n".encode() + b")\x81"
        return f"ccopy_reg\n_reconstructor\n(c{module}\n{name}\nc__builtin__\nobject\nNtR".encode()

    def state(**attributes):
        return b"(" + b"".join(pickle.dumps(name, 0)[:-1] + pickle.dumps(value, 0).replace(b"numpy._core", b"numpy.core")[:-1]
                               for name, value in attributes.items()) + b"db"

    # numbers of pickle.dumps are remembered from 0 each time; the parts do not share any
    matrix = state(_shape=(2, 3), data=np.array([1.0, 0.5, 0.5]), indices=np.array([0, 1, 1], np.int32),
                   indptr=np.array([0, 1, 2, 3], np.int32), format="csc", maxprint=50)
    array = state(x=np.arange(4.0).reshape(2, 2), _dirty_vars={"x"}, _itr=None)
    head = b"\x80\x02" if protocol == 2 else b""
    return (head + b"(S'J_regressor'\n" + new_object("scipy.sparse.csc", "csc_matrix") + matrix
            + b"S'shapedirs'\n" + new_object("chumpy.ch", "Ch") + array + b"d.")


@pytest.mark.parametrize("protocol", [0, 2])
def test_body_model_files(tmp_path, protocol):
    path = write(tmp_path, model_pickle(protocol))
    model = read_pickle(path, allow_sparse=True, allow_chumpy=True)
    assert isinstance(model["J_regressor"], scipy.sparse.csc_matrix)
    np.testing.assert_array_equal(model["J_regressor"].toarray(), [[1, 0, 0], [0, 0.5, 0.5]])
    assert isinstance(model["shapedirs"], ChumpyArray)
    np.testing.assert_array_equal(np.asarray(model["shapedirs"]), [[0, 1], [2, 3]])
    np.testing.assert_array_equal(model["shapedirs"].x, [[0, 1], [2, 3]])
    with pytest.raises(ValueError, match=r"asks for scipy\.sparse\.csc\.csc_matrix"):
        read_pickle(path, allow_chumpy=True)
    with pytest.raises(ValueError, match=r"asks for chumpy\.ch\.Ch"):
        read_pickle(path, allow_sparse=True)


@pytest.mark.parametrize("matrix", [scipy.sparse.csc_matrix([[0, 2.0], [1, 0]]), scipy.sparse.csr_matrix(np.eye(3, 2))])
def test_sparse_matrices_of_today(tmp_path, matrix):
    found = read_pickle(write(tmp_path, pickle.dumps(matrix)), allow_sparse=True)
    assert type(found) is type(matrix) and (found != matrix).nnz == 0
    np.testing.assert_array_equal(found @ np.eye(2), matrix.toarray())


def test_sparse_matrices_are_checked(tmp_path):
    matrix = scipy.sparse.csc_matrix(np.eye(3))
    matrix.indices[1] = 10**6  # beyond the last row: products would read and write there
    with pytest.raises(ValueError, match=r"file\.pkl"):
        read_pickle(write(tmp_path, pickle.dumps(matrix)), allow_sparse=True)


def test_numbers_keep_their_type_and_value(tmp_path):
    for value in (math.inf, -0.0, 1e-310, np.float16(0.1), np.complex64(1j), np.int64(-3), np.str_("ab")):
        assert repr(read_pickle(write(tmp_path, pickle.dumps(value)))) == repr(value)
    assert math.isnan(read_pickle(write(tmp_path, pickle.dumps(math.nan))))


def selection(a, idxs, preferred_shape):
    """chumpy's selection from an array, whose state is a table, too."""
    return Call(Name("chumpy.reordering", "Select"), None, {
        "a": a, "idxs": idxs, "preferred_shape": preferred_shape, "_dirty_vars": {"a"}, "_itr": None})


def test_selections_of_chumpy(tmp_path):
    source = np.asfortranarray(np.arange(12.0).reshape(3, 4))
    chumpy = Call(Name("chumpy.ch", "Ch"), None, {"x": source, "_itr": None})
    columns = selection(chumpy, np.array([0, 1, 4, 5, 8, 9]), (3, 2))  # entries are counted row by row
    path = write(tmp_path, dumps({"columns": columns, "plain": selection(source, np.array([11, 2]), (2,)),
                                  "nested": selection(columns, np.array([5, 4]), (1, 2))}, 2))
    found = read_pickle(path, allow_chumpy=True)
    assert all(isinstance(value, ChumpyArray) for value in found.values())
    np.testing.assert_array_equal(np.asarray(found["columns"]), [[0, 1], [4, 5], [8, 9]])
    np.testing.assert_array_equal(found["plain"].x, [11, 2])
    np.testing.assert_array_equal(found["nested"].x, [[9, 8]])
    with pytest.raises(ValueError, match=r"asks for chumpy\.reordering\.Select"):
        read_pickle(path, allow_pandas=True)


ONE = np.zeros(1)
MANY = np.zeros(100_000, np.int8)


@pytest.mark.parametrize(("value", "reason"), [
    (selection(ONE, np.array([1]), (1,)), "IndexError"), (selection(ONE, np.array([0]), (2,)), "reshape"),
    (selection([1.0], np.array([0]), (1,)), "list where an array"), (selection(ONE, [0], (1,)), "list where an array"),
    (Call(Name("chumpy.ch", "Ch"), None, {"a": ONE}), "KeyError"),
    ([selection(ONE, MANY, (100_000,))] * 2, "more bytes of arrays")])
def test_broken_selections_are_refused(tmp_path, value, reason):
    with pytest.raises(ValueError, match=rf"file\.pkl cannot be read as a pickle.*{reason}"):
        read_pickle(write(tmp_path, dumps(value, 2)), allow_chumpy=True)


COLUMNS = {"imgPath": ["a.png", "b.png", "c.png"], "camX": [1.5, -2.0, 0.0], "X": [[1.0], [], [2.0, 3.0]],
           "camYaw": [30, 0, -30], "isValid": [[True], [], [True, False]], "flag": [True, False, True],
           "camY": [0.5, 0.25, 4.0],
           "joints": [[np.eye(3)], [], [np.eye(3), np.ones((2, 3))]], "mixed": [1, 2.5, None]}


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("index", [None, [5, 7, 7]])
def test_data_frames_are_tables_of_lists(tmp_path, version, protocol, index):
    path = write(tmp_path, dumps(data_frame(COLUMNS, version, index), protocol))
    frame = read_pickle(path, allow_pandas=True)
    assert isinstance(frame, DataFrame)
    assert_same(dict(frame), COLUMNS)
    with pytest.raises(ValueError, match=r"asks for pandas\.core\.frame\.DataFrame, which is refused"):
        read_pickle(path, allow_chumpy=True, allow_sparse=True)


@pytest.mark.parametrize("protocol", [3, 4, 5])
def test_large_arrays_can_be_skipped(tmp_path, protocol):
    frame = data_frame({"small": [[np.eye(3)]], "large": [[np.ones((200, 3)), np.ones((200, 3), np.float32)]]}, "1.2")
    path = write(tmp_path, dumps(frame, protocol))
    found = read_pickle(path, allow_pandas=True, skip_above=2000)
    np.testing.assert_array_equal(found["small"][0][0], np.eye(3))
    assert [array.size for array in found["large"][0]] == [0, 0]
    found = read_pickle(path, allow_pandas=True, skip_above=2400)
    assert [array.shape for array in found["large"][0]] == [(0,), (200, 3)]


def manager(blocks, names, rows):
    index, kind = Name("pandas.core.indexes.base", "_new_Index"), Name("pandas.core.indexes.base", "Index")
    axes = [Call(index, (kind, {"data": labels, "name": None})) if isinstance(labels, np.ndarray) else labels
            for labels in (names, rows)]
    calls = tuple(Call(Name("pandas._libs.internals", "_unpickle_block"), (*block, 2)) for block in blocks)
    return Call(Name("pandas.core.internals.managers", "BlockManager"), (calls, axes))


def frame_of(blocks, names, rows):
    return Call(Name("pandas.core.frame", "DataFrame"), None, {"_mgr": manager(blocks, names, rows)})


TWO, AB = np.zeros((2, 3)), np.array(["a", "b"])
FIRST_TWO = Call(Name("builtins", "slice"), (0, 2, 1))
HUGE_SLICE = Call(Name("builtins", "slice"), (0, 10**15, 1))
HUGE_RANGE = Call(Name("pandas.core.indexes.base", "_new_Index"), (
    Name("pandas.core.indexes.range", "RangeIndex"), {"start": 0, "stop": 10**15, "step": 1}))
THREE_ROWS = np.arange(3)
SAME = manager([(MANY.reshape(1, -1), np.array([0]))], np.array(["a"]), MANY)


@pytest.mark.parametrize(("value", "reason"), [
    (frame_of([(TWO, np.array([0]))], AB, THREE_ROWS), "longer"),
    (frame_of([(TWO, np.array([0, 0]))], AB, THREE_ROWS), "once"),
    (frame_of([(TWO, np.array([0, 2]))], AB, THREE_ROWS), "expected each once"),
    (frame_of([(TWO, np.array([0, -1]))], AB, THREE_ROWS), "expected each once"),
    (frame_of([(TWO, FIRST_TWO)], np.array(["a", "a"]), THREE_ROWS), "expected each once"),
    (frame_of([(TWO, FIRST_TWO)] * 2, AB, THREE_ROWS), r"blocks of shapes"),
    (frame_of([(TWO, FIRST_TWO)], AB, np.arange(4)), r"2 columns and 4 rows has blocks of shapes \[\(2, 3\)\]"),
    (frame_of([(TWO, HUGE_SLICE)], HUGE_RANGE, THREE_ROWS), "blocks of shapes"),
    (frame_of([(TWO, FIRST_TWO)], AB, HUGE_RANGE), "blocks of shapes"),
    (frame_of([(TWO, 7)], AB, THREE_ROWS), "int where an array"),
    (frame_of([([[1]], FIRST_TWO)], AB, THREE_ROWS), "list where an array"),
    (frame_of([(TWO, FIRST_TWO)], ["a", "b"], THREE_ROWS), "list where an array"),
    (frame_of([(TWO, FIRST_TWO)], np.array([["a"], ["b"]]), THREE_ROWS), "list in a key"),
    ([Call(Name("pandas.core.frame", "DataFrame"), None, {"_mgr": SAME}) for _ in range(9)], "more bytes of arrays"),
    (Call(Name("pandas.core.frame", "DataFrame"), None, {}), "KeyError"),
    (Call(Name("pandas.core.indexes.base", "_new_Index"), (Name("pandas.core.frame", "DataFrame"), {})), "labels of type"),
    (Call(Name("functools", "partial"), (Name("builtins", "slice"),)), "functools.partial of another function"),
    (Call(Name("functools", "partial"), (Name("os", "system"), "touch planted")), r"os\.system, which is refused"),
    (Call(Name("pandas.core.frame", "DataFrame"), None, {"_mgr": Call(Name("os", "system"), ("touch planted",))}),
     r"os\.system"),
    (Call(Name("pandas.io.pickle", "read_pickle"), ("planted",)), r"pandas\.io\.pickle\.read_pickle, which is refused"),
    (Call(Name("pandas.core.internals.blocks", "new_block"), (TWO,)), "not callable"),
    (Call(Name("pandas.core.frame", "DataFrame"), (COLUMNS,)), "not callable"),
])
def test_broken_and_hostile_data_frames_are_refused(tmp_path, monkeypatch, value, reason):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=rf"file\.pkl cannot be read as a pickle.*({reason})"):
        read_pickle(write(tmp_path, dumps(value)), allow_pandas=True)
    assert [file.name for file in tmp_path.iterdir()] == ["file.pkl"]


def test_cut_data_frames_are_named(tmp_path):
    content = dumps(data_frame(COLUMNS, "1.2"))
    for length in range(0, len(content), 37):
        with pytest.raises(ValueError, match=r"file\.pkl cannot be read as a pickle"):
            read_pickle(write(tmp_path, content[:length]), allow_pandas=True)
