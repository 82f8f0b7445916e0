"""Faults in what PyTorch writes: pickles, and the zip archives around them."""

import io
import pickle
import pickletools
import warnings
import zipfile
from typing import Any

from hypothesis import strategies as st

from tests.fuzz.faults import Draw, faulty_bytes

_OPCODES = (
    *(
        b"cos\nsystem\n(S'true'\ntR",
        b"cbuiltins\neval\n(S'1'\ntR",
        b"ctorch\nload\n",
        b"c\n\n",
        b"cos\n",
    ),
    *(
        b"\x8d" + b"\xff" * 8,
        b"\x8a\xff" + b"\1" * 255,
        b"\x8b\xff\xff\xff\x7f",
        b"B\xff\xff\xff\xff",
    ),
    *(
        b"\x8e\xff\xff\xff\xff\x7f\0\0\0",
        b"r\xff\xff\xff\x7f",
        b"j\xff\xff\xff\x7f",
        b"R",
        b"b",
        b".",
    ),
    *(
        b"0",
        b"1",
        b"2",
        b"(",
        b"t",
        b"u",
        b"s",
        b"e",
        b"Q",
        b"P1\n",
        b"h\xfe",
        b"\x93",
        b"\x81",
        b"o",
    ),
    *(
        b"I" + b"9" * 5000 + b"\n",
        b"L" + b"9" * 5000 + b"L\n",
        b"F1e999\n",
        b"Snot quoted\n",
        b"V\\ud800\n",
    ),
    *(
        b"]" * 5000,
        b"(" * 5000,
        b"(" * 3000 + b"t" * 3000,
        b"N",
        b"K\0",
        b"J\xff\xff\xff\xff",
        b"\x95" + b"\xff" * 8,
    ),
    *(
        b"}" + b"K\1N" * 3 + b"s",
        b"\x80\xff",
        b"\x82\1",
        b"\x97",
        b"\x98",
        b"i__main__\nx\n",
        b"}q\0h\0h\0s",
    ),
    *(b"ccollections\nOrderedDict\n)R", b"ctorch._utils\n_rebuild_tensor_v2\n)R", b"]q\0h\0a"),
)


def faulty_zip(draw: Draw, content: bytes) -> bytes:
    """The members again, one of them with faults, or as much as a small file can unfold into."""
    with zipfile.ZipFile(io.BytesIO(content)) as old:
        members = [(info, old.read(info)) for info in old.infolist()]
    place = draw(st.integers(0, len(members) - 1))
    if draw(st.booleans()):
        (place,) = (n for n, (info, _) in enumerate(members) if info.filename.endswith("data.pkl"))
    info, data = members[place]
    what = draw(
        st.sampled_from(
            ("meaning", "meaning", "meaning", "bytes", "zeros", "gone", "twice", "name")
        )
    )
    if what == "zeros":
        members[place] = info, b"\0" * draw(st.sampled_from((*(10**7,) * 7, 6 * 10**8)))
    elif what == "gone":
        del members[place]
    elif what == "twice":
        members.append(members[place])
    elif what == "name":
        info.filename = draw(
            st.sampled_from(("../x", "/x", "x" * 60_000, "", "archive/data/\x1b[m"))
        )
    elif what == "meaning" and info.filename.endswith(".pkl"):
        members[place] = info, faulty_pickle(draw, data)
    else:
        members[place] = info, faulty_bytes(draw, data)
    made = io.BytesIO()
    is_packed = what == "zeros" or draw(st.booleans())
    kind = zipfile.ZIP_DEFLATED if is_packed else zipfile.ZIP_STORED
    # It warns of a name that comes twice.
    with warnings.catch_warnings(action="ignore"), zipfile.ZipFile(made, "w") as new:
        for info, data in members:
            new.writestr(zipfile.ZipInfo(info.filename), data, kind, 1)
    return made.getvalue()


def faulty_pickle(draw: Draw, content: bytes) -> bytes:
    """Another operation somewhere between those that are there, or in place of some bytes."""
    starts = [place for _, _, place in _operations(content)] or [0]
    for _ in range(draw(st.integers(1, 3))):
        place = draw(st.sampled_from(starts))
        operation = draw(st.sampled_from(_OPCODES))
        dropped = draw(st.sampled_from((0, 0, 0, 1, len(operation))))
        content = content[:place] + operation + content[place + dropped :]
    if draw(st.integers(0, 9)) == 0:
        return pickle.dumps(draw(_objects()), protocol=draw(st.integers(0, 5)))
    return content


def _operations(content: bytes) -> list[tuple[Any, Any, int]]:
    found = []
    try:
        for operation in pickletools.genops(content):
            found.append((operation[0], operation[1], operation[2] or 0))
    except ValueError:
        pass  # one of an older fault
    return found


def _objects() -> st.SearchStrategy[Any]:
    leaves = st.one_of(
        st.none(), st.integers(), st.floats(), st.text(max_size=5), st.binary(max_size=5)
    )
    return st.one_of(
        leaves,
        st.lists(leaves, max_size=4),
        st.dictionaries(st.text(max_size=9), st.one_of(leaves, st.lists(leaves)), max_size=4),
    )
