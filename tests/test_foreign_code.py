"""Nothing that a model brings with it is run or fetched: no Python file, no kernel, no pickle, no other model."""

from __future__ import annotations

import ast
import builtins
import json
import pickle
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModel

import pifi_probe as pp
from pifi_probe.cli import main
from pifi_probe.errors import PifiProbeError, UnsupportedFamilyError, UnsupportedFormatError
from pifi_probe.layers.outlook import width_of
from pifi_probe.permissions import ALLOW_PICKLE, allowing_pickle, pickle_allowed
from pifi_probe.pretrained import harmless_entries, open_config
from tests import slm, tiny

PACKAGE = Path(pp.__file__).parent
AUTO_MAP = {
    "AutoConfig": "own_code.OwnConfig",
    "AutoModel": "own_code.OwnModel",
    "AutoModelForCausalLM": "own_code.OwnModel",
    "AutoModelForSeq2SeqLM": "own_code.OwnModel",
    "AutoTokenizer": ["own_code.OwnTokenizer", "own_code.OwnTokenizer"],
}


def edit(path: Path, **values: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


@pytest.fixture
def marker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where foreign code leaves its trace; whoever asks for a permission gets a yes."""
    monkeypatch.setattr(builtins, "input", lambda *_: "y")
    return tmp_path / "ran"


def with_code(folder: Path, marker: Path, *, known: bool) -> Path:
    """Let a folder bring code for its configuration, model and tokenizer; a `known` family needs none of it."""
    (folder / "own_code.py").write_text(f"open({str(marker)!r}, 'w').write('ran')\nclass OwnConfig: pass\n")
    more = {} if known else {"model_type": "own"}
    edit(folder / "config.json", auto_map=AUTO_MAP, **more)
    if (folder / "tokenizer_config.json").exists():
        edit(folder / "tokenizer_config.json", auto_map={"AutoTokenizer": AUTO_MAP["AutoTokenizer"]})
    (folder / "custom_generate").mkdir()
    (folder / "custom_generate" / "generate.py").write_text(f"open({str(marker)!r}, 'w').write('ran')\n")
    return folder


def plug(folder: str) -> Any:
    return pp.plug_in(folder, control="vanilla", task=slm.tiny_task())


DOORS: dict[str, Callable[[str, str], object]] = {
    "plug_in": lambda encoder, llm: plug(encoder),
    "search": lambda encoder, llm: pp.search(encoder, llm, slm.tiny_task(), study=None, budget="1 trials"),
    "probe_plugin": lambda encoder, llm: pp.probe_plugin(encoder, llm, slm.tiny_task(), n=16, progress=False),
    "width_of": lambda encoder, llm: width_of(encoder),
    "extract": lambda encoder, llm: pp.extract(f"{encoder}[0]"),
    "probe": lambda encoder, llm: pp.probe(encoder, slm.tiny_task(), n=16, progress=False),
}


@pytest.mark.parametrize("door", DOORS)
def test_code_of_an_unknown_family_is_refused_and_not_run(door: str, marker: Path, tmp_path: Path) -> None:
    folder = with_code(slm.tiny_slm_folder(tmp_path / "slm"), marker, known=False)
    llm = tiny.tiny_checkpoint("llama", tmp_path / "llm")
    with pytest.raises(PifiProbeError) as caught:
        DOORS[door](str(folder), str(llm))
    assert "trust_remote_code" not in str(caught.value)
    assert not marker.exists()


def test_the_command_line_does_not_run_code_that_a_yes_would_allow(marker: Path, tmp_path: Path) -> None:
    folder = with_code(slm.tiny_slm_folder(tmp_path / "slm"), marker, known=False)
    task = tmp_path / "task.csv"
    task.write_text("text,label\n" + "".join(f"text {i},{'ab'[i % 2]}\n" for i in range(40)))
    for command in (
        ["train", "--task", str(task), "--slm", str(folder), "-o", str(tmp_path / "run")],
        ["info", str(folder)],
        ["bench", "--slm", str(folder)],
    ):
        assert main(command) == 2
    arguments = [sys.executable, "-m", "pifi_probe", "info", "smollm2-135m", "--slm", str(folder)]
    if not (PACKAGE / "__main__.py").exists():
        arguments[1:3] = ["-c", "import sys; from pifi_probe.cli import main; sys.exit(main(sys.argv[1:]))"]
    done = subprocess.run(arguments, input="y\nyes\n", capture_output=True, text=True)
    assert done.returncode == 2 and "never run" in done.stderr and "y/N" not in done.stdout + done.stderr
    assert not marker.exists()


def test_code_beside_a_known_family_is_passed_over(marker: Path, tmp_path: Path) -> None:
    folder = with_code(slm.tiny_slm_folder(tmp_path / "slm"), marker, known=True)
    model = plug(str(folder))
    model.save_pretrained(tmp_path / "saved")
    assert "auto_map" not in (tmp_path / "saved" / "config.json").read_text()
    assert not marker.exists()


def test_a_saved_model_runs_no_code_that_was_put_into_it(marker: Path, tmp_path: Path) -> None:
    plug(str(slm.tiny_slm_folder(tmp_path / "slm"))).save_pretrained(tmp_path / "saved")
    (tmp_path / "saved" / "own_code.py").write_text(f"open({str(marker)!r}, 'w').write('ran')\n")
    config = json.loads((tmp_path / "saved" / "config.json").read_text())
    config["encoder"] |= {"auto_map": AUTO_MAP, "_attn_implementation": "evil/kernel"}
    (tmp_path / "saved" / "config.json").write_text(json.dumps({**config, "auto_map": AUTO_MAP}))
    again = pp.PiFiForSequenceClassification.from_pretrained(tmp_path / "saved")
    assert not hasattr(again.config, "auto_map") and again.encoder.config._attn_implementation in ("sdpa", "eager")
    edit(tmp_path / "saved" / "config.json", encoder={**config["encoder"], "model_type": "own"})
    with pytest.raises(Exception, match="own"):
        pp.PiFiForSequenceClassification.from_pretrained(tmp_path / "saved")
    assert not marker.exists()


KERNELS = {
    "attn_implementation": "evil/kernel",
    "_attn_implementation": "evil/kernel@main:attention",
    "_attn_implementation_internal": "evil/kernel",
    "experts_implementation": "evil/kernel",
    "_experts_implementation": "evil/kernel",
    "use_kernels": True,
    "kernel_config": {"RMSNorm": "evil/kernel:Norm"},
    "fusion_config": {"evil": True},
    "custom_pipelines": {"text-classification": {"impl": "own_code.Pipeline"}},
}


@pytest.mark.parametrize("key", KERNELS)
def test_a_configuration_that_names_a_kernel_loads_without_it(
    key: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fetched(*args: object, **kwargs: object) -> None:
        raise AssertionError("a kernel was asked for")

    for name in ("load_and_register_attn_kernel", "lazy_load_kernel", "get_kernel"):
        monkeypatch.setattr(f"transformers.integrations.hub_kernels.{name}", fetched, raising=False)
    monkeypatch.setattr("transformers.modeling_utils.lazy_import_flash_attention", fetched)
    folder = slm.tiny_slm_folder(tmp_path / "slm")
    plain = slm.logits(plug(str(folder)))
    edit(folder / "config.json", **{key: KERNELS[key]})
    model = plug(str(folder))
    assert torch.equal(slm.logits(model), plain)
    assert "evil" not in json.dumps(model.config.to_dict())

    llm = tiny.tiny_checkpoint("llama", tmp_path / "llm")
    digest = pp.extract(f"{llm}[0]").card.sha256
    edit(llm / "config.json", **{key: KERNELS[key]})
    layer = pp.extract(f"{llm}[0]")
    assert layer.card.sha256 == digest and "evil" not in json.dumps(layer.config.to_dict())


def test_entries_that_name_code_are_left_out_however_deep_they_lie() -> None:
    entries = {"a": 1, "text_config": {"auto_map": AUTO_MAP, "attn_implementation": "o/k", "b": [2]}}
    assert harmless_entries(entries) == {"a": 1, "text_config": {"b": [2]}}
    assert harmless_entries({"_attn_implementation": "eager"}) == {"_attn_implementation": "eager"}


def as_pickle(folder: Path) -> Path:
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    return folder


def test_a_pickled_encoder_needs_a_permission(tmp_path: Path) -> None:
    folder = slm.tiny_slm_folder(tmp_path / "slm")
    plain = slm.logits(plug(str(folder)))
    as_pickle(folder)
    with pytest.raises(UnsupportedFormatError, match="allow_pickle=True") as caught:
        plug(str(folder))
    assert "--allow-pickle" in caught.value.next and f"{ALLOW_PICKLE}=1" in caught.value.next
    allowed = pp.plug_in(str(folder), control="vanilla", task=slm.tiny_task(), allow_pickle=True)
    assert torch.equal(slm.logits(allowed), plain)
    assert not pickle_allowed()


def test_the_command_line_reads_a_pickled_encoder_on_request(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = as_pickle(slm.tiny_slm_folder(tmp_path / "slm"))
    task = tmp_path / "task.csv"
    task.write_text("text,label\n" + "".join(f"the film was {slm.WORDS[i % 8]} {i},{i % 8 < 4:d}\n" for i in range(60)))
    command = ["train", "--task", str(task), "--slm", str(folder), "--control", "vanilla", "-o", str(tmp_path / "run")]
    command += ["--layer", f"{tiny.tiny_checkpoint('llama', tmp_path / 'llm')}[0]", "--epochs", "1"]
    assert main(command) == 2 and "--allow-pickle" in capsys.readouterr().err
    assert main([*command, "--allow-pickle"]) == 0


class Evil:
    """Leaves a file when it is unpickled."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[object, ...]:
        return open, (str(self.marker), "w")


def test_a_pickle_with_code_is_not_run_even_where_pickles_are_read(marker: Path, tmp_path: Path) -> None:
    folder = as_pickle(slm.tiny_slm_folder(tmp_path / "slm"))
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps(Evil(marker)))
    with pytest.raises(PifiProbeError):
        pp.plug_in(str(folder), control="vanilla", task=slm.tiny_task(), allow_pickle=True)
    assert not marker.exists()


