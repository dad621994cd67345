"""docs/gpu.md from what `bench gpu` measured."""

import textwrap
from typing import Any

SPEEDS = {"flux": 0.98, "qwen": None, "wan": 0.98, "sdxl": 0.93}
"""Part -> the goal of its efficiency."""


def page(results: dict[str, Any]) -> str:
    """The page, of whatever parts there are."""
    parts, tiny = results["parts"], results["size"] == "tiny"
    lines = [
        "# On a GPU",
        "",
        "`python dev.py bench gpu --out DIR`, then `python dev.py bench gpu --page DIR/gpu.json`.",
        "ComfyUI's own classes with random weights; ratios within one run.",
        "",
    ]
    if tiny:
        lines += [
            "**Not measured yet on a GPU.** Below is what a CPU shows, with `--size tiny`: the same script with small",
            "models of hidden width 1024 (SDXL: 64 to 128 channels) on busy cores. Seconds vary; only that everything",
            "runs, what is identical, and what is counted says something here.",
        ]
    lines += [""] * tiny + [f"Device: {results['device']}; torch {results['torch']}.", ""]
    for remark in results.get("remarks", []):
        lines += textwrap.wrap(f"* {remark}", 116, subsequent_indent="  ")
    lines += [""] * bool(results.get("remarks"))
    lines += _speed(parts, tiny) + _memory(parts)
    for part, title, text in SECTIONS:
        found = parts.get(part)
        if found is not None:
            lines += [f"## {title}", "", *(text(found) if _measured(found) else [_missing(found)]), ""]
    return "\n".join(lines).rstrip() + "\n"


def _measured(found: dict[str, Any]) -> bool:
    return "error" not in found and "needs" not in found


def _missing(found: dict[str, Any]) -> str:
    return f"Not measured: {'needs ' + found['needs'] if 'needs' in found else found['error']}."


