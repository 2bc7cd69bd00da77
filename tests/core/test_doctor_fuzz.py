"""Files of every kind with tensors taken away and replaced: a diagnosis or one error, and never anything else."""

from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from hswq_core import diagnose
from hswq_core.errors import HSWQError
from tests.core import doctor_files as files
from tests.core.doctor_cases import CASES

TRIES = 12


def other_tensor(random: torch.Generator) -> torch.Tensor:
    shapes = ((), (0,), (1,), (3,), (64,), (16, 4), (64, 256), (2, 2, 2))
    dtypes = (torch.uint8, torch.int8, torch.float32, torch.float16, files.FP8, torch.int32, torch.bool)
    shape = shapes[int(torch.randint(len(shapes), (), generator=random))]
    dtype = dtypes[int(torch.randint(len(dtypes), (), generator=random))]
    return torch.randint(0, 99, shape, generator=random).to(dtype)


def mutated(tensors: files.Tensors, random: torch.Generator) -> files.Tensors:
    """One to three changes, to what stands beside a layer as often as to its codes."""
    found = dict(tensors)
    for _ in range(int(torch.randint(1, 4, (), generator=random))):
        keys = sorted(found)
        key = keys[int(torch.randint(len(keys), (), generator=random))]
        match int(torch.randint(4, (), generator=random)):
            case 0:
                del found[key]
            case 1:
                found[key] = other_tensor(random)
            case 2:
                found[key] = found[key].flatten()
            case _:
                flat = found[key].contiguous().view(-1).view(torch.uint8).clone() if found[key].numel() else found[key]
                found[key] = flat if flat.dim() == 0 else torch.flip(flat, (0,))
    return found


@pytest.mark.parametrize("name", CASES)
def test_what_is_left_of_a_file_is_told_or_refused(name: str, tmp_path: Path) -> None:
    path, random = CASES[name].make(tmp_path), torch.Generator().manual_seed(len(name))
    tensors, original = load_file(path), files.save(tmp_path, files.original(), name="reference")
    with safe_open(path, "pt") as file:
        metadata = file.metadata()
    told = 0
    for number in range(TRIES):
        changed = files.save(tmp_path, mutated(tensors, random), metadata, name=f"mutated{number}")
        try:
            found = diagnose(changed, card="RTX 4070", original=original)
        except HSWQError as error:
            assert "\n" not in str(error)
        else:
            assert str(found) and found.as_dict()
            told += 1
    assert told
