"""From statistics to a plan: which layers are quantized, which are kept, and why."""

from .layer import LayerPlan
from .make_plan import make_plan
from .plan import QuantizationPlan

__all__ = ["LayerPlan", "QuantizationPlan", "make_plan"]
