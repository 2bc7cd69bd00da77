"""What drives a ComfyUI from outside: the farm (many checkpoints from a recipe, see docs/farm.md) and ``hswq prove``.

Installed, this package is called ``hswq_farm``; its modules import each other relatively, so any name will do.
"""
