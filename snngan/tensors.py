"""Archives of ``torch.save``: written, and read as plain values and CPU tensors without running code in them."""

from __future__ import annotations

import io
import math
import pickle
import pickletools
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any, ClassVar

if TYPE_CHECKING:
    from torch import Tensor

_IMPORTING = frozenset({"GLOBAL", "STACK_GLOBAL", "INST", "EXT1", "EXT2", "EXT4"})
"""Pickle instructions that import something."""
_READ = (
    "PROTO STOP MARK NONE NEWTRUE NEWFALSE BININT BININT1 BININT2 LONG1 BINFLOAT BINUNICODE EMPTY_DICT EMPTY_LIST "
    "EMPTY_TUPLE TUPLE TUPLE1 TUPLE2 TUPLE3 APPEND APPENDS SETITEM SETITEMS BINPUT LONG_BINPUT BINGET LONG_BINGET "
    "BINPERSID GLOBAL"
)
"""Pickle instructions that ``torch.save`` writes."""
_DTYPES = {
    f"{name}Storage": dtype
    for name, dtype in (
        ("Float", "float32"), ("Double", "float64"), ("Half", "float16"), ("BFloat16", "bfloat16"), ("Byte", "uint8"),
        ("Char", "int8"), ("Short", "int16"), ("Int", "int32"), ("Long", "int64"), ("Bool", "bool"),
    )
}  # fmt: skip
_REBUILD = "torch._utils _rebuild_tensor_v2"
_PARAMETER = "torch._utils _rebuild_parameter"
_NAMES = frozenset({"collections OrderedDict", _REBUILD, _PARAMETER, *(f"torch {name}" for name in _DTYPES)})
"""Names that a file of tensors imports, as written in a pickle."""


class PickledCodeError(ValueError):
    """A file would import something that tensors do not need: ``args[0]`` is its name."""


def pack_tensors(value: Any) -> memoryview:
    """Return the archive that ``torch.save`` writes of tensors and plain values in dicts and lists."""
    import torch

    buffer = io.BytesIO()
    torch.save(value, buffer)
    return buffer.getbuffer()


def read_tensors(content: bytes) -> Any:
    """Return the plain values and CPU tensors that ``torch.save`` wrote, without running code in the archive.

    Unlike ``torch.load(weights_only=True)`` it refuses compressed entries, and storages and shapes with more elements
    than are stored, so that memory is bounded by the size of the file.

    Raises:
        PickledCodeError: it would import something that tensors do not need.
        ValueError: it is damaged, or another kind of file.
    """
    try:
        return _read_tensors(content)
    except PickledCodeError:
        raise
    except Exception as error:  # hostile content fails in many ways, MemoryError and RecursionError among them
        raise ValueError(
            f"it is not a file of tensors ({type(error).__name__}: {' '.join(str(error).split())})"
        ) from error


def _read_tensors(content: bytes) -> Any:
    if not content.startswith(b"PK\3\4"):
        stream = io.BytesIO(content)
        while stream.tell() < len(content):  # torch's old format is several pickles in a row
            _refuse_code(stream)
        raise ValueError("not an archive of torch.save")
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        entries = {PurePosixPath(entry.filename): entry for entry in archive.infolist()}
        if len(entries) < len(archive.infolist()) or any(each.compress_type for each in archive.infolist()):
            raise ValueError("compressed entries, or two of one name")
        if sum(each.file_size for each in archive.infolist()) > len(content):
            raise ValueError("entries that overlap")
        (head,) = (name for name in entries if name.name == "data.pkl")
        order = entries.get(head.parent / "byteorder")
        if order is not None and archive.read(order) != b"little":
            raise ValueError("numbers in another byte order")
        pickled = archive.read(entries[head])
        _refuse_code(io.BytesIO(pickled))
        value = _Reader(pickled, lambda key: archive.read(entries[head.parent / "data" / key])).load()
        _check_unfolded(value, 2 * len(pickled))
        return value


def _check_unfolded(value: Any, most: int) -> None:
    """Raise ``ValueError`` if walking ``value`` visits more than ``most`` values, because parts are used repeatedly."""
    waiting = [value]
    while waiting:
        each = waiting.pop()
        parts = each.values() if isinstance(each, dict) else each if isinstance(each, list | tuple) else ()
        most -= 1 + len(parts)
        if most < 0:
            raise ValueError("values that are repeated too often")
        waiting += parts


