"""Runs ComfyUI for as long as whoever started it lives: ``python process.py FOLDER/main.py ARGUMENTS``.

It holds the other end of this process's standard input. When that ends, by whatever death, ComfyUI ends with it.
Nothing of this pack is imported here: the process is ComfyUI's.
"""

from __future__ import annotations

import os
import runpy
import sys
import threading


def _end_with_the_starter() -> None:
    # Not sys.stdin.buffer: Python cannot end while a thread holds its lock.
    while os.read(0, 1 << 16):
        pass
    os._exit(1)


def main() -> None:
    script = sys.argv[1]
    sys.argv = sys.argv[1:]
    # Not this file's folder: its modules have names of their own.
    sys.path[0] = os.path.dirname(script)
    threading.Thread(target=_end_with_the_starter, daemon=True).start()
    runpy.run_path(script, run_name="__main__")


if __name__ == "__main__":
    main()
