"""The table: ComfyUI's sampler functions -> how they call the model. Data, no logic.

Whoever forecasts must know how many evaluations a step has and that each is one step further along one smooth path. The
stages of a step (heun's predictor and corrector, say) are separate paths: each has its own histories, and a step is
computed or forecast as a whole.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Sampler:
    """How a sampler calls the model.

    Attributes:
        stages: evaluations of a step; a last step down to sigma 0 has only one.
        obstacle: why its evaluations cannot be forecast, or empty.
    """

    stages: int = 1
    obstacle: str = ""


STOCHASTIC = "adds fresh noise at every step, so that its features are not smooth in time"
IRREGULAR = "evaluates the model at positions that are not one smooth path"

_NAMES: dict[Sampler, str] = {
    Sampler(): """
        euler euler_cfg_pp lms dpmpp_2m dpmpp_2m_cfg_pp ipndm ipndm_v deis res_multistep res_multistep_cfg_pp
        gradient_estimation gradient_estimation_cfg_pp unipc unipc_bh2
    """,
    Sampler(stages=2): "heun dpm_2 exp_heun_2_x0",
    Sampler(obstacle=STOCHASTIC): """
        euler_ancestral euler_ancestral_RF euler_ancestral_cfg_pp dpmpp_2m_sde dpmpp_2m_sde_gpu dpmpp_2m_sde_heun
        dpmpp_2m_sde_heun_gpu dpmpp_3m_sde dpmpp_3m_sde_gpu ddpm lcm res_multistep_ancestral
        res_multistep_ancestral_cfg_pp er_sde sa_solver exp_heun_2_x0_sde dpm_2_ancestral dpm_2_ancestral_RF
        dpmpp_2s_ancestral dpmpp_2s_ancestral_RF dpmpp_2s_ancestral_cfg_pp dpmpp_sde dpmpp_sde_gpu seeds_2 seeds_3
        sa_solver_pece
    """,
    Sampler(obstacle=IRREGULAR): "heunpp2 dpm_fast dpm_adaptive ar_video",
}

SAMPLERS: dict[str, Sampler] = {name: sampler for sampler, names in _NAMES.items() for name in names.split()}
"""By the name of the sampler function, without its `sample_`."""
