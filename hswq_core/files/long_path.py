"""Windows takes paths of 260 characters and more only in a form of their own, which turns off its other rules.

https://learn.microsoft.com/windows/win32/fileio/maximum-file-path-limitation
"""

from __future__ import annotations

import ntpath
import os
from pathlib import Path

_LONG = 200
"""Of 260: temporary files have longer names."""
_EXTENDED, _DEVICE, _SHARE = "\\\\?\\", "\\\\.\\", "\\\\"


def long_path(path: Path) -> Path:
    """The path as the system opens it, however long; elsewhere than on Windows it is as it was."""
    return Path(extended_path(os.path.abspath(path))) if os.name == "nt" else path


def extended_path(path: str) -> str:
    """An absolute path of Windows in the form that has no limit, if it needs it."""
    path = path if path.startswith((_EXTENDED, _DEVICE)) else ntpath.normpath(path)
    if len(path) < _LONG or path.startswith((_EXTENDED, _DEVICE)):
        return path
    return f"{_EXTENDED}UNC\\{path[2:]}" if path.startswith(_SHARE) else _EXTENDED + path
