"""What the block costs: time, memory, multiply-accumulates and bytes, side by side with its rivals."""

from pifi_probe.efficiency.benchmark import benchmark
from pifi_probe.efficiency.result import ArmCost, Benchmark, Spread

__all__ = ["ArmCost", "Benchmark", "Spread", "benchmark"]
