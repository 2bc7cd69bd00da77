"""Whether a folder can be written, asked before the hours whose result goes there."""

from __future__ import annotations

import tempfile
from pathlib import Path

from ..errors import TargetError
from .long_path import long_path


def writable_folder(folder: Path) -> Path:
    """The folder, made if need be. Errors: TargetError when it cannot be made, or nothing can be written in it."""
    try:
        place = long_path(folder)
        place.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=place):
            return folder
    except FileExistsError as error:
        raise TargetError("there is a file where this folder is to be", where=folder, remedy="Move it away") from error
    except OSError as error:
        raise TargetError(
            f"nothing can be written in this folder ({error.strerror})", where=folder, remedy="Check its permissions"
        ) from error
