"""The table: ComfyUI's sampler functions -> how they call the model. Data, no logic.

Whoever forecasts must know how many evaluations a step has and that each is one step further along one path. The
stages of a step (heun's predictor and corrector, say) are separate paths: each has its own histories, and a step is
computed or forecast as a whole.

Fresh noise at every step makes the path rough, but the denoised latent hardly follows it: of samplers that add noise,
that is what is forecast. How often was chosen on the tuning pictures of the trained models (docs/samplers.md): so that
results are nearer than those of as many evaluations on fewer steps.
"""

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Sampler:
    """How a sampler calls the model.

    Attributes:
        stages: evaluations of a step; a last step down to sigma 0 has only one.
        speedup: how many times fewer evaluations it bears; below infinity if and only if it adds noise.
        obstacle: why its evaluations cannot be forecast, or empty.
    """

    stages: int = 1
    speedup: float = math.inf
    obstacle: str = ""

    @property
    def noisy(self) -> bool:
        """Whether it adds fresh noise at its steps."""
        return self.speedup < math.inf


STOCHASTIC = "adds fresh noise at every step, so that its features are not smooth in time"
UNGUIDED = "goes by the unguided output, which magnifies what forecasts are off by"
IRREGULAR = "evaluates the model at positions that are not one smooth path"

UNKNOWN = 1.25
"""Speed-up of samplers that no table knows but that turn out to add noise: the least that the table gives."""

CHURNED = Sampler(obstacle=STOCHASTIC)
"""Any sampler with `s_churn`."""

_NAMES: dict[Sampler, str] = {
    Sampler(): """
        euler lms dpmpp_2m ipndm ipndm_v deis res_multistep gradient_estimation unipc unipc_bh2
    """,
    Sampler(stages=2): "heun dpm_2 exp_heun_2_x0",
    Sampler(speedup=2): "er_sde",
    Sampler(speedup=1.5): "euler_ancestral euler_ancestral_RF res_multistep_ancestral ddpm sa_solver",
    Sampler(speedup=1.25): """
        dpmpp_2m_sde dpmpp_2m_sde_gpu dpmpp_2m_sde_heun dpmpp_2m_sde_heun_gpu dpmpp_3m_sde dpmpp_3m_sde_gpu
    """,
    Sampler(stages=2, speedup=1.5): """
        dpm_2_ancestral dpm_2_ancestral_RF dpmpp_2s_ancestral dpmpp_2s_ancestral_RF dpmpp_sde dpmpp_sde_gpu
        exp_heun_2_x0_sde seeds_2 sa_solver_pece
    """,
    Sampler(stages=3, speedup=1.5): "seeds_3",
    Sampler(obstacle=STOCHASTIC): "lcm",
    Sampler(obstacle=UNGUIDED): """
        euler_cfg_pp dpmpp_2m_cfg_pp res_multistep_cfg_pp gradient_estimation_cfg_pp euler_ancestral_cfg_pp
        res_multistep_ancestral_cfg_pp
    """,
    Sampler(stages=2, obstacle=UNGUIDED): "dpmpp_2s_ancestral_cfg_pp",
    Sampler(obstacle=IRREGULAR): "heunpp2 dpm_fast dpm_adaptive ar_video",
}

SAMPLERS: dict[str, Sampler] = {name: sampler for sampler, names in _NAMES.items() for name in names.split()}
"""By the name of the sampler function, without its `sample_`."""
