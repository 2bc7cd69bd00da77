"""Running sums of what passes through each layer, on the device where the model runs.

One class a backend: ``cpu`` in blocks that fit the caches, ``triton`` in one kernel launch, ``torch`` by torch's
reductions. ``bank`` holds the sums of all layers and chooses the class.
"""
