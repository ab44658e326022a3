"""LoRA adapters: the files that the operator named, loaded at the start; a job picks one by name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from services.diffusion.contract import WeightsRefused
from services.diffusion.model.denoiser import denoiser_of


class Adapters:
    """All adapters lie beside the weights that they change; one or none is switched on. Raises WeightsRefused with the adapter's name."""

    def __init__(self, pipe: Any, loras: tuple[tuple[str, Path], ...]) -> None:
        self._pipe = pipe
        self._names = {name: f"adapter_{number}" for number, (name, _) in enumerate(loras)}  # peft takes no dot in a name
        self._on: tuple[str, float] | None = None
        if not loras:
            return
        packed = _packed_as(denoiser_of(pipe))
        for name, path in loras:
            self._load(name, path, packed)
        pipe.disable_lora()

    def _load(self, name: str, path: Path, packed: str | None) -> None:
        denoiser = denoiser_of(self._pipe)
        if packed:  # peft asks the model, not the layer, whether bitsandbytes has packed it
            setattr(denoiser, packed, True)
        try:
            self._pipe.load_lora_weights(str(path.parent), weight_name=path.name, adapter_name=self._names[name], local_files_only=True)
            changed = self._pipe.get_list_adapters()
        except (ValueError, RuntimeError, KeyError, AttributeError, TypeError, IndexError, OSError) as error:
            raise WeightsRefused(f"the LoRA adapter '{name}' ({path}) does not go with this model: {str(error)[:300]}") from error
        finally:
            if packed:
                delattr(denoiser, packed)
        if not any(self._names[name] in names for names in changed.values()):
            raise WeightsRefused(f"the LoRA adapter '{name}' ({path}) changes nothing in this model: it was made for another.")

    def switch(self, name: str | None, scale: float) -> None:
        """From now on `name`, as strong as `scale` says; None: the model as it is."""
        wanted = None if name is None else (name, scale)
        if wanted == self._on:
            return
        if name is None:
            self._pipe.disable_lora()
        else:
            if self._on is None:
                self._pipe.enable_lora()
            self._pipe.set_adapters([self._names[name]], adapter_weights=[scale])
        self._on = wanted


def _packed_as(denoiser: Any) -> str | None:
    kinds = {type(module).__name__ for module in denoiser.modules()}
    return "is_loaded_in_4bit" if "Linear4bit" in kinds else "is_loaded_in_8bit" if "Linear8bitLt" in kinds else None
