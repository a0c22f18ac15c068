"""Recipe, run, controls, comparison, diagnosis."""

from pifi_probe.training.recipe import Recipe
from pifi_probe.training.result import RunResult, TestResult
from pifi_probe.training.run import fine_tune

__all__ = ["Recipe", "RunResult", "TestResult", "fine_tune"]
