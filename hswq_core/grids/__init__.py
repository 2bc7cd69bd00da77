"""What a weight is rounded to: the grids, the distribution of a weight's magnitudes, and the search for its scale."""

from .e2m1 import E2M1
from .e4m3 import E4M3
from .grid import Grid, Scaling
from .integers import INT2, INT3, INT4, INT5, INT6, INT8

__all__ = ["E2M1", "E4M3", "INT2", "INT3", "INT4", "INT5", "INT6", "INT8", "Grid", "Scaling"]
