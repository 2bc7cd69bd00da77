"""The farm: many checkpoints from a recipe, on one machine or on many. See docs/farm.md."""
