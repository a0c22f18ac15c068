"""Plug one frozen layer of a large language model into a small one, and find out which layer helps."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from pifi_probe.efficiency.benchmark import benchmark as benchmark
    from pifi_probe.efficiency.cost_table import cost_table as cost_table
    from pifi_probe.experiments.decide import Decision
    from pifi_probe.experiments.decide import decide as decide
    from pifi_probe.experiments.doctor import Checkup
    from pifi_probe.experiments.doctor import doctor as doctor
    from pifi_probe.experiments.reproduce import reproduce
    from pifi_probe.experiments.verify import Verified
    from pifi_probe.experiments.verify import verify as verify
    from pifi_probe.kinds import Kind, register_kind
    from pifi_probe.layers.extract import extract
    from pifi_probe.layers.families import register_family
    from pifi_probe.layers.formats import register_format
    from pifi_probe.layers.frozen import FrozenChain, FrozenLayer
    from pifi_probe.layers.parallel import FrozenParallel
    from pifi_probe.layers.reduce import reduce
    from pifi_probe.plugin import (
        LicenceCheck,
        PiFiConfig,
        PiFiForConditionalGeneration,
        PiFiForMultipleChoice,
        PiFiForQuestionAnswering,
        PiFiForSequenceClassification,
        PiFiForTokenClassification,
        plug_in,
        register_head,
        register_wiring,
    )
    from pifi_probe.plugin.embedding import sentence_transformer
    from pifi_probe.probing.chain import probe_chain
    from pifi_probe.probing.chain_table import ChainTable
    from pifi_probe.probing.control import positive_control
    from pifi_probe.probing.headroom import headroom as headroom
    from pifi_probe.probing.headroom_table import Headroom
    from pifi_probe.probing.plugin_probe import probe_plugin
    from pifi_probe.probing.probe import probe
    from pifi_probe.probing.settings import PluginProbeSettings, ProbeSettings
    from pifi_probe.probing.state_arrays import States
    from pifi_probe.probing.states import states as states
    from pifi_probe.probing.table import ProbeTable
    from pifi_probe.selection.search import search
    from pifi_probe.selection.strategies import register_strategy
    from pifi_probe.selection.study import Study
    from pifi_probe.tasks import Task, load_task
    from pifi_probe.training import Recipe, RunResult, fine_tune
    from pifi_probe.training.compare import compare as compare
    from pifi_probe.training.diagnose import diagnose as diagnose

_HOMES = {
    "benchmark": "pifi_probe.efficiency.benchmark",
    "cost_table": "pifi_probe.efficiency.cost_table",
    "decide": "pifi_probe.experiments.decide",
    "Decision": "pifi_probe.experiments.decide",
    "Checkup": "pifi_probe.experiments.doctor",
    "doctor": "pifi_probe.experiments.doctor",
    "Kind": "pifi_probe.kinds",
    "register_kind": "pifi_probe.kinds",
    "extract": "pifi_probe.layers.extract",
    "FrozenChain": "pifi_probe.layers.frozen",
    "FrozenLayer": "pifi_probe.layers.frozen",
    "FrozenParallel": "pifi_probe.layers.parallel",
    "reduce": "pifi_probe.layers.reduce",
    "Verified": "pifi_probe.experiments.verify",
    "verify": "pifi_probe.experiments.verify",
    "reproduce": "pifi_probe.experiments.reproduce",
    "Reproduction": "pifi_probe.experiments.reproduce",
    "LicenceCheck": "pifi_probe.plugin",
    "PiFiConfig": "pifi_probe.plugin",
    "PiFiForConditionalGeneration": "pifi_probe.plugin",
    "PiFiForMultipleChoice": "pifi_probe.plugin",
    "PiFiForQuestionAnswering": "pifi_probe.plugin",
    "PiFiForSequenceClassification": "pifi_probe.plugin",
    "PiFiForTokenClassification": "pifi_probe.plugin",
    "plug_in": "pifi_probe.plugin",
    "register_head": "pifi_probe.plugin",
    "register_wiring": "pifi_probe.plugin",
    "register_family": "pifi_probe.layers.families",
    "register_format": "pifi_probe.layers.formats",
    "register_strategy": "pifi_probe.selection.strategies",
    "ChainTable": "pifi_probe.probing.chain_table",
    "probe_chain": "pifi_probe.probing.chain",
    "headroom": "pifi_probe.probing.headroom",
    "Headroom": "pifi_probe.probing.headroom_table",
    "positive_control": "pifi_probe.probing.control",
    "probe": "pifi_probe.probing.probe",
    "probe_plugin": "pifi_probe.probing.plugin_probe",
    "PluginProbeSettings": "pifi_probe.probing.settings",
    "ProbeSettings": "pifi_probe.probing.settings",
    "States": "pifi_probe.probing.state_arrays",
    "states": "pifi_probe.probing.states",
    "ProbeTable": "pifi_probe.probing.table",
    "search": "pifi_probe.selection.search",
    "sentence_transformer": "pifi_probe.plugin.embedding",
    "Study": "pifi_probe.selection.study",
    "Task": "pifi_probe.tasks",
    "load_task": "pifi_probe.tasks",
    "Recipe": "pifi_probe.training",
    "RunResult": "pifi_probe.training",
    "compare": "pifi_probe.training",
    "diagnose": "pifi_probe.training",
    "fine_tune": "pifi_probe.training",
}

_MODULES = ("assets", "errors", "layerbench", "widgets")

__all__ = [
    "Decision",
    "ChainTable",
    "Checkup",
    "FrozenChain",
    "FrozenLayer",
    "FrozenParallel",
    "Headroom",
    "Kind",
    "LicenceCheck",
    "PiFiConfig",
    "PiFiForConditionalGeneration",
    "PiFiForMultipleChoice",
    "PiFiForQuestionAnswering",
    "PiFiForSequenceClassification",
    "PiFiForTokenClassification",
    "PluginProbeSettings",
    "ProbeSettings",
    "ProbeTable",
    "Recipe",
    "Reproduction",
    "RunResult",
    "States",
    "Study",
    "Task",
    "Verified",
    "__version__",
    "benchmark",
    "compare",
    "cost_table",
    "decide",
    "diagnose",
    "doctor",
    "extract",
    "fine_tune",
    "headroom",
    "load_task",
    "plug_in",
    "positive_control",
    "probe",
    "probe_chain",
    "probe_plugin",
    "reduce",
    "register_family",
    "register_format",
    "register_head",
    "register_kind",
    "register_strategy",
    "register_wiring",
    "reproduce",
    "search",
    "sentence_transformer",
    "states",
    "verify",
]


def __getattr__(name: str) -> Any:
    """Load a public name on first use, so that ``import pifi_probe`` stays quick."""
    from pifi_probe.importing import import_here

    home = f"pifi_probe.{name}" if name in _MODULES else _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module 'pifi_probe' has no attribute {name!r}")
    module = import_here(home)
    return module if name in _MODULES else getattr(module, name)


def __dir__() -> list[str]:
    return sorted([*__all__, *_MODULES])
