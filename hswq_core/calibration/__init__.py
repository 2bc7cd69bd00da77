"""The dual monitor: what flows through every layer while real images are made."""

from .monitor import DualMonitor, quantizable_layers
from .statistics import LayerStatistics, Statistics
from .statistics_file import load_statistics, save_statistics

__all__ = ["DualMonitor", "LayerStatistics", "Statistics", "load_statistics", "quantizable_layers", "save_statistics"]