def test_a_saved_model_as_pickle_needs_a_permission(tmp_path: Path) -> None:
    model = plug(str(slm.tiny_slm_folder(tmp_path / "slm")))
    model.save_pretrained(tmp_path / "saved")
    as_pickle(tmp_path / "saved")
    with pytest.raises(UnsupportedFormatError, match="allow_pickle=True"):
        pp.PiFiForSequenceClassification.from_pretrained(tmp_path / "saved")
    again = pp.PiFiForSequenceClassification.from_pretrained(tmp_path / "saved", allow_pickle=True)
    assert torch.equal(slm.logits(again), slm.logits(model))


def test_permissions_end_with_the_call_that_gave_them() -> None:
    with allowing_pickle(True):
        with allowing_pickle(True), allowing_pickle(False):
            pass
        assert pickle_allowed()
    assert not pickle_allowed()


@pytest.mark.parametrize("whole", [True, False])
def test_an_adapter_does_not_open_the_model_that_it_names(whole: bool, tmp_path: Path) -> None:
    folder = slm.tiny_slm_folder(tmp_path / "slm")
    other = slm.tiny_slm_folder(tmp_path / "other", seed=1)
    (folder / "adapter_config.json").write_text(
        json.dumps({"peft_type": "LORA", "base_model_name_or_path": str(other), "r": 2})
    )
    if not whole:
        shutil.move(folder / "config.json", tmp_path / "config.json")
    with pytest.raises(PifiProbeError) as caught:
        plug(str(folder))
    assert not whole or "adapter" in str(caught.value)


