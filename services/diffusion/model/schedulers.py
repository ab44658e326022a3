"""Names of schedulers, and what each is in diffusers. Only for models that predict noise or velocity; flow matching has its own."""

from __future__ import annotations

from typing import Any

# wire.images.SCHEDULERS -> (class, what is set beside the model's own configuration)
TABLE: dict[str, tuple[str, dict[str, Any]]] = {
    "ddim": ("DDIMScheduler", {}),
    "ddpm": ("DDPMScheduler", {}),
    "deis": ("DEISMultistepScheduler", {}),
    "dpmpp_2m": ("DPMSolverMultistepScheduler", {"algorithm_type": "dpmsolver++", "use_karras_sigmas": False}),
    "dpmpp_2m_karras": ("DPMSolverMultistepScheduler", {"algorithm_type": "dpmsolver++", "use_karras_sigmas": True}),
    "dpmpp_2m_sde": ("DPMSolverMultistepScheduler", {"algorithm_type": "sde-dpmsolver++", "use_karras_sigmas": False}),
    "dpmpp_2m_sde_karras": ("DPMSolverMultistepScheduler", {"algorithm_type": "sde-dpmsolver++", "use_karras_sigmas": True}),
    "euler": ("EulerDiscreteScheduler", {"use_karras_sigmas": False}),
    "euler_a": ("EulerAncestralDiscreteScheduler", {}),
    "euler_karras": ("EulerDiscreteScheduler", {"use_karras_sigmas": True}),
    "heun": ("HeunDiscreteScheduler", {}),
    "lcm": ("LCMScheduler", {}),
    "pndm": ("PNDMScheduler", {"skip_prk_steps": True}),
    "unipc": ("UniPCMultistepScheduler", {}),
}


class Schedulers:
    """The model's own scheduler and the others of its kind. Each job gets a fresh one: they remember the job before."""

    def __init__(self, own: Any) -> None:
        self._own = own

    def fresh(self, name: str | None) -> Any:
        """`name` None: the model's own. Every one keeps the noise schedule that the model was trained with."""
        import diffusers

        if name is None:
            return type(self._own).from_config(self._own.config)
        class_name, changes = TABLE[name]
        return getattr(diffusers, class_name).from_config(self._own.config, **changes)
