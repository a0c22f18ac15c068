"""From layers to a model a user trains."""

from pifi_probe.plugin.build import plug_in, tokenizer_for
from pifi_probe.plugin.config import CONTROLS, WIRINGS, PiFiConfig
from pifi_probe.plugin.modeling import PiFiForSequenceClassification
from pifi_probe.plugin.plugin import PlugIn

__all__ = [
    "CONTROLS",
    "WIRINGS",
    "PiFiConfig",
    "PiFiForSequenceClassification",
    "PlugIn",
    "plug_in",
    "tokenizer_for",
]
