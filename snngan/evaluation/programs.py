"""Networks in files of ``torch.export`` and TorchScript: content that could run as Python or access files is refused.

Both formats hold a program, and torch's loaders unpickle, evaluate and link what they find in a file of the first. So
only the entries of a plain export are copied, each checked, into a new archive, which torch then loads.
"""

from __future__ import annotations

import io
import json
import re
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from snngan.files import check_regular
from snngan.memory import check_available
from snngan.tensors import pack_tensors, read_tensors

_EXPORTED = re.compile(
    r"models/\w+\.json|data/(weights|constants)/(\w+_config\.json|(weight|tensor)_\d+|model\.pt)|data/sample_inputs/\w+\.pt"
    r"|archive_format|archive_version|byteorder|version|\.data/\w+|\.format_version|\.storage_alignment"
)
"""What a plain export holds; others are compiled libraries, objects and files of any kind."""
_EXPRESSION = re.compile(
    r"(?:[\s\d+\-*/(),=<>&|~.]|'[suz]\d+'|\b(?:[suz]\d+|Symbol|positive|nonnegative|integer|True|False|Max|Min|Mod|PythonMod|"
    r"FloorDiv|CleanDiv|CeilDiv|Pow|Eq|Ne|Lt|Le|Gt|Ge|And|Or|Not|Integer|Rational|oo|int_oo)\b)*"
)
"""Sizes as formulas; torch evaluates them as Python."""
_OPERATOR = re.compile(
    r"torch\.ops\.aten\.(?!from_file|_?save|_?load)\w+\.\w+|torch\.ops\.higher_order\.\w+|_operator\.\w+|math\.\w+"
    r"|torch\.sym_\w+|(?!torch|_operator|math)[\w./-]*"
)
"""What a node may call; the last are names of parameters, buffers and constants."""
_TOUCHES_FILES = re.compile(
    r"\b(_?save|_?load|from_file)\b|getattr\([^)]*\\|(?<![\w.])ops\b(?!\.(prim|aten)\.)|\bimport\b"
)
"""Words of TorchScript that reads or writes files, or calls operators of other packages: networks do without."""


def checked_program(path: Path) -> io.BytesIO:
    """Return the network in the file ``path`` as an archive that holds nothing but what was checked.

    Raises:
        ValueError: it is not such an archive, or holds content that could run as Python, access files or be linked.
    """
    check_regular(path)
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
            size = 3 * sum(entry.file_size for entry in entries)  # as it is read, copied and loaded
            check_available(size, "it", "a smaller network")
            if len({entry.filename.lower() for entry in entries}) < len(entries):  # torch looks for names in any case
                raise ValueError("two entries have one name")
            parts = {entry.filename: archive.read(entry) for entry in entries}
    except Exception as error:  # a damaged archive fails in many ways
        raise ValueError(f"it is not a readable archive: {error}") from error
    check = _check_exported if path.suffix == ".pt2" else _check_script
    checked = io.BytesIO()
    with zipfile.ZipFile(checked, "w") as archive:
        for name, content in parts.items():
            archive.writestr(name, check(name.partition("/")[2].lower(), content))
    checked.seek(0)
    return checked


def _check_exported(name: str, content: bytes) -> bytes:
    """Return the content of an entry for the new archive; pickles are replaced by what was read from them."""
    if not _EXPORTED.fullmatch(name):
        raise ValueError(f"it holds {name}, which does not belong to a plain export")
    if name.endswith(".pt"):
        return bytes(pack_tensors(read_tensors(content)))
    if name.endswith(".json"):
        document = json.loads(content.decode())
        for key, value in _walk(document):
            if (
                (key in ("use_pickle", "guards_code") and value)
                or (key == "expr_str" and not _is_formula(value))
                or (key == "target" and not (isinstance(value, str) and _OPERATOR.fullmatch(value)))
            ):
                raise ValueError(f"its {name} has {key} {str(value)[:60]!r}, which could run anything")
        return json.dumps(document).encode()
    return content


def _is_formula(text: Any) -> bool:
    """Return whether a text is a formula of sizes that is cheap to evaluate."""
    if not isinstance(text, str) or len(text) > 500 or not _EXPRESSION.fullmatch(text):
        return False
    return len(re.findall(r"\*\*|Pow", text)) < 2 and not re.search(r"\d{10}", text)


def _check_script(name: str, content: bytes) -> bytes:
    if name.startswith("code/") and name.endswith(".py"):
        found = _TOUCHES_FILES.search(content.decode())
        if found:
            raise ValueError(f"its {name} calls {found[0]}")
    elif name.endswith((".so", ".dll", ".dylib")):
        raise ValueError(f"it holds the library {name}")
    return content


def _walk(value: Any, key: str = "") -> Iterator[tuple[str, Any]]:
    """Yield every value of a JSON document, at any depth, with its key."""
    waiting = [(key, value)]
    while waiting:
        key, value = waiting.pop()
        yield key, value
        if isinstance(value, dict):
            waiting += value.items()
        elif isinstance(value, list):
            waiting += ((key, each) for each in value)
