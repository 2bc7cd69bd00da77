"""The dual monitor: what flows through every layer while real pictures are made."""

from .monitor import DualMonitor, quantizable_layers
from .statistics import LayerStatistics, Statistics

__all__ = ["DualMonitor", "LayerStatistics", "Statistics", "quantizable_layers"]
