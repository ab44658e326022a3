"""bitsandbytes layers in the place of nn.Linear.

diffusers' own bitsandbytes loader refuses to work without a GPU; replacing the layers works on both. Layers are packed one by one on the
device, so a part that would not fit there at full width never lies there as a whole, and the host only maps its file.
"""

from __future__ import annotations

from typing import Literal

import torch


def quantize(part: torch.nn.Module, kind: Literal["none", "nf4", "int8"], device: torch.device, dtype: torch.dtype) -> None:
    """Puts bitsandbytes layers of `kind` (nf4 or int8) in the place of every nn.Linear of `part`, on the device; what is left of `part`
    becomes `dtype`.

    Layers that transformers keeps in float32 beside float16 (T5's `wo`, whose results overflow float16) compute in float32 here too; in
    int8, which sums into float16, they are not packed at all.
    """
    wide = frozenset(getattr(part, "_keep_in_fp32_modules", None) or ())
    shared = {id(module.weight) for module in part.modules() if isinstance(module, torch.nn.Embedding)}  # an lm_head that is the embedding
    for parent in list(part.modules()):
        if type(parent) is torch.nn.Linear:
            continue
        for name, child in list(parent.named_children()):
            if type(child) is torch.nn.Linear and id(child.weight) not in shared:
                setattr(parent, name, _wide(child, kind, device, dtype) if name in wide else _quantized(child, kind, device, dtype))
        for parameter in parent.parameters(recurse=False):
            if parameter.is_floating_point():
                parameter.data = parameter.data.to(dtype)


class _Wide(torch.nn.Module):  # type: ignore[misc]  # torch is Any where it is not installed
    """A layer with a dtype of its own. T5 casts its input to the dtype of `wo.weight`; packed that is uint8, so there is none."""

    weight = None

    def __init__(self, layer: torch.nn.Module, dtype: torch.dtype) -> None:
        super().__init__()
        self.layer, self._dtype = layer, dtype

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = self.layer(hidden.to(self._dtype))
        return result


def _wide(layer: torch.nn.Linear, kind: str, device: torch.device, dtype: torch.dtype) -> torch.nn.Module:
    own = torch.float32 if dtype is torch.float16 else dtype
    if kind == "int8":
        return _Wide(layer.to(device=device, dtype=own), own)
    return _Wide(_quantized(layer, kind, device, own), own)


def _quantized(layer: torch.nn.Linear, kind: str, device: torch.device, dtype: torch.dtype) -> torch.nn.Module:
    import bitsandbytes as bnb

    shape = (layer.in_features, layer.out_features, layer.bias is not None)
    new: torch.nn.Module
    if kind == "nf4":
        new = bnb.nn.Linear4bit(*shape, compute_dtype=dtype, quant_type="nf4", device="meta")
        new.weight = bnb.nn.Params4bit(layer.weight.data, requires_grad=False, quant_type="nf4")
    else:
        new = bnb.nn.Linear8bitLt(*shape, has_fp16_weights=False, device="meta")
        new.weight = bnb.nn.Int8Params(layer.weight.data, requires_grad=False, has_fp16_weights=False)
    if layer.bias is not None:
        new.bias = torch.nn.Parameter(layer.bias.data.to(dtype), requires_grad=False)
    return new.to(device)  # this is what quantizes
