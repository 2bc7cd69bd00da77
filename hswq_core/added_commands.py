"""Commands that other packages add to ``hswq``: the core knows that there may be some, and none by its name.

An installed package names a function for them as an entry point of the group ``hswq.commands``. In a checkout nothing
is installed: there, a folder beside this package has the function ``add_commands`` in a module ``hswq_commands``.
"""

from __future__ import annotations

import importlib
from importlib.metadata import entry_points
from pathlib import Path

from .cli_options import CommandLine

GROUP = "hswq.commands"
MODULE = "hswq_commands"


def add_commands(line: CommandLine) -> None:
    """Add what is installed, or stands beside this package."""
    root = Path(__file__).resolve().parents[1]
    if (root / "pyproject.toml").is_file():  # a checkout: its own, though another version may be installed, too
        for file in sorted(root.glob(f"*/{MODULE}.py")):
            importlib.import_module(f"{file.parent.name}.{MODULE}").add_commands(line)
        return
    for found in entry_points(group=GROUP):
        found.load()(line)
