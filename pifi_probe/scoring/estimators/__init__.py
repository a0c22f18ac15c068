"""What a feature set is worth for a task: one call, ``estimators.logme(features, labels) -> float``, for each score."""

from __future__ import annotations

from pifi_probe.scoring.estimators.coding import mdl, transrate
from pifi_probe.scoring.estimators.densities import gbc, nleep
from pifi_probe.scoring.estimators.evidence import logme
from pifi_probe.scoring.estimators.geometry import cka, effective_rank, mutual_knn
from pifi_probe.scoring.estimators.hscore import hscore
from pifi_probe.scoring.estimators.information import usable_information
from pifi_probe.scoring.estimators.logistic import logistic_accuracy, logistic_nll
from pifi_probe.scoring.estimators.mlp import mlp
from pifi_probe.scoring.estimators.neighbours import knn, nearest_mean
from pifi_probe.scoring.estimators.registry import Estimator, Scored, estimator, get, names, register_estimator, resolve
from pifi_probe.scoring.estimators.ridge import ridge_accuracy, ridge_mse
from pifi_probe.scoring.estimators.similarity import gradient_coherence, loes, parc
from pifi_probe.scoring.estimators.span import span
from pifi_probe.scoring.estimators.variability import fisher_ratio, hidden_state_variability
from pifi_probe.scoring.labels import as_labels

__all__ = [
    "Estimator",
    "Scored",
    "as_labels",
    "cka",
    "effective_rank",
    "estimator",
    "fisher_ratio",
    "gbc",
    "get",
    "gradient_coherence",
    "hidden_state_variability",
    "hscore",
    "knn",
    "loes",
    "logistic_accuracy",
    "logistic_nll",
    "logme",
    "mdl",
    "mlp",
    "mutual_knn",
    "names",
    "nearest_mean",
    "nleep",
    "parc",
    "resolve",
    "register_estimator",
    "ridge_accuracy",
    "ridge_mse",
    "span",
    "transrate",
    "usable_information",
]
