"""From statistics to a plan: which layers are quantized, which are kept, and why."""

from .layer import LayerPlan
from .make_plan import make_plan
from .matched_source import MatchedSource, match_source
from .plan import QuantizationPlan

__all__ = ["LayerPlan", "MatchedSource", "QuantizationPlan", "make_plan", "match_source"]
