"""The table: ComfyUI's sampler functions -> how they call the model. Data, no logic.

Whoever forecasts must know how many evaluations a step has and that each is one step further along one path. The
stages of a step (heun's predictor and corrector, say) are separate paths: each has its own histories, and a step is
computed or forecast as a whole.

Fresh noise at every step makes the path rough. How much may be forecast nevertheless was measured on trained models
(docs/samplers.md): at most what keeps the error below the one that the paper's method has on euler. Of flows that is a
part; of models that predict noise, nothing.
"""

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Sampler:
    """How a sampler calls the model.

    Attributes:
        stages: evaluations of a step; a last step down to sigma 0 has only one.
        speedup: how many times fewer evaluations it bears. Below infinity it adds noise: only flows are forecast, by
            straight lines and one evaluation at a time.
        obstacle: why its evaluations cannot be forecast, or empty.
    """

    stages: int = 1
    speedup: float = math.inf
    obstacle: str = ""


STOCHASTIC = "adds fresh noise at every step, so that its features are not smooth in time"
UNGUIDED = "goes by the unguided output, which magnifies what forecasts are off by"
IRREGULAR = "evaluates the model at positions that are not one smooth path"

CHURNED = Sampler(obstacle=STOCHASTIC)
"""Any sampler with `s_churn`."""

_NAMES: dict[Sampler, str] = {
    Sampler(): """
        euler lms dpmpp_2m ipndm ipndm_v deis res_multistep gradient_estimation unipc unipc_bh2
    """,
    Sampler(stages=2): "heun dpm_2 exp_heun_2_x0",
    Sampler(speedup=2): "er_sde ddpm",
    Sampler(speedup=1.6): "res_multistep_ancestral",
    Sampler(speedup=1.2): "euler_ancestral euler_ancestral_RF",
    Sampler(stages=2, speedup=1.6): "sa_solver_pece",
    Sampler(stages=2, speedup=1.4): "dpmpp_sde dpmpp_sde_gpu exp_heun_2_x0_sde",
    Sampler(stages=2, speedup=1.3): "seeds_2",
    Sampler(stages=2, speedup=1.25): "dpmpp_2s_ancestral dpmpp_2s_ancestral_RF",
    Sampler(stages=3, speedup=1.3): "seeds_3",
    Sampler(obstacle=STOCHASTIC): """
        dpmpp_2m_sde dpmpp_2m_sde_gpu dpmpp_2m_sde_heun dpmpp_2m_sde_heun_gpu dpmpp_3m_sde
        dpmpp_3m_sde_gpu lcm sa_solver
    """,
    Sampler(stages=2, obstacle=STOCHASTIC): "dpm_2_ancestral dpm_2_ancestral_RF",
    Sampler(obstacle=UNGUIDED): """
        euler_cfg_pp dpmpp_2m_cfg_pp res_multistep_cfg_pp gradient_estimation_cfg_pp euler_ancestral_cfg_pp
        res_multistep_ancestral_cfg_pp
    """,
    Sampler(stages=2, obstacle=UNGUIDED): "dpmpp_2s_ancestral_cfg_pp",
    Sampler(obstacle=IRREGULAR): "heunpp2 dpm_fast dpm_adaptive ar_video",
}

SAMPLERS: dict[str, Sampler] = {name: sampler for sampler, names in _NAMES.items() for name in names.split()}
"""By the name of the sampler function, without its `sample_`."""
