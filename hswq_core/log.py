"""The loggers of this pack: what they are given can be printed anywhere."""

from __future__ import annotations

import contextlib
import logging
import sys

from .errors import printable


def get_logger(name: str) -> logging.Logger:
    """The logger of a module. A name that cannot be encoded is escaped (see ``printable``) before a console sees it."""
    logger = logging.getLogger(name)
    logger.addFilter(_escape)
    return logger


def print_any_text() -> None:
    """Let standard output and error escape what their encoding lacks (cp1252 has 250 characters) instead of failing.

    A finished job would end as an error. In ComfyUI the name of a file in another script, in an error or a traceback,
    would end the thread that runs workflows.
    """
    for stream in (sys.stdout, sys.stderr):
        if getattr(stream, "errors", "") in ("strict", "surrogateescape"):
            with contextlib.suppress(AttributeError, OSError, ValueError):
                stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]


def _escape(record: logging.LogRecord) -> bool:
    record.msg, record.args = printable(record.getMessage()), ()
    return True
