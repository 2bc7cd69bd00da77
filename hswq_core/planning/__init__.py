"""From statistics to a plan: which layers are quantized, which are kept, and why."""

from .layer import LayerPlan
from .plan import QuantizationPlan, make_plan

__all__ = ["LayerPlan", "QuantizationPlan", "make_plan"]
