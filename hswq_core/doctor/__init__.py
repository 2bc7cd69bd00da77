"""The doctor: what is in a quantized file of any tool, what opens it, what a machine does with it, and what is wrong.

Read in this order: ``kinds`` and ``readers`` (files -> layers), ``contents`` and ``groups``, ``openings`` (loaders),
``machine`` and ``actions`` (what is computed how), ``findings`` (damage), ``compare`` (error against the original), and
``diagnosis``, the value that all of it becomes.
"""

from .diagnose import diagnose
from .diagnosis import Diagnosis
from .machine import Machine, named_card, this_machine

__all__ = ["Diagnosis", "Machine", "diagnose", "named_card", "this_machine"]
