"""An open file whose writes a test can see, stop or cut short."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


class Watched:
    """An open file whose ``write`` is replaced by a function of the file and the content."""

    def __init__(self, file: Any, write: Callable[[Any, Any], Any]) -> None:
        self.file = file
        self._write = write

    def write(self, content: Any) -> Any:
        return self._write(self.file, content)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.file, name)

    def __enter__(self) -> Watched:
        return self

    def __exit__(self, *error: object) -> None:
        self.file.close()
