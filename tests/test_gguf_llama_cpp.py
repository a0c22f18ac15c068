"""llama.cpp itself, where `xllamacpp` is installed: it computes from the tests' files what transformers computes.

So the files are as llama.cpp has them, and what the other tests read back from them is what a real file holds.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from gguf import GGUFWriter

from tests import tiny_gguf, tiny_gguf_qwen

xllamacpp = pytest.importorskip("xllamacpp", reason="pip install xllamacpp to have llama.cpp compute the files, too")
pytestmark = pytest.mark.slow

ELSE = {  # what llama.cpp cannot compute, or computes in another way than the models' authors
    "deepseek_v2__lite": "known to llama.cpp by its number of layers",
    "glm4_moe_lite": "the layer that predicts further tokens is not in the file",
}
CHANGED: dict[str, dict[str, Any]] = {
    "phi3": {"sliding_window": None},  # llama.cpp has none
    "gpt_oss": {  # llama.cpp rounds the bounds of yarn
        "rope_parameters": {
            "rope_type": "default", "rope_theta": 1.5e5, "factor": 1.0, "original_max_position_embeddings": 64
        }
    },
    "qwen3_5_text": {"linear_value_head_dim": 8},  # llama.cpp has one size for keys and values
}  # fmt: skip
IDS = [*range(7, 47)]
_GELU = ("gpt2", "bloom", "falcon", "starcoder2", "gemma")  # a table of half precision in llama.cpp


@pytest.fixture
def complete(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have the files say what llama.cpp wants besides: a tokenizer, kinds of layers, no layers left out."""
    own: dict[str, Any] = {name: getattr(GGUFWriter, name) for name in dir(GGUFWriter) if name.startswith("add_")}

    def tokens(self: GGUFWriter, some: list[str]) -> None:
        n = len(some)
        self.add_tokenizer_model("llama")
        own["add_token_list"](self, ["<unk>", "<s>", "</s>", *(f"▁t{i}" for i in range(3, n))])
        self.add_token_scores([-float(i) for i in range(n)])
        self.add_token_types([2, 3, 3] + [1] * (n - 3))

    def interval(self: GGUFWriter, _: int) -> None:
        own["add_full_attention_interval"](self, 2)
        self.add_rope_dimension_sections([1, 1, 0, 0])

    def unless_gpt_oss(name: str) -> Any:
        return lambda self, value: None if self.arch == "gpt-oss" else own[name](self, value)

    monkeypatch.setattr(GGUFWriter, "add_token_list", tokens)
    monkeypatch.setattr(GGUFWriter, "add_full_attention_interval", interval)
    monkeypatch.setattr(GGUFWriter, "add_nextn_predict_layers", lambda *_: None)
    monkeypatch.setattr(
        GGUFWriter, "add_block_count", lambda self, n: own["add_block_count"](self, n - (self.arch == "glm4moe"))
    )
    monkeypatch.setattr(tiny_gguf_qwen, "EXTRA_LAYERS", {})
    for name in ("type", "factor", "orig_ctx_len"):
        monkeypatch.setattr(GGUFWriter, f"add_rope_scaling_{name}", unless_gpt_oss(f"add_rope_scaling_{name}"))
    for family, changes in CHANGED.items():
        architecture, settings = tiny_gguf._ARCHITECTURES[family]
        monkeypatch.setitem(tiny_gguf._ARCHITECTURES, family, (architecture, settings | changes))


@pytest.mark.parametrize("family", [family for family in tiny_gguf.FAMILIES if family not in ELSE])
@pytest.mark.usefixtures("complete")
def test_llama_cpp_computes_from_the_file_what_transformers_computes(family: str, tmp_path: Path) -> None:
    file = tiny_gguf.tiny_gguf(family, tmp_path / "x.gguf")
    model = tiny_gguf.tiny_gguf_model(family)
    if family.startswith("gemma4"):
        model.config.final_logit_softcapping = 30.0  # where the file says nothing
    with torch.no_grad():
        expected = model(torch.tensor([IDS])).logits[0, -1].log_softmax(-1)
    found = probabilities(file)
    assert len(found) == model.config.vocab_size
    worst = max(abs(value - float(expected[token])) for token, value in found.items())
    assert worst < (3e-3 if family.startswith(_GELU) else 1e-4)


def probabilities(file: Path) -> dict[int, float]:
    """Return each token's log-probability after `IDS`."""
    params = xllamacpp.CommonParams()
    params.model.path, params.n_ctx, params.n_parallel, params.warmup = str(file), 64, 1, False
    params.cpuparams.n_threads = 1
    params.cache_type_k = params.cache_type_v = xllamacpp.ggml_type.GGML_TYPE_F32
    params.flash_attn_type = xllamacpp.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
    asked = {"prompt": IDS, "n_predict": 1, "n_probs": 99, "samplers": [], "cache_prompt": False}
    answer = xllamacpp.Server(params).handle_completions(asked)
    answer = answer if isinstance(answer, dict) else json.loads(answer)
    return {one["id"]: one["logprob"] for one in answer["choices"][0]["logprobs"]["content"][0]["top_logprobs"]}
