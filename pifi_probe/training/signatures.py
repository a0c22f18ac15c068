"""The paper's failure signatures, each as a check with evidence and advice."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from transformers import PreTrainedTokenizerBase

from pifi_probe.errors import PifiProbeError
from pifi_probe.training.check import Check
from pifi_probe.training.compare import compare
from pifi_probe.training.result import RunResult
from pifi_probe.vocabulary import BARE, BASIC_CONTROLS

__all__ = [
    "Check",
    "LayerState",
    "check_controls",
    "check_dimensions",
    "check_frozen",
    "check_gradients",
    "check_language",
    "check_scale",
]

# In its own model a layer adds 0.1 to 0.6 of its input; projections that match its scale leave 0.5 to 3.6
# (book/methods.md, Scale). Above 5 the skip path carries less than a fifth of the signal.
MAX_BRANCH_RATIO = 5.0
# Norms of a healthy run stay within one order of magnitude of their median.
MAX_SPIKE = 20.0
# Plain fine-tuning is hardly ever clipped (median norm 0.7 for MiniLM); the paper's wiring with the last layer of
# SmolLM2 at every step (median 22).
MAX_CLIPPED = 0.5
# Measured with the tokenizer of SmolLM2 (English): English sentences 3.7 to 4.7 bytes a token, German and French
# 2.8 to 2.9, Finnish and Russian 2.2, Arabic, Chinese and Korean 1.2 to 1.8. Bytes, since characters of unlike
# scripts hold unlike amounts; a tokenizer that covers Chinese has 4 and more.
WARN_BYTES_PER_TOKEN, FAIL_BYTES_PER_TOKEN = 3.0, 2.0
WARN_UNKNOWN, FAIL_UNKNOWN = 0.02, 0.2


@dataclass(frozen=True)
class LayerState:
    """A plugged layer: whose it is, the sha256 it should have and has, and whether a weight can be trained."""

    spec: str
    variant: str
    expected: str
    found: tuple[str, ...]
    trainable: bool = False


def check_frozen(layers: Sequence[LayerState]) -> Check:
    """Compare the sha256 of every plugged layer with the one it was extracted with."""
    name = "the layer is frozen"
    frozen = [layer for layer in layers if layer.variant != "unfrozen"]
    if not frozen:
        reason = "the layer is trained on purpose (control unfrozen)" if layers else "there is no frozen layer"
        return Check(name, "skipped", reason)
    evidence = {layer.spec: {"expected": layer.expected, "found": list(layer.found)} for layer in frozen}
    for layer in frozen:
        if layer.trainable:
            advice = "call layer.freeze() before training; make models with pp.plug_in"
            return Check(name, "fail", f"{layer.spec} has trainable weights", evidence, advice)
        if any(digest != layer.expected for digest in layer.found):
            finding = f"the weights of {layer.spec} are not the ones that were extracted (sha256 differs)"
            advice = "extract it again and plug it in again; look for code that writes into the layer"
            return Check(name, "fail", finding, evidence, advice)
    return Check(name, "ok", "every layer has the sha256 it was extracted with", evidence)


def check_controls(arm: Sequence[RunResult], others: Sequence[RunResult]) -> Check:
    """Compare an arm with its own controls on its own test split."""
    name = "better than its controls"
    control = arm[0].model["control"] if arm else None
    if not arm or control in BARE:
        return Check(name, "skipped", f"this is the control {control}" if control else "a model alone has no scores")
    rows = {}
    try:
        for wanted in BASIC_CONTROLS:
            given = [run for run in others if run.model["control"] == wanted and run.label != arm[0].label]
            alike = [run for run in given if run.model["wiring"] == arm[0].model["wiring"]]
            for label in sorted({run.label for run in alike or given}):
                pair = [*arm, *(run for run in given if run.label == label)]
                rows[label] = next(row for row in compare(pair, label).rows if row.arm == arm[0].label)
    except PifiProbeError as error:
        return Check(name, "skipped", f"the runs cannot be compared: {error}")
    if not rows:
        return Check(name, "skipped", "no runs of controls were given: runs=[...]")
    evidence = {label: [row.difference, row.difference_low, row.difference_high] for label, row in rows.items()}
    words = "; ".join(f"against {label}: {row.verdict}" for label, row in rows.items())
    if any((row.difference_high or 0) < 0 for row in rows.values()):
        advice = 'try another layer (pp.probe), wiring="matched", or plain fine-tuning'
        return Check(name, "fail", words, evidence, advice)
    if all((row.difference_low or 0) > 0 for row in rows.values()):
        return Check(name, "ok", words, evidence)
    advice = (
        "do not claim a gain from the LLM's knowledge: check that the layer is frozen, run more seeds and larger "
        "test sets, and compare with linear-only and random layers"
    )
    return Check(name, "warn", words, evidence, advice)


def check_dimensions(shapes: dict[str, Any]) -> Check:
    """Compare the shapes of L_in and L_out with the widths of encoder and layers."""
    name = "dimensions"
    if "interface" in shapes:
        return _aligned_dimensions(name, shapes)
    if "L_in" not in shapes:
        return Check(name, "skipped", "there is no plug-in", shapes)
    branches = (shapes, *shapes.get("further", ()))
    d_slm, widths = shapes["encoder"], [branch["layers"] or branch["L_in"][:1] for branch in branches]
    inner, outer = (" and ".join(str(width[place]) for width in widths) for place in (0, -1))
    wrong = [
        words
        for branch, width in zip(branches, widths, strict=True)
        for words in _wrong_dimensions(d_slm, width, branch["L_in"], branch["L_out"])
    ]
    if wrong:
        advice = f"L_in maps {d_slm} to {inner}, L_out back; make the model with pp.plug_in"
        return Check(name, "fail", "; ".join(wrong), shapes, advice)
    return Check(name, "ok", f"L_in {d_slm} to {inner}, L_out {outer} to {d_slm}", shapes)


def _aligned_dimensions(name: str, shapes: dict[str, Any]) -> Check:
    """Compare the interface of an aligned chain, which sees two states of two tokens, with encoder and layers."""
    (outer, inner), widths = shapes["interface"], {*shapes["layers"], shapes["interface"][0]}
    if inner == 4 * shapes["encoder"] and len(widths) == 1:
        return Check(name, "ok", f"the interface maps 4 x {shapes['encoder']} to {outer}", shapes)
    finding = f"the interface maps {inner} to {outer}, the encoder has {shapes['encoder']}, the layers {widths}"
    return Check(name, "fail", finding, shapes, "make the model with pp.plug_in")


def _wrong_dimensions(d_slm: int, widths: list[int], l_in: list[int], l_out: list[int]) -> list[str]:
    """Say what is wrong with the (out, in) shapes around one branch."""
    wrong = [
        f"{what} is {found}, should be {wanted}"
        for what, found, wanted in (
            ("the input of L_in", l_in[1], d_slm),
            ("the output of L_in", l_in[0], widths[0]),
            ("the input of L_out", l_out[1], widths[-1]),
            ("the output of L_out", l_out[0], d_slm),
        )
        if found != wanted
    ]
    return wrong + (["layers in series have unlike widths"] if len(set(widths)) > 1 else [])


def check_language(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], donor: str) -> Check:
    """Measure how finely the donor's tokenizer cuts the task's texts: what it rarely saw, it spells."""
    name = "language of the donor"
    ids = [token for row in tokenizer(list(texts), add_special_tokens=False)["input_ids"] for token in row]
    n_bytes, n_words = sum(len(text.encode()) for text in texts), sum(len(text.split()) for text in texts)
    per_token, unknown = n_bytes / max(len(ids), 1), ids.count(tokenizer.unk_token_id) / max(len(ids), 1)
    evidence = {
        "bytes_per_token": per_token,
        "tokens_per_word": len(ids) / max(n_words, 1),
        "unknown_share": unknown,
        "n_texts": len(texts),
    }
    finding = f"{per_token:.1f} bytes a token and {unknown:.0%} unknown tokens on {len(texts)} texts"
    if per_token >= WARN_BYTES_PER_TOKEN and unknown <= WARN_UNKNOWN:
        return Check(name, "ok", finding, evidence)
    failed = per_token < FAIL_BYTES_PER_TOKEN or unknown > FAIL_UNKNOWN
    advice = f"take a donor that was trained on the language of these texts instead of {donor}"
    return Check(name, "fail" if failed else "warn", finding, evidence, advice)


def check_gradients(curves: dict[str, list[float]], max_grad_norm: float) -> Check:
    """Look for NaN, infinite values and spikes in the loss and in the norms of the gradients."""
    name = "gradients"
    norms = curves.get("grad_norm", [])
    if not norms:
        return Check(name, "skipped", "there are no curves: give the result of a run")
    advice = 'lower lr_projection (for example to a tenth), or plug in with scale="matched"'
    broken = [curve for curve, values in curves.items() if not all(map(math.isfinite, values))]
    if broken:
        return Check(name, "fail", f"NaN or infinite values in {', '.join(broken)}", {"curves": broken}, advice)
    middle, largest = statistics.median(norms), max(norms)
    clipped = sum(norm > max_grad_norm > 0 for norm in norms) / len(norms)
    evidence = {"median": middle, "largest": largest, "step": norms.index(largest) + 1, "clipped_share": clipped}
    finding = f"median norm {middle:.2g}, largest {largest:.2g}, {clipped:.0%} of the steps clipped"
    if largest > MAX_SPIKE * middle:
        spike = f"the norm jumped to {largest / middle:.0f} times its median at step {evidence['step']}"
        return Check(name, "warn", f"{spike}; {finding}", evidence, advice)
    if clipped > MAX_CLIPPED:
        return Check(
            name, "warn", f"the clipping bound {max_grad_norm:g} acts most of the time; {finding}", evidence, advice
        )
    return Check(name, "ok", finding, evidence)


def check_scale(ratios: Sequence[float]) -> Check:
    """Compare what the layer adds with its input: a large ratio multiplies the gradients of everything before it."""
    name = "branch and skip"
    if not ratios:
        return Check(name, "skipped", "not measured: give the result of a run, or a model and task=")
    largest = max(ratios)
    finding = f"the layer adds {largest:.1f} times its input"
    if math.isfinite(largest) and largest <= MAX_BRANCH_RATIO:
        return Check(name, "ok", finding, {"branch_ratio": list(ratios)})
    advice = 'plug in with scale="matched" (or wiring="matched"), or lower lr_projection'
    return Check(
        name,
        "warn",
        f"{finding}, so little of the encoder's own vector is left",
        {"branch_ratio": list(ratios)},
        advice,
    )
