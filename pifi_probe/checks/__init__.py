"""What the notebooks need: a reproducible start, checks of the exercises, quizzes and recorded studies."""

from __future__ import annotations

from pifi_probe.checks.argument import chain_gains, depth_figure, gains_by_depth
from pifi_probe.checks.basics import check_spec, check_trained_parts
from pifi_probe.checks.combining import check_majority_vote, check_mix, check_more_than_ensemble
from pifi_probe.checks.copying import check_effect, check_lacking, check_next_word
from pifi_probe.checks.costs import check_plugin_macs, check_slower, check_training_bytes
from pifi_probe.checks.depths import check_f_statistic, check_regret, check_winners_loss
from pifi_probe.checks.exams import check_chance, check_chosen, check_questions_needed
from pifi_probe.checks.extraction import check_index_from_end, check_layer_share
from pifi_probe.checks.folding import check_group_sum, check_one_token_attention
from pifi_probe.checks.folds import joined_folds
from pifi_probe.checks.forgetting import check_forgetting, check_relative_change, check_trainable_on_one_token
from pifi_probe.checks.gains import check_added, check_gain_with_error, check_log_volume
from pifi_probe.checks.judge import Report, attempt
from pifi_probe.checks.languages import check_bits_per_byte, check_difference_of_differences, check_fertility
from pifi_probe.checks.machines import check_layer_bytes, check_texts_that_fit, check_wall_minutes
from pifi_probe.checks.owndata import check_allowed, check_majority
from pifi_probe.checks.plugging import check_freeze, check_pifi_forward, check_projections
from pifi_probe.checks.probes import check_left_out_residuals, check_p_value, check_pool_tokens
from pifi_probe.checks.records import Record, experiment
from pifi_probe.checks.refereeing import check_found_by_holm, check_objections, check_paired
from pifi_probe.checks.revealing import reveal
from pifi_probe.checks.saying import say
from pifi_probe.checks.searching import check_chance_to_be_best, check_next_layer, check_paired_error
from pifi_probe.checks.session import Session, guessed, quiz, record, recorded, recorded_table, start
from pifi_probe.checks.shifting import check_accuracy_under, check_auroc, check_balanced_accuracy
from pifi_probe.checks.training import check_control_for, check_gain_parts, check_seed_interval
from pifi_probe.checks.transformer import check_causal_weights, check_gated_mlp, check_rms_norm
from pifi_probe.checks.widgeting import check_button_for, check_spent_on, check_steady_best
from pifi_probe.checks.writing import check_clipped_precision, check_decoder_inputs
from pifi_probe.reporting.block import pifi_block

__all__ = [
    "check_found_by_holm",
    "check_objections",
    "check_paired",
    "check_steady_best",
    "check_spent_on",
    "check_button_for",
    "check_balanced_accuracy",
    "check_auroc",
    "check_accuracy_under",
    "check_more_than_ensemble",
    "check_mix",
    "check_majority_vote",
    "check_paired_error",
    "check_next_layer",
    "check_chance_to_be_best",
    "check_winners_loss",
    "check_regret",
    "check_f_statistic",
    "Record",
    "Report",
    "Session",
    "attempt",
    "check_added",
    "check_allowed",
    "check_bits_per_byte",
    "check_causal_weights",
    "check_chance",
    "check_chosen",
    "check_clipped_precision",
    "check_control_for",
    "check_decoder_inputs",
    "check_effect",
    "check_difference_of_differences",
    "check_fertility",
    "check_forgetting",
    "check_freeze",
    "check_gain_parts",
    "check_gain_with_error",
    "check_gated_mlp",
    "check_group_sum",
    "check_index_from_end",
    "check_lacking",
    "check_layer_bytes",
    "check_layer_share",
    "check_left_out_residuals",
    "check_log_volume",
    "check_majority",
    "check_next_word",
    "check_one_token_attention",
    "check_p_value",
    "check_pifi_forward",
    "check_plugin_macs",
    "check_pool_tokens",
    "check_projections",
    "check_questions_needed",
    "check_relative_change",
    "check_rms_norm",
    "check_seed_interval",
    "check_slower",
    "check_spec",
    "check_texts_that_fit",
    "check_trainable_on_one_token",
    "check_trained_parts",
    "check_training_bytes",
    "check_wall_minutes",
    "chain_gains",
    "depth_figure",
    "experiment",
    "gains_by_depth",
    "guessed",
    "joined_folds",
    "pifi_block",
    "quiz",
    "record",
    "recorded",
    "recorded_table",
    "reveal",
    "say",
    "start",
]
