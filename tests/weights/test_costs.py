"""What a hostile weight file can cost: a child process with limits reads it, and ends with one sentence."""

from __future__ import annotations

import pickle
import random
import struct
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from ghostzoo.errors import WeightsError
from ghostzoo.network.architecture import Architecture
from ghostzoo.weights.params import read_weights
from ghostzoo.weights.pickle_data import UnsafePickleError, load_pickle_data
from tests.fixtures.limited import run_limited
from tests.fixtures.networks import random_arrays

pytestmark = pytest.mark.slow

READ = """
import sys
from pathlib import Path
from ghostzoo.errors import WeightsError
from ghostzoo.weights.params import read_weights
try:
    read_weights(sys.argv[1])
except WeightsError as error:
    print(error)
"""

SIZE = 1_600_000


def put(index: int) -> bytes:
    return b"r" + struct.pack("<I", index)


def get(index: int) -> bytes:
    return b"j" + struct.pack("<I", index)


def text(value: str) -> bytes:
    data = value.encode()
    return b"X" + struct.pack("<I", len(data)) + data


def padded(program: bytes, size: int = SIZE) -> bytes:
    """Put bytes that make the file larger, and so what it may cost, before a program that leaves one object."""
    return b"\x80\x02(B" + struct.pack("<I", size) + bytes(size) + program + b"l."


def calls(function: bytes, argument: bytes, times: int) -> bytes:
    """A list of ``times`` results of calling ``function`` with one argument; a call takes five bytes of the file."""
    call = b"h\x00h\x01R"
    return b"](c" + function + b"q\x00" + argument + b"\x85q\x01R" + call * (times - 1) + b"e"


DICT = b"}(" + b"".join(text(chr(0x4E00 + index) + "a") + b"N" for index in range(5_000)) + b"u"
"""Its keys have two letters, so each is a pair where a dict is made of whatever can be iterated."""
PAIRS = b"](" + b"".join(text(f"{index:05}") + b"N\x86" for index in range(1_000)) + b"e"
ORDERED_DICT = b"collections\nOrderedDict\n"
ARRAY = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85C\x01b\x87R"
FLOAT32 = b"cnumpy\ndtype\nX\x02\x00\x00\x00f4\x85R"


def arrays_of_one_buffer(times: int) -> bytes:
    argument = b"(C\x08" + bytes(8) + FLOAT32 + b"K\x02\x85" + text("C") + b"tq\x01"
    return b"](cnumpy.core.numeric\n_frombuffer\nq\x00" + argument + b"R" + b"h\x00h\x01R" * times + b"e"


def array_filled_again(places: int, copies: int) -> bytes:
    """Copies of one unfinished array, each filled; a filled one is put wherever the unfinished one was kept."""
    parts = b"K\x02\x85q\x00" + FLOAT32 + b"q\x01C\x08" + bytes(8) + b"q\x02"
    unfinished = ARRAY + b"".join(put(index) for index in range(3, places))
    # What stands first in the state is not looked at: it is the copy that was filled before.
    return b"\x80\x04(" + parts + unfinished + b"h\x03(" * copies + b"N" + b"h\x00h\x01\x89h\x02tb" * copies + b"l."


