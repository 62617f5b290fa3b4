"""Random weights under which activations keep a moderate range, whatever the depth."""

import torch
from torch import Tensor, nn
from torch.nn import functional


def picture(shape: tuple[int, ...], seed: int = 0) -> Tensor:
    """A stand-in for a photograph, smooth blobs under a little noise: [b, c, h, w] in [0, 1]."""
    draw = torch.Generator().manual_seed(seed)
    b, c, h, w = shape
    blobs = torch.rand(b, c, -(-h // 16) + 1, -(-w // 16) + 1, generator=draw)
    smooth = functional.interpolate(blobs, (h, w), mode="bicubic", align_corners=True)
    return (1.5 * smooth - 0.25 + 0.05 * torch.randn(shape, generator=draw)).clamp(0, 1)


@torch.no_grad()
def randomise(model: nn.Module, image: tuple[int, int], seed: int) -> None:
    """Fill every parameter and statistic in place, from the seed and the (h, w) of the input alone.

    Convolutions and linear layers keep the variance of what they read (arXiv 1502.01852); each batch norm gets the
    statistics it sees on pictures and noise, shaken, so that no norm is near identity and none lets the range run away.
    """
    draw = torch.Generator().manual_seed(seed)

    def normal(tensor: Tensor, mean: float, spread: float) -> None:
        tensor.copy_(mean + spread * torch.randn(tensor.shape, generator=draw))

    for layer in model.modules():
        for name, parameter in layer.named_parameters(recurse=False):
            if name == "bias":
                normal(parameter, 0, 0.1)
            elif isinstance(layer, nn.BatchNorm2d | nn.LayerNorm):
                normal(parameter, 1, 0.2)
            elif isinstance(layer, nn.Linear):
                normal(parameter, 0, layer.in_features**-0.5)
            elif isinstance(layer, nn.ConvTranspose2d):
                normal(parameter, 0, layer.in_channels**-0.5)
            elif isinstance(layer, nn.Conv2d):
                normal(parameter, 0, (2 / parameter[0].numel()) ** 0.5)
            else:  # tokens, positions, bias tables, layer scales
                normal(parameter, 0, 0.3)

    def settle(layer: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        assert isinstance(layer, nn.BatchNorm2d)
        assert layer.running_mean is not None
        assert layer.running_var is not None
        channels = inputs[0].transpose(0, 1).flatten(1)
        mean, variance = channels.mean(1), channels.var(1, correction=0)
        variance = variance.clamp(min=float(variance.mean()) / 10)
        layer.running_mean.copy_(mean + 0.1 * variance.sqrt() * torch.randn(len(mean), generator=draw))
        layer.running_var.copy_(variance * (0.7 + 0.6 * torch.rand(len(mean), generator=draw)))

    norms = [layer for layer in model.modules() if isinstance(layer, nn.BatchNorm2d)]
    if not norms:
        return
    # Statistics of one small picture, or of pictures alone, would let the next picture or plain noise explode.
    count = min(5, max(1, 2**16 // (image[0] * image[1])))
    shape = (count, 3, *image)
    examples = (picture(shape, seed), torch.rand(shape, generator=draw), torch.randn(shape, generator=draw))
    hooks = [norm.register_forward_pre_hook(settle) for norm in norms]
    model.eval()(torch.cat(examples))
    for hook in hooks:
        hook.remove()
