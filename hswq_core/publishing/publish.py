"""The folder to upload beside a file: card, description and hashes, written whole or not at all."""

from __future__ import annotations

import shutil
import tempfile
from dataclasses import dataclass
from dataclasses import replace as replace_fields
from pathlib import Path

from ..errors import CheckpointError, TargetError, printable
from ..files.names import check_stem
from ..files.replace import replace
from ..progress import Progress, no_progress
from .card import About, civitai_description, missing_in, model_card
from .facts import facts_of
from .hashes import hashes_of
from .licences import checked_licence
from .shown_proof import read_proof

__all__ = ["About", "Published", "publish"]
_LONGEST = 230
"""Bytes of the folder's name: that of its file is part of it, and temporary ones beside it are longer."""


@dataclass(frozen=True)
class Published:
    """Attributes: missing: what should be said before the folder is uploaded, and is not."""

    folder: Path
    missing: tuple[str, ...]

    @property
    def names(self) -> list[str]:
        """Of the files in it."""
        return sorted(path.name for path in self.folder.iterdir())


def publish(
    file: Path,
    folder: Path,
    about: About | None = None,
    *,
    proof: Path | None = None,
    overwrite: bool = False,
    progress: Progress = no_progress,
) -> Published:
    """Write ``README.md``, ``civitai.html`` and ``hashes.txt`` into a folder, from a quantized file. The same file and
    words give the same folder. The file itself is neither moved nor copied.

    Args:
        proof: the page of HSWQ Prove; it, its figures and its images go into the folder.
        overwrite: whether a folder that is there may be replaced.
        progress: called with bytes read and bytes in all.

    Errors: PlanError for a licence that Hugging Face does not know;
    CheckpointError for a file that HSWQ did not quantize, or a proof that is none or of another file;
    TargetError for a folder that is there, cannot be written, or has no name for every system. Nothing is left then.
    """
    about = about or About()
    about = replace_fields(about, licence=checked_licence(about.licence))
    check_stem(folder.name, folder.name, "folder name", _LONGEST)
    facts = facts_of(file)
    shown = read_proof(proof) if proof else None
    if folder.exists() and (not overwrite or not folder.is_dir() or not (folder / "hashes.txt").exists()):
        raise TargetError(
            "this is there already",
            where=folder,
            remedy="Choose another name, or allow overwriting a folder of this kind",
        )
    hashes = hashes_of(file, progress)
    if shown is not None and shown.candidate not in ("", hashes["SHA256"]):
        raise CheckpointError(
            f"the proof is of another file than {file.name}", where=proof, remedy="Prove the file that is published"
        )
    texts = {
        "README.md": model_card(facts, about, hashes, shown),
        "civitai.html": civitai_description(facts, about, shown),
        "hashes.txt": "".join(f"{name}: {value}\n" for name, value in hashes.items()),
    }
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}.") as temporary:
            made = Path(temporary) / "made"
            made.mkdir()
            for name, text in texts.items():
                (made / name).write_text(printable(text), "utf-8", newline="\n")
            for name, source in (shown.files if shown else {}).items():
                shutil.copyfile(source, made / name)
            _put_in_place(made, folder)
    except OSError as error:
        raise TargetError(
            f"the folder could not be written ({error.strerror})", where=folder, remedy="Check the disk and the folder"
        ) from error
    return Published(folder, tuple(missing_in(facts, about, shown)))


def _put_in_place(made: Path, folder: Path) -> None:
    """Rename it; the folder that was there goes when the new one stands, and is back if that fails."""
    if not folder.exists():
        replace(made, folder)
        return
    before = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}.before.")) / folder.name
    replace(folder, before)
    try:
        replace(made, folder)
    except OSError:
        replace(before, folder)
        before.parent.rmdir()
        raise
    shutil.rmtree(before.parent, ignore_errors=True)
