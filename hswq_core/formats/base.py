"""What a form and a format are.

A *form* is what one quantized layer is stored as. A *format* is which form the layers of a file have, and all that the
rest of the project needs to know of such files.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from ..grids import E4M3, Grid, Scaling
from ..grids.block_scales import blocks_of
from ..grids.group_scales import groups_of
from .nvfp4 import pack_floats, unpack_floats
from .packing import pack, packed_columns, unpack
from .stored_layer import StoredLayer

Shape = tuple[int, ...]
SideTensors = Callable[[str, torch.Tensor, Shape], dict[str, torch.Tensor]]


@dataclass(frozen=True)
class Form:
    """How a quantized layer ``L`` is stored: its codes in ``L.weight``, and tensors beside it.

    Attributes:
        name: under which impacts that are measured for it are kept. Forms of one name give the same weights.
        scaling: whether codes are multiplied by a scale, and for what each scale is.
        side_tensors: what stands beside ``L.weight``, given ``L``, the scale (float32 [1], or [C_out]; float16 [C_out,
            groups]; float32 [C_out, blocks]) and the weight's shape.
        grid: what ``L.weight`` is rounded to.
        bits: of a code. Fewer than 8 are packed: ``L.weight`` is then U8 [C_out, bytes of a row].
        rotation: what stands beside ``L.weight`` of a Linear layer where columns may be rotated, given ``L`` and the
            group, or 1; of one size, whatever the group. ``None`` in forms without rotation.
        integer_product: whether readers round the layer's inputs, too: each row to integers, by its largest value.
        holds: whether a layer of the diffusion model can be stored so, given its path there and its weight's shape.
    """

    name: str
    scaling: Scaling
    side_tensors: SideTensors
    grid: Grid = E4M3
    bits: int = 8
    rotation: Callable[[str, int], dict[str, torch.Tensor]] | None = None
    integer_product: bool = False
    holds: Callable[[str, Shape], bool] = lambda _layer, _shape: True

    def side_tensors_for(
        self, layer: str, scale: torch.Tensor, shape: Shape, group: int = 1
    ) -> dict[str, torch.Tensor]:
        """What stands beside a weight of this shape and scale, its columns rotated in groups of so many."""
        found = self.side_tensors(layer, scale, shape)
        return found | self.rotation(layer, group) if self.rotation and len(shape) == 2 else found

    def planned_side_tensors(self, layer: str, shape: Shape) -> dict[str, torch.Tensor]:
        """What will stand beside a weight of this shape, with scales of one: for its names, types and sizes."""
        if self.scaling == "group":
            scale = torch.ones(shape[0], groups_of(math.prod(shape[1:])), dtype=torch.float16)
        elif self.scaling == "block":
            scale = torch.ones(shape[0], blocks_of(math.prod(shape[1:])))
        else:
            scale = torch.ones(shape[0] if self.scaling == "channel" else 1)
        return self.side_tensors_for(layer, scale, shape)

    def stored_shape(self, shape: Shape) -> Shape:
        """The shape of ``L.weight`` in a file for a weight of this shape."""
        return shape if self.bits == 8 else (shape[0], packed_columns(math.prod(shape[1:]), self.bits))

    def encode(self, codes: torch.Tensor) -> torch.Tensor:
        """``L.weight`` of a file, for codes in the shape of the weight."""
        if self.scaling == "block":
            return pack_floats(codes)
        return self.grid.stored(codes) if self.bits == 8 else pack(codes.flatten(1), self.bits)

    def decode(self, stored: torch.Tensor, shape: Shape) -> torch.Tensor:
        """The codes of ``L.weight``, in the shape of the weight."""
        if self.scaling == "block":
            return unpack_floats(stored).view(shape)
        return stored if self.bits == 8 else unpack(stored, self.bits, math.prod(shape[1:])).view(shape)


@dataclass(frozen=True)
class Format:
    """A kind of quantized file.

    Attributes:
        form: what quantized layers are stored as, unless the options ask for one of the next two; where there is a
            menu, what text encoders are stored as.
        channel_form: the form with a scale for every output channel, where that is a choice.
        rotated_form: the form with rotated inputs, where that is a choice.
        dimensions: of the weights that it can hold: 2 is Linear, 3 to 5 are convolutions.
        takes_channel_scales: whether a reader takes a scale for each output channel.
        recognizes: whether a quantized layer of some file is stored in this format.
        hint: what a file says in its header of how to open it.
        how_to_load: the same for a model card, in Markdown.
        holds_text_encoders: whether text encoders can be quantized to it.
        drops_scale: whether its readers lose the scale of a text encoder's layer of this name.
        menu: the forms among which every layer has its own, smallest first; empty where all layers have one form.
        made_of: names of other formats whose layers its files have, too.
        is_target: whether quantized files can be converted to it.
        header: what the header says of the quantized layers beside the metadata of every format, given the names of
            those that are Linear.
        extra_tensors: what is added to the diffusion model's tensors.
    """

    name: str
    form: Form
    dimensions: frozenset[int]
    takes_channel_scales: bool
    recognizes: Callable[[StoredLayer], bool]
    hint: str
    how_to_load: str
    channel_form: Form | None = None
    rotated_form: Form | None = None
    holds_text_encoders: bool = False
    drops_scale: Callable[[str], bool] = lambda _layer: False
    menu: tuple[Form, ...] = ()
    made_of: frozenset[str] = frozenset()
    is_target: bool = True
    header: Callable[[Sequence[str]], dict[str, str]] = lambda _layers: {}
    extra_tensors: Callable[[], dict[str, torch.Tensor]] = lambda: {}

    @property
    def forms(self) -> tuple[Form, ...]:
        """All forms that a layer may have, unless the options ask for scales by channel or rotation."""
        return self.menu or (self.form,)

    def forms_of(self, layer: str, shape: Shape) -> tuple[Form, ...]:
        """Those among them that a layer of the diffusion model can have."""
        return tuple(form for form in self.forms if form.holds(layer, shape))

    def form_for(self, scales: Scaling, *, rotate: bool) -> Form:
        """The form that the options ask for, which are checked to be choices of this format; of a menu, the first."""
        if self.menu:
            return self.menu[0]
        chosen = self.rotated_form if rotate else self.channel_form if scales == "channel" else None
        return chosen or self.form

    def text_form_for(self, scales: Scaling, *, rotate: bool) -> Form:
        """The same for text encoders, which have no menu: their impacts are not measured."""
        return self.form if self.menu else self.form_for(scales, rotate=rotate)

    def can_store(self, shape: tuple[int, ...], dtype: str, scale: torch.Tensor) -> bool:
        """Whether a weight that is quantized already can be stored as it is."""
        return (
            len(shape) in self.dimensions
            and dtype == self.form.grid.file_dtype
            and (scale.numel() == 1 or self.takes_channel_scales)
        )
