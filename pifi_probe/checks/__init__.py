"""What the notebooks need: a reproducible start, checks of the exercises, quizzes and recorded studies."""

from __future__ import annotations

from pifi_probe.checks.basics import check_spec, check_trained_parts
from pifi_probe.checks.extraction import check_index_from_end, check_layer_share
from pifi_probe.checks.folding import check_group_sum, check_one_token_attention
from pifi_probe.checks.judge import Report, attempt
from pifi_probe.checks.plugging import check_freeze, check_pifi_forward, check_projections
from pifi_probe.checks.session import Session, quiz, recorded, start
from pifi_probe.checks.transformer import check_causal_weights, check_gated_mlp, check_rms_norm
from pifi_probe.reporting.block import pifi_block

__all__ = [
    "Report",
    "Session",
    "attempt",
    "check_causal_weights",
    "check_freeze",
    "check_gated_mlp",
    "check_group_sum",
    "check_index_from_end",
    "check_layer_share",
    "check_one_token_attention",
    "check_pifi_forward",
    "check_projections",
    "check_rms_norm",
    "check_spec",
    "check_trained_parts",
    "pifi_block",
    "quiz",
    "recorded",
    "start",
]
