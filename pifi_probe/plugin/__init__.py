"""From layers to a model a user trains."""

from pifi_probe.plugin.build import plug_in
from pifi_probe.plugin.card import LicenceCheck
from pifi_probe.plugin.config import COMBINATIONS, CONTROLS, WIRINGS, PiFiConfig, register_wiring
from pifi_probe.plugin.generation import PiFiForConditionalGeneration
from pifi_probe.plugin.heads import PiFiForMultipleChoice, PiFiForQuestionAnswering, PiFiForTokenClassification
from pifi_probe.plugin.modeling import PiFiForSequenceClassification
from pifi_probe.plugin.plugin import PlugIn
from pifi_probe.plugin.registry import HEADS, register_head
from pifi_probe.plugin.tokenizer import tokenizer_for

__all__ = [
    "COMBINATIONS",
    "CONTROLS",
    "HEADS",
    "WIRINGS",
    "LicenceCheck",
    "PiFiConfig",
    "PiFiForConditionalGeneration",
    "PiFiForMultipleChoice",
    "PiFiForQuestionAnswering",
    "PiFiForSequenceClassification",
    "PiFiForTokenClassification",
    "PlugIn",
    "plug_in",
    "register_head",
    "register_wiring",
    "tokenizer_for",
]