def _speed(parts: dict[str, Any], tiny: bool) -> list[str]:
    lines = [
        "## Speed",
        "",
        "*Efficiency*: speed-up over the full run, divided by how many times fewer evaluations were computed. *vs.",
        "fewer steps*: the same against a plain run of as many steps. EasyCache computes as many",
        "evaluations, at even distances.",
        "",
        "| model | method | steps | computed | seconds | speed-up | efficiency | goal | vs. fewer steps |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for part, goal in SPEEDS.items():
        found = parts.get(part, {"error": "not run"})
        if not _measured(found):
            lines.append(f"| {part} | {_missing(found)} | | | | | | | |")
            continue
        for run in found["runs"]:
            ours = run["method"] == "ours"
            wanted = goal if ours and goal and not tiny else ""
            beside = f"{run['against_fewer_steps']:.3f}" if ours else ""
            lines.append(
                f"| {found['model']} | {run['method']} | {run['steps']} | {run['evaluations']:g} "
                f"| {run['seconds']:.2f} | {run['speedup']:.2f} | {run['efficiency']:.3f} | {wanted} | {beside} |"
            )
    spreads = [f"{p['model']} {p['spread']:+.1%}" for p in map(parts.get, SPEEDS) if p and p.get("spread") is not None]
    return [*lines, "", f"The full run a second time: {', '.join(spreads) or 'not measured'}.", ""]


def _memory(parts: dict[str, Any]) -> list[str]:
    lines = [
        "## Memory",
        "",
        "MiB. *Peak*: the most that was allocated beside the weights. *Planned*: what ComfyUI is told that we hold, as",
        "in [memory.md](memory.md).",
        "",
        "| model | peak, full | peak, ours | difference | planned |",
        "|---|---|---|---|---|",
    ]
    for found in filter(None, map(parts.get, SPEEDS)):
        if not _measured(found):
            continue
        full, ours = found["runs"][0]["peak_mib"], found["runs"][1]["peak_mib"]
        cells = ["needs a GPU"] * 3 if full is None else [f"{full:,.0f}", f"{ours:,.0f}", f"{ours - full:,.0f}"]
        lines.append(f"| {found['model']} | {' | '.join(cells)} | {found['planned_mib']:,.1f} |")
    return [*lines, ""]


def _identity(found: dict[str, Any]) -> list[str]:
    def answer(same: bool) -> str:
        return "bit-identical" if same else "**not identical**"

    return [
        f"{found['model']}: the same seed three times: {answer(found['repeated'])}; with ComfyUI's preview of each "
        f"step, twice: {answer(found['preview'])}. Without our node, three times: {answer(found['plain_repeated'])}."
    ]


def _waiting(found: dict[str, Any]) -> list[str]:
    ours = f"{found['ours_on_forecasts']} of ours on forecast evaluations, {found['ours_on_computed']} on computed ones"
    lines = [f"{found['model']}: operations that make the host wait, as torch reports them: {ours}.", ""]
    for kind in ("forecast", "computed"):
        lines += [f"On {kind} evaluations: {'all of them:' if found[kind] else 'none.'}", ""]
        lines += [f"* {place}: {times} times" for place, times in sorted(found[kind].items())]
        lines += [""] * bool(found[kind])
    return lines[:-1]


def _evaluation(found: dict[str, Any]) -> list[str]:
    lines = [f"{found['model']}, medians, CFG included.", ""]
    lines += ["| evaluation | submitted by the host, ms | done, ms |", "|---|---|---|"]
    for kind in ("plain", "computed", "forecast"):
        lines.append(f"| {kind} | {found[kind]['host_ms']:.2f} | {found[kind]['total_ms']:.2f} |")
    return [*lines, "", f"A forecast evaluation takes {found['forecast_of_plain']:.1%} of a plain one."]


def _sum(found: dict[str, Any]) -> list[str]:
    return [
        f"{found['model']}, a feature of {found['feature_mib']:.1f} MiB: {found['sum_ms']:.3f} ms; a copy of the "
        f"history {found['copy_ms']:.3f} ms ({found['copy_gb_per_s']:,.0f} GB/s). The sum reaches "
        f"{found['of_copy_bandwidth']:.0%} of the copy's bandwidth."
    ]


def _compiled(found: dict[str, Any]) -> list[str]:
    lines = [f"{found['model']}, backend {found['backend']}, 8 steps.", ""]
    lines += [
        "| | graphs | compiled later than the first step | first run, s | second run, s |",
        "|---|---|---|---|---|",
    ]
    for name in ("plain", "ours"):
        run = found[name]
        later = ", ".join(map(str, run["compiled_at"])) or "never"
        lines.append(f"| {name} | {run['graphs']} | {later} | {run['first_s']:.1f} | {run['again_s']:.2f} |")
    return lines


def _trained(found: dict[str, Any]) -> list[str]:
    lines = ["The tiny trained models, 30 steps, CFG 3, four pictures, float32.", ""]
    lines += ["| model, device | evaluations | relative L2 to the full run | estimated |", "|---|---|---|---|"]
    for name, run in found.items():
        lines.append(f"| {name} | `{run['kinds']}` | {run['relative_l2']:.4f} | {run['estimated']:.4f} |")
    return lines


def _server(found: dict[str, Any]) -> list[str]:
    def answer(same: bool) -> str:
        return "bit-identical" if same else "**not identical**"

    demo, large = found["demo"], found["large"]
    loads = "loads weights as they are needed (DynamicVRAM)" if found["dynamic"] else "loads whole models"
    memory = f", {found['free_gib']} GiB of the device's memory are free" if found["free_gib"] else ""
    return [
        f"ComfyUI's own server, started as usual: it {loads}{memory}.",
        "",
        f"The demo's workflow: {demo['kinds'].count('c')} of {len(demo['kinds'])} evaluations computed, relative L2 "
        f"{demo['relative_l2']:.4f}; twice with the node: {answer(demo['repeated'])}; twice without: "
        f"{answer(demo['plain_repeated'])}.",
        "",
        f"{found['model']}, {large['steps']} steps: {large['full_s']:.1f} s in full, {large['ours_s']:.1f} s with "
        f"{large['computed']} computed ({large['speedup']:.2f} times as fast), {large['fewer_s']:.1f} s with "
        f"{large['computed']} steps.",
    ]


SECTIONS = (
    ("identity", "One seed, one picture", _identity),
    ("synchronisation", "Waiting", _waiting),
    ("flux_evaluations", "One evaluation", _evaluation),
    ("sdxl_evaluations", "One evaluation of a UNet", _evaluation),
    ("flux_sum", "The weighted sum", _sum),
    ("wan_sum", "The weighted sum of a video", _sum),
    ("compile", "torch.compile", _compiled),
    ("trained", "Trained models on the GPU and on the CPU", _trained),
    ("server", "The real server", _server),
)
