"""A file while a model is made of it: checked, and read in one of two ways."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import comfy.model_detection
import comfy.model_management
import comfy.utils
import torch

from ..hswq_core.errors import CheckpointError
from ..hswq_core.files.checkpoint import CheckpointReader
from ..hswq_core.files.dtypes import is_float
from ..hswq_core.files.inspection import Inspection, inspect_checkpoint
from ..hswq_core.files.names import check_name
from ..hswq_core.files.reading import choose_reading
from ..hswq_core.files.scale_check import check_scales
from ..hswq_core.files.source import FileIdentity
from ..hswq_core.formats.refusal import is_refusal
from ..hswq_core.heap import trim_heap
from ..hswq_core.log import get_logger
from .state_dict import join_scales, majority_float

logger = get_logger(__name__)


@dataclass(frozen=True)
class OpenedFile:
    """What a model is made of.

    Attributes:
        state_dict: the tensors, those of quantized layers with their scales.
        prefix: of the diffusion model's keys.
        dtype: of most of its weights that are not quantized.
        mapped: the file that the tensors stay mapped to, as it was; ``None`` if they are in memory.
    """

    path: Path
    state_dict: dict[str, Any]
    metadata: dict[str, str]
    prefix: str
    dtype: torch.dtype
    found: Inspection
    mapped: FileIdentity | None

    def check_unchanged(self) -> None:
        """Errors: CheckpointError when a file that the model is mapped to was written over."""
        if self.mapped is not None and self.mapped.is_written_over():
            raise CheckpointError(
                "the file was changed while the model that is mapped to it was in use",
                where=self.path,
                remedy="Load it again; with reading set to memory, files can change",
            )


@contextmanager
def opened(path: Path, reading: str) -> Iterator[OpenedFile]:
    """The file, while a model is made of it.

    Args: reading: whether tensors stay ``mapped`` to the file, or are in ``memory`` (see ``choose_reading``).

    Errors: CheckpointError for what is no model, is damaged, or changes meanwhile.
    """
    with CheckpointReader(path) as reader:  # checks the header against the file, and names what is wrong
        metadata = {k: v for k, v in reader.metadata.items() if k != "_quantization_metadata"}
        # A merge may have left a key of a LoRA behind.
        if sum(".lora_" in key for key in reader.tensors) > len(reader.tensors) / 2:
            raise CheckpointError("this is a LoRA, not a model", where=path, remedy="Open it with Load LoRA")
        inspection = inspect_checkpoint(reader)
        check_name(path)
        prefix = comfy.model_detection.unet_prefix_from_state_dict(reader.tensors)
        if not any(key.startswith(prefix) for key in reader.tensors):
            prefix = ""
        check_scales(reader, prefix)
        dtype = majority_float(reader.tensors, prefix)
        wanted = [key for key, info in reader.tensors.items() if not is_refusal(key, info.shape)]
        how = choose_reading(
            reading,
            path,
            sum(reader.tensors[key].nbytes for key in wanted),
            int(comfy.model_management.get_free_memory(torch.device("cpu"))),
            never_mapped=getattr(comfy.utils, "DISABLE_MMAP", False),
        )
        logger.info("HSWQ: %s is %s", path.name, how.said)
        try:
            state_dict = reader.mapped(wanted) if how.mapped else _in_memory(reader, wanted, prefix)
            join_scales(state_dict, prefix, dtype, path)
            mapped = reader.identity if how.mapped else None
            yield OpenedFile(path, state_dict, metadata, prefix, dtype, inspection, mapped)
            trim_heap()  # of what was copied
        finally:
            reader.check_unchanged()  # what follows from that is no other error


def _in_memory(reader: CheckpointReader, wanted: list[str], prefix: str) -> dict[str, torch.Tensor]:
    """The tensors of a file in memory.

    The diffusion model takes its own over. Text encoders and VAEs copy theirs, which are read one by one as that
    happens; what is no float may be something else than a weight (a tokenizer), and is asked for otherwise.
    """
    return {
        key: reader.deferred(key)
        if not key.startswith(prefix) and is_float(reader.tensors[key].dtype)
        else reader.tensor_or_bytes(key)
        for key in wanted
    }
