"""The loggers of this pack: what they are given can be printed anywhere."""

from __future__ import annotations

import logging

from .errors import printable


def get_logger(name: str) -> logging.Logger:
    """The logger of a module. A name that cannot be encoded is escaped (see ``printable``) before a console sees it."""
    logger = logging.getLogger(name)
    logger.addFilter(_escape)
    return logger


def _escape(record: logging.LogRecord) -> bool:
    record.msg, record.args = printable(record.getMessage()), ()
    return True
