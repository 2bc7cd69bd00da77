"""The example workflows. The page's template cards are named for their files, and have no other words."""

from .server import REPOSITORY

FOLDER = REPOSITORY / "example_workflows"
QUICK_START = FOLDER / "HSWQ 1 Quick start in 8 bits.json"
DAILY_USE = FOLDER / "HSWQ 2 Daily use with a LoRA.json"
FULL_RECIPE = FOLDER / "HSWQ 3 Full recipe with proof.json"
STOCK_LOADERS = FOLDER / "HSWQ 4 Files for stock loaders.json"
MERGE = FOLDER / "HSWQ 5 Merge, then quantize.json"
COMPARE = FOLDER / "HSWQ 6 Compare FP16, V1 and V2.json"
EXAMPLES = (QUICK_START, DAILY_USE, FULL_RECIPE, STOCK_LOADERS, MERGE, COMPARE)
QUICK_START_API = FOLDER / "api" / "hswq_sdxl.json"
"""The quick start in the form that scripts post to a server."""
