"""ComfyUI's sampler functions -> how they call the model. Data, and how to look it up.

Whoever forecasts must know how many evaluations a step has and that each is one step further along one smooth path. The
stages of a step (heun's predictor and corrector, say) are separate paths: each has its own histories, and a step is
computed or forecast as a whole.

Fresh noise at every step makes features rough, but the denoised latent hardly follows it: with samplers that add
noise, the denoised latent is forecast. How often was chosen on the tuning pictures of the trained models
(docs/samplers.md), so that results are nearer to the full run than those of fewer steps with as many evaluations.
"""

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class SamplerInfo:
    """How a sampler calls the model.

    Attributes:
        stages: evaluations of a step; a last step down to sigma 0 has only one.
        noisy: whether it adds fresh noise at its steps.
        max_speedup: how many times fewer evaluations keep its results near.
        obstacle: why its evaluations cannot be forecast (completes "sampler X ..."), or empty.
        multistep: whether it extrapolates from outputs of earlier steps, and the errors of forecasts with them.
    """

    stages: int = 1
    noisy: bool = False
    max_speedup: float = math.inf
    obstacle: str = ""
    multistep: bool = False


REPLACES_NOISE = "replaces the noise at every step, so its features cannot be extrapolated"
UNGUIDED = "uses the unconditional prediction directly, which amplifies forecast errors"
IRREGULAR = "evaluates the model at noise levels that are not one path"

UNKNOWN_NOISY = 1.25
"""`max_speedup` of unknown samplers that turn out to add noise: the least of the table."""

UNKNOWN_UNCORRECTED = 1.5
"""`max_speedup` of unknown samplers that do not, but cannot be corrected."""

CHURNED = SamplerInfo(obstacle="adds noise at every step (s_churn), so its features cannot be extrapolated")
"""Any sampler with `s_churn`."""

_NAMES: dict[SamplerInfo, str] = {
    SamplerInfo(): "euler",
    SamplerInfo(multistep=True): """
        lms dpmpp_2m ipndm ipndm_v deis res_multistep gradient_estimation unipc unipc_bh2
    """,
    SamplerInfo(stages=2): "heun dpm_2 exp_heun_2_x0",
    SamplerInfo(noisy=True, max_speedup=2): "er_sde",
    SamplerInfo(
        noisy=True, max_speedup=1.5
    ): "euler_ancestral euler_ancestral_RF res_multistep_ancestral ddpm sa_solver",
    SamplerInfo(noisy=True, max_speedup=1.25): """
        dpmpp_2m_sde dpmpp_2m_sde_gpu dpmpp_2m_sde_heun dpmpp_2m_sde_heun_gpu dpmpp_3m_sde dpmpp_3m_sde_gpu
    """,
    SamplerInfo(stages=2, noisy=True, max_speedup=1.5): """
        dpm_2_ancestral dpm_2_ancestral_RF dpmpp_2s_ancestral dpmpp_2s_ancestral_RF dpmpp_sde dpmpp_sde_gpu
        exp_heun_2_x0_sde seeds_2 sa_solver_pece
    """,
    SamplerInfo(stages=3, noisy=True, max_speedup=1.5): "seeds_3",
    SamplerInfo(obstacle=REPLACES_NOISE): "lcm",
    SamplerInfo(obstacle=UNGUIDED): """
        euler_cfg_pp dpmpp_2m_cfg_pp res_multistep_cfg_pp gradient_estimation_cfg_pp euler_ancestral_cfg_pp
        res_multistep_ancestral_cfg_pp
    """,
    SamplerInfo(stages=2, obstacle=UNGUIDED): "dpmpp_2s_ancestral_cfg_pp",
    SamplerInfo(obstacle=IRREGULAR): "heunpp2 dpm_fast dpm_adaptive ar_video",
}

SAMPLERS: dict[str, SamplerInfo] = {name: info for info, names in _NAMES.items() for name in names.split()}
"""By the name of the sampler function, without its `sample_`."""

WIDGET = {"unipc": "uni_pc", "unipc_bh2": "uni_pc_bh2"}
"""Names of samplers that ComfyUI's widgets spell otherwise."""

_FUNCTION = {widget: name for name, widget in WIDGET.items()} | {"ddim": "euler"}


def by_widget(name: str) -> SamplerInfo:
    """The row of a sampler by its name in a widget; the usual one for samplers that are not in the table."""
    return SAMPLERS.get(_FUNCTION.get(name, name), SamplerInfo())