def _refuse_code(stream: io.BytesIO) -> None:
    """Read over one pickle; raises ``PickledCodeError`` for what it would import, ``ValueError`` if it is damaged."""
    for code, argument, _ in pickletools.genops(stream):
        if code.name in _IMPORTING and not (code.name == "GLOBAL" and argument in _NAMES):
            raise PickledCodeError(str(argument or code.name))


class _Reader(pickle._Unpickler):
    """The standard library's unpickler in Python, restricted to the instructions of ``_READ``.

    The one in C would allocate as many values as an instruction declares.
    """

    stack: list[Any]
    dispatch: ClassVar[dict[int, Callable[..., None]]] = {
        code: pickle._Unpickler.dispatch[code] for code in (getattr(pickle, name)[0] for name in _READ.split())
    }

    def __init__(self, pickled: bytes, record: Callable[[str], bytes]) -> None:
        super().__init__(io.BytesIO(pickled))
        self._record = record
        self._storages: dict[str, Tensor] = {}

    def find_class(self, module: str, name: str) -> Any:
        if f"{module} {name}" == _REBUILD:
            return _rebuild
        if f"{module} {name}" == _PARAMETER:
            return _parameter
        if (module, name) == ("collections", "OrderedDict"):
            return OrderedDict
        import torch

        return getattr(torch, _DTYPES[name])  # _refuse_code has checked the name

    def persistent_load(self, pid: Any) -> Tensor:
        """Return a storage's elements (n,)."""
        import torch

        kind, dtype, key, _, count = pid
        if kind != "storage" or not isinstance(dtype, torch.dtype) or type(key) is not str or not key.isdigit():
            raise ValueError("an unknown kind of storage")
        if key not in self._storages:
            record = self._record(key)
            self._storages[key] = torch.frombuffer(bytearray(record), dtype=dtype) if record else torch.empty(0)
            self._storages[key] = self._storages[key].to(dtype)
        found = self._storages[key]
        if type(count) is not int or found.dtype != dtype or found.numel() != count:
            raise ValueError(f"storage {key} does not hold the {found.numel()} elements it has")
        return found

    def _load_reduce(self) -> None:
        arguments = self.stack.pop()
        called = self.stack[-1]
        if called not in (_rebuild, _parameter, OrderedDict) or type(arguments) is not tuple:
            raise ValueError("a call of something else")
        if called is OrderedDict and arguments:
            raise ValueError("a call of something else")
        self.stack[-1] = self.stack[-1](*arguments)

    def _load_build(self) -> None:
        state = self.stack.pop()
        if type(self.stack[-1]) is not OrderedDict or type(state) is not dict or set(state) - {"_metadata"}:
            raise ValueError("attributes of something else")
        self.stack[-1].__dict__.update(state)

    def _load_setitems(self) -> None:
        items = self.pop_mark()  # type: ignore[attr-defined]
        self._set(items)

    def _load_setitem(self) -> None:
        value, key = self.stack.pop(), self.stack.pop()
        self._set([key, value])

    def _set(self, items: list[Any]) -> None:
        if not isinstance(self.stack[-1], dict) or any(type(key) not in (str, int) for key in items[::2]):
            raise ValueError("keys that are not strings or integers")
        self.stack[-1].update(zip(items[::2], items[1::2], strict=True))

    dispatch[pickle.SETITEM[0]] = _load_setitem
    dispatch[pickle.SETITEMS[0]] = _load_setitems
    dispatch[pickle.REDUCE[0]] = _load_reduce
    dispatch[pickle.BUILD[0]] = _load_build


def _rebuild(storage: Tensor, offset: int, size: tuple[int, ...], stride: tuple[int, ...], *rest: Any) -> Tensor:
    """Return a view of a storage's elements as a tensor."""
    if len(size) > 64 or any(type(each) is not int for each in (*size, *stride, offset)):
        raise ValueError("a shape that is not of integers")
    if math.prod(size) > storage.numel() or min(*size, *stride, offset, 0) < 0:
        raise ValueError(f"shape {size} of {storage.numel()} elements")
    return storage.as_strided(size, stride, offset)


def _parameter(values: Tensor, *rest: Any) -> Tensor:
    """Return a saved parameter without gradient: torch 2.8 does not accept plain tensors as those of an export."""
    from torch import nn

    return nn.Parameter(values, requires_grad=False)