def test_a_quantised_encoder_is_refused(tmp_path: Path) -> None:
    folder = slm.tiny_slm_folder(tmp_path / "slm")
    edit(folder / "config.json", quantization_config={"quant_method": "gptq", "bits": 4})
    with pytest.raises(UnsupportedFormatError, match="gptq"):
        plug(str(folder))


def test_an_encoder_that_needs_another_model_is_refused(tmp_path: Path) -> None:
    folder = slm.tiny_slm_folder(tmp_path / "slm")
    edit(folder / "config.json", backbone="evil/backbone", use_pretrained_backbone=True)
    with pytest.raises(UnsupportedFormatError, match="names another model"):
        plug(str(folder))


def test_an_unknown_family_says_that_its_code_is_not_run(marker: Path, tmp_path: Path) -> None:
    folder = with_code(slm.tiny_slm_folder(tmp_path / "slm"), marker, known=False)
    with pytest.raises(UnsupportedFamilyError, match="never run"):
        open_config(folder)


def calls_of_auto_classes() -> list[tuple[str, ast.Call]]:
    """Return every call in the package that could load something through an Auto class, with its place."""
    found = []
    for path in sorted(PACKAGE.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
                if node.func.attr not in ("from_pretrained", "from_config"):
                    continue
                owner = ast.unparse(node.func.value)
                if owner in ("super()", "cls") and path.name == "base.py":
                    continue  # of a plugged model, which is our own class
                if owner.startswith("MODEL_MAPPING[") and ast.unparse(node.args[0]) == "None":
                    continue  # weights that are at hand already, and a class of transformers
                found.append((f"{path.relative_to(PACKAGE)}:{node.lineno}", node))
    return found


def test_every_call_of_an_auto_class_says_that_no_code_is_trusted() -> None:
    calls = calls_of_auto_classes()
    assert len(calls) >= 4
    for place, call in calls:
        trusted = {word.arg: ast.unparse(word.value) for word in call.keywords}.get("trust_remote_code")
        assert trusted == "False", f"{place} has no trust_remote_code=False"
    for word in ("pipeline(", "torch.hub", "get_class_from_dynamic_module", "load_adapter("):
        assert not [path for path in PACKAGE.rglob("*.py") if word in path.read_text(encoding="utf-8")], word


def test_transformers_would_run_that_code(marker: Path, tmp_path: Path) -> None:
    """The bait is poisonous: loaded as transformers loads it when asked to trust it, it leaves its trace."""
    folder = with_code(slm.tiny_slm_folder(tmp_path / "slm"), marker, known=False)
    with pytest.raises(Exception):  # noqa: B017
        AutoModel.from_pretrained(folder, trust_remote_code=True)
    assert marker.exists()
