"""Recipe, run, controls, comparison, diagnosis."""

from pifi_probe.training.compare import compare
from pifi_probe.training.comparison import Comparison, Row
from pifi_probe.training.controls import controls, controls_at_equal_k, vanilla_best_lr
from pifi_probe.training.diagnose import Diagnosis, diagnose
from pifi_probe.training.ensemble import ensemble
from pifi_probe.training.recipe import Recipe
from pifi_probe.training.result import RunResult, TestResult
from pifi_probe.training.run import fine_tune
from pifi_probe.training.signatures import Check

__all__ = [
    "Check",
    "Comparison",
    "Diagnosis",
    "Recipe",
    "Row",
    "RunResult",
    "TestResult",
    "compare",
    "controls",
    "controls_at_equal_k",
    "diagnose",
    "ensemble",
    "fine_tune",
    "vanilla_best_lr",
]
