"""A PiFi model before and after `fold`: latency, weights, bytes and multiply-accumulates (MACs).

In float32, on texts of 64 tokens, for one text and for 32. Before: the model as it is trained, its layer already
in the single-token form. Before and after take turns in every round. MACs are of the plug-in, for one text.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from _common import interleave, parser, ratio, record, spread, target
from _models import LARGE, LENGTH, SMALL, TINY, batch_of, donor, plugged, write_donor
from torch import nn

BEFORE, AFTER = "before", "after"
SIZES = (1, 32)
ROUNDS = {SMALL: 60, LARGE: 20, TINY: 10}
CALLS = 10  # of the plug-in alone in one round


def main() -> None:
    """Measure every pair, record."""
    options = parser(__doc__).parse_args()
    measurements = {}
    for pair in (TINY,) if options.quick else (SMALL, LARGE):
        with tempfile.TemporaryDirectory(prefix="pifi-fold-") as folder:
            write_donor(pair, Path(folder), options.seed)
            layer = donor(pair, Path(folder))
        model = plugged(pair, layer, options.seed).eval()
        folded = model.fold()
        report = folded.fold_report.to_dict() | {"whole_layer": layer.n_params}
        measurements[pair] = {
            "report": report,
            "model_seconds": {str(n): whole_model(model, folded, pair, n, options.seed) for n in SIZES},
            "plugin_seconds": {str(n): plugin_alone(model, folded, pair, n, options.seed) for n in SIZES},
        }
    settings = {"batch": SIZES, "length": LENGTH, "rounds": ROUNDS, "calls": CALLS, "dtype": "float32"}
    record("fold", options, settings, measurements, tables(measurements, settings))


def whole_model(model: nn.Module, folded: nn.Module, pair: str, size: int, seed: int) -> dict[str, list[float]]:
    """Return the seconds of one pass of the whole model, before and after."""
    batch = batch_of(pair, size, seed)
    del batch["labels"]
    return interleave({BEFORE: calls(model, 1, **batch), AFTER: calls(folded, 1, **batch)}, ROUNDS[pair], seed=seed)


def plugin_alone(model: Any, folded: Any, pair: str, size: int, seed: int) -> dict[str, list[float]]:
    """Return the seconds of one pass of the plug-in, before and after."""
    generator = torch.Generator().manual_seed(seed)
    h = torch.randn(size, model.plugin.L_in.in_features, generator=generator)
    arms = {BEFORE: calls(model.plugin, CALLS, h=h), AFTER: calls(folded.plugin, CALLS, h=h)}
    times = interleave(arms, ROUNDS[pair], seed=seed)
    return {arm: [t / CALLS for t in seconds] for arm, seconds in times.items()}


def calls(module: nn.Module, n: int, **inputs: torch.Tensor) -> Callable[[], None]:
    """Return `n` passes without gradients, as a function."""

    @torch.inference_mode()
    def run() -> None:
        for _ in range(n):
            module(**inputs)

    return run


def tables(measurements: dict[str, dict[str, Any]], settings: dict[str, Any]) -> dict[str, Any]:
    """Return targets and rows."""
    return {
        "targets": [line for pair, found in measurements.items() for line in targets_of(pair, found)],
        "rows": [row(pair, arm, found) for pair, found in measurements.items() for arm in (BEFORE, AFTER)],
    }


def targets_of(pair: str, found: dict[str, Any]) -> list[dict[str, Any]]:
    lines = []
    if pair != SMALL:
        fewer = found["report"]["params_before"] / found["report"]["params_after"]
        lines.append(target(f"{pair}: weights of the plug-in before / after", fewer, least=3))
    for size, times in found["model_seconds"].items():
        name, slower = f"{pair}: latency after / before, batch {size}", ratio(times[AFTER], times[BEFORE])["median"]
        changed = found["report"]["form"] == "z"  # elsewhere the same is computed, and the ratio is 1 up to noise
        lines.append(target(name, slower, most=1) if changed else target(f"{name}, the form unchanged", slower))
    return lines


def row(pair: str, arm: str, found: dict[str, Any]) -> dict[str, Any]:
    report = found["report"]
    cells = {
        "pair": pair,
        "fold": arm if arm == BEFORE else f"after ({report['form']} form)",
        "weights": report[f"params_{arm}"],
        "MB": report[f"bytes_{arm}"] / 1e6,
        "MACs": report[f"macs_{arm}"],
    }
    for size, times in found["model_seconds"].items():
        alone = found["plugin_seconds"][size]
        cells[f"plug-in, ms, batch {size}"] = spread(1e3 * t for t in alone[arm])
        cells[f"model, ms, batch {size}"] = spread(1e3 * t for t in times[arm])
        cells[f"model / before, batch {size}"] = ratio(times[arm], times[BEFORE])
    return cells


if __name__ == "__main__":
    main()
