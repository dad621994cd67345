"""The table: ComfyUI's sampler functions -> how they call the model. Data, no logic.

Whoever forecasts must know how many evaluations a run has and that each is one step further along one smooth path.
"""

from typing import Literal

Structure = Literal["single", "stochastic", "multistage", "adaptive"]

REASONS: dict[Structure, str] = {
    "stochastic": "adds fresh noise at every step, so that its features are not smooth in time",
    "multistage": "evaluates the model several times a step at positions that are not one smooth path",
    "adaptive": "chooses its steps while it runs",
}

_NAMES: dict[Structure, str] = {
    "single": """
        euler euler_cfg_pp lms dpmpp_2m dpmpp_2m_cfg_pp ipndm ipndm_v deis res_multistep res_multistep_cfg_pp
        gradient_estimation gradient_estimation_cfg_pp unipc unipc_bh2
    """,
    "stochastic": """
        euler_ancestral euler_ancestral_RF euler_ancestral_cfg_pp dpmpp_2m_sde dpmpp_2m_sde_gpu dpmpp_2m_sde_heun
        dpmpp_2m_sde_heun_gpu dpmpp_3m_sde dpmpp_3m_sde_gpu ddpm lcm res_multistep_ancestral
        res_multistep_ancestral_cfg_pp er_sde sa_solver
    """,
    "multistage": """
        heun heunpp2 exp_heun_2_x0 exp_heun_2_x0_sde dpm_2 dpm_2_ancestral dpm_2_ancestral_RF dpmpp_2s_ancestral
        dpmpp_2s_ancestral_RF dpmpp_2s_ancestral_cfg_pp dpmpp_sde dpmpp_sde_gpu seeds_2 seeds_3 sa_solver_pece
    """,
    "adaptive": "dpm_fast dpm_adaptive ar_video",
}

SAMPLERS: dict[str, Structure] = {name: kind for kind, names in _NAMES.items() for name in names.split()}
"""By the name of the sampler function, without its `sample_`."""
