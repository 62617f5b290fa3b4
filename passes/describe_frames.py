"""Let the net take camera frames: put what turns them into the model's input before it.

    %x: f32[1x3x480x640] = input
 ->
    %x: u8[480x640x3] = input
    %permute: u8[3x480x640] = aten.permute(%x, dims=[2, 0, 1])
    %unsqueeze: u8[1x3x480x640] = aten.unsqueeze(%permute, dim=0)
    %to: f32[1x3x480x640] = aten.to(%unsqueeze, dtype=f32)
    %mul: f32[1x3x480x640] = aten.mul(%to, @scale)
    %sub: f32[1x3x480x640] = aten.sub(%mul, @shift)

with scale = frame scale / std and shift = mean / std per channel, as `Frames` says; `fold_normalisation` then moves
them into the first convolution. A model that takes its channels last gets them so. Left alone: a net compiled without
`Frames`.
"""

import torch
from torch.fx import GraphModule

from fluxcompile.errors import OptionError
from fluxcompile.ir import call, constant, fake_mode, inputs, shape
from fluxcompile.options import Frames
from fluxcompile.passes.flow import channels_last

aten = torch.ops.aten


def describe_frames(module: GraphModule, frames: Frames | None = None) -> int:
    if frames is None:
        return 0
    images = [n for n in inputs(module) if len(shape(n)) == 4]
    if len(images) != 1:
        raise OptionError(f"frames: describes one image input, the model has {len(images)} of four dimensions")
    (image,) = images
    last = channels_last(shape(image))
    h, w, channels = shape(image)[1:] if last else (*shape(image)[2:], shape(image)[1])
    if len(frames.mean) not in (1, channels) or len(frames.std) not in (1, channels):
        raise OptionError(
            f"frames: mean and std have {len(frames.mean)} and {len(frames.std)} values, {channels} channels"
        )
    dtype = image.meta["val"].dtype
    hwc = frames.layout == "hwc"
    module.meta["frames_layout"] = frames.layout
    with fake_mode(module):
        image.meta["val"] = torch.empty((h, w, channels) if hwc else (channels, h, w), dtype=torch.uint8)
    std = torch.tensor(frames.std, dtype=torch.float64).expand(channels)
    mean = torch.tensor(frames.mean, dtype=torch.float64).expand(channels)
    across = (1, 1, 1, channels) if last else (1, channels, 1, 1)
    scale, shift = (v.reshape(across).to(dtype) for v in (frames.scale / std, mean / std))
    readers = list(image.users)
    first = next(n for n in module.graph.nodes if n.op not in ("placeholder", "get_attr"))
    with module.graph.inserting_before(first):
        x = image
        if hwc != last:
            x = call(module, aten.permute.default, image, [2, 0, 1] if hwc else [1, 2, 0])
        x = call(module, aten.unsqueeze.default, x, 0)
        x = call(module, aten.to.dtype, x, dtype)
        x = call(module, aten.mul.Tensor, x, constant(module, scale.contiguous(), "frame_scale"))
        if shift.any():
            x = call(module, aten.sub.Tensor, x, constant(module, shift.contiguous(), "frame_shift"))
    for reader in readers:
        reader.replace_input_with(image, x)
    return 1