PAIRS_OF_NONE = "not a list of pairs"
TOO_MUCH = "far more of its contents than the file holds"
HOSTILE = {
    "a dict made of a dict": (padded(calls(ORDERED_DICT, DICT, 30_000)), PAIRS_OF_NONE),
    "a dict made of texts": (padded(calls(ORDERED_DICT, b"]" + text("ab") + b"a", 100_000)), PAIRS_OF_NONE),
    "dicts of one list, with padding": (padded(calls(ORDERED_DICT, PAIRS, 24_000), 24_000_000), TOO_MUCH),
    "empty dicts": (padded(b"](" + b"}" * 900_000 + b"e"), TOO_MUCH),
    "dicts of one entry": (padded(b"](" + (b"}" + text("a") + b"Ns") * 200_000 + b"e"), TOO_MUCH),
    "lists of one entry": (padded(b"](" + b"]Na" * 300_000 + b"e"), TOO_MUCH),
    "arrays of one buffer": (padded(arrays_of_one_buffer(300_000)), TOO_MUCH),
    "numbers in the memo with one hash": (
        b"(N" + b"".join(b"p%d\n" % (number * (2**61 - 1)) for number in range(80_000)) + b"l.",
        "a number in its memo",
    ),
    "an array filled again and again": (array_filled_again(200_000, 80_000), "its contents twice"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_file_is_refused_for_little(name: str, tmp_path: Path) -> None:
    path = tmp_path / "weights.pdparams"
    data, reason = HOSTILE[name]
    path.write_bytes(data)
    ended = run_limited(READ, path, memory_mb=512, seconds=60)
    assert (ended.returncode, ended.stderr) == (0, "")
    assert ended.stdout.count("\n") == 1
    assert ended.stdout.startswith(str(path))
    assert reason in ended.stdout


def test_text_of_four_bytes_a_letter_is_counted_as_such() -> None:
    machine_readable = text("a" * 20_000_000 + "\U0001f47b")
    with pytest.raises(UnsafePickleError, match=TOO_MUCH):
        load_pickle_data(b"\x80\x02" + machine_readable + b".")


def test_a_file_beyond_the_memory_is_told_in_one_sentence(tmp_path: Path) -> None:
    path = tmp_path / "weights.pdparams"
    path.write_bytes(pickle.dumps({"fc_1.weight": np.ones((50_000_000,), np.float16)}, 4))
    ended = run_limited(READ, path, memory_mb=400, seconds=60)
    assert (ended.returncode, ended.stderr) == (0, "")
    assert ended.stdout == f"{path} takes more memory than there is; is it a GhostNet weight file?\n"


def test_memory_that_ends_while_a_file_is_read_is_told(tmp_path: Path) -> None:
    resource = pytest.importorskip("resource", reason="resource, which bounds memory, is for POSIX systems")
    statm = Path("/proc/self/statm")
    if not statm.exists():
        pytest.skip("there is no /proc/self/statm, which tells what memory this process has")
    path = tmp_path / "weights.pdparams"
    with path.open("wb") as file:
        file.truncate(128 * 2**20)  # sparse
    before = resource.getrlimit(resource.RLIMIT_AS)
    now = int(statm.read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (now + 64 * 2**20, before[1]))
    try:
        with pytest.raises(WeightsError, match="takes more memory than there is"):
            read_weights(path)
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


@pytest.mark.parametrize("protocol", range(6))
def test_an_honest_file_takes_little_more_than_its_size(protocol: int) -> None:
    """What instructions make, besides the file itself: at most its arrays twice, as text and as bytes."""
    data = pickle.dumps(random_arrays(Architecture.of(0.5, 1000)), protocol)
    tracemalloc.start()
    try:
        load_pickle_data(data)
        assert tracemalloc.get_traced_memory()[1] < 2.5 * len(data)
    finally:
        tracemalloc.stop()


# Programs of admitted instructions, made by a grammar

FUZZ = """
import random, sys
from ghostzoo.weights.pickle_data import DamagedPickleError, UnsafePickleError, load_pickle_data
from tests.weights.test_costs import any_program
for seed in range(int(sys.argv[1]), int(sys.argv[2])):
    program = any_program(random.Random(seed))
    try:
        load_pickle_data(program)
    except (DamagedPickleError, UnsafePickleError) as error:
        assert len(str(error)) < 1000
    except BaseException:
        print(seed, program)
        raise
"""


def any_program(rng: random.Random) -> bytes:
    """A pickle of valid instructions whose operands mostly fit; some are replaced, repeated or left out."""
    parts = [b"\x80\x04", *_value(rng, 4)]
    for _ in range(rng.choice((0, 0, 1, 3))):
        place, start = rng.randrange(len(parts)), rng.randrange(len(parts))
        kind = rng.randrange(4)
        if kind == 0:
            del parts[place:]
            parts += _value(rng, 2)
        elif kind == 1:
            parts[place:place] = _value(rng, 2)
        elif kind == 2:
            parts[place:place] = [parts[start]] * rng.choice((1, 2, 1000))
        else:
            parts[place:place] = parts[start : start + 10] * rng.choice((1, 50))
    return b"".join(parts) + b"."


_LEAVES = [
    *(b"N", b"\x88", b"\x89", b")", b"]", b"}", b"K\x00", b"K\x02", b"J\xff\xff\xff\xff", b"\x8a\x02\xff\x7f"),
    *(b"G" + struct.pack(">d", 1.5), b"U\x02f4", b"X\x01\x00\x00\x00a", b"\x8c\x02\xc3\xbc", b"C\x08" + bytes(8)),
    *(b"h\x00", b"h\x01", b"j\x02\x00\x00\x00", b"I7\n", b"L7L\n", b"F0.5\n", b"S'ab'\n", b"g1\n", b"Vlatin1\n"),
    *(b"cnumpy\nndarray\n", b"cnumpy\ndtype\n", b"ccollections\nOrderedDict\n", b"cbuiltins\ntuple\n"),
]
_FUNCTIONS = [
    *(b"cnumpy.core.multiarray\n_reconstruct\n", b"cnumpy.core.numeric\n_frombuffer\n", b"cnumpy\nndarray\n"),
    *(b"ccollections\nOrderedDict\n", b"cbuiltins\ntuple\n", b"cbuiltins\nbytes\n", b"c_codecs\nencode\n"),
    b"cnumpy\ndtype\n",
]


def _value(rng: random.Random, depth: int) -> list[bytes]:
    kind = rng.randrange(9) if depth else 0
    values = [part for _ in range(rng.randrange(4)) for part in _value(rng, depth - 1)] if kind else []
    if kind in (1, 2):
        made = [b"(", *values, rng.choice((b"t", b"l"))]
    elif kind == 3:
        made = [b"]", b"(", *values, b"e"]
    elif kind == 4:
        items = [part for name in b"abc"[: rng.randrange(4)] for part in (b"U\x01%c" % name, *_value(rng, depth - 1))]
        made = [b"}", b"(", *items, b"u"]
    elif kind == 5:
        pairs = [part for name in b"abc" for part in (b"U\x01%c" % name, *_value(rng, depth - 1), b"\x86")]
        made = [b"ccollections\nOrderedDict\n", b"](", *pairs, b"e", b"\x85", b"R"]
    elif kind == 6:
        made = [rng.choice(_FUNCTIONS), b"(", *values, b"t", b"R"]
    elif kind == 7:
        made = [ARRAY, b"q\x00", b"(", b"K\x01", b"K\x02\x85", FLOAT32, b"\x89", b"C\x08" + bytes(8), b"t", b"b"]
    else:
        made = [rng.choice(_LEAVES)]
    return made + [rng.choice((b"\x94", b"q\x00", b"q\x01", b"r\x02\x00\x00\x00", b"p1\n"))] * (rng.random() < 0.3)


def test_any_program_of_a_grammar_is_data_or_refused() -> None:
    ended = run_limited(FUZZ, "0", "1500", memory_mb=1024, seconds=120)
    assert (ended.returncode, ended.stdout) == (0, ""), ended.stderr
