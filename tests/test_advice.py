"""Whoever does what an error says gets on: the advice is read from the error and followed."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas
import pytest
import torch
from safetensors.torch import load_file

import pifi_probe as pp
from pifi_probe import assets
from pifi_probe.cli import main
from pifi_probe.errors import LicenceError, PifiProbeError, PlugInError, TaskError, TrainingDiverged
from pifi_probe.layers.frozen import FrozenLayer
from pifi_probe.plugin.card import check_licence
from pifi_probe.training import Recipe
from tests import slm, tiny


@dataclass
class Place:
    """A folder with a small model, a large one, and a table."""

    folder: Path

    @property
    def slm(self) -> str:
        folder = self.folder / "slm"
        return str(folder if folder.exists() else slm.tiny_slm_folder(folder))

    @property
    def decoder(self) -> str:
        return str(slm.tiny_slm_folder(self.folder / "decoder", "gpt2"))

    @property
    def llm(self) -> str:
        folder = self.folder / "llm"
        if not folder.exists():
            tiny.tiny_checkpoint("llama", folder)
            slm.tiny_tokenizer().save_pretrained(folder)
        return str(folder)

    @property
    def wide(self) -> str:
        folder = self.folder / "wide"
        return str(folder if folder.exists() else tiny.tiny_checkpoint("llama", folder, hidden_size=48, head_dim=12))

    def table(self, name: str, separator: str) -> Path:
        path = self.folder / name
        rows = [
            f"the film was {slm.WORDS[i % 8]} number {i}{separator}{'good' if i % 8 < 4 else 'bad'}" for i in range(60)
        ]
        path.write_text("\n".join([f"text{separator}label", *rows]) + "\n", encoding="utf-8")
        return path

    def plug(self, layer: Any = None, **options: Any) -> Any:
        return pp.plug_in(self.slm, layer or f"{self.llm}[0]", task=slm.tiny_task(), **options)


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    monkeypatch.chdir(tmp_path)
    return Place(tmp_path)


def advice_of(call: Callable[[], object]) -> str:
    with pytest.raises(PifiProbeError) as caught:
        call()
    assert caught.value.next, "an error without advice"
    return caught.value.next


# What is done wrongly, a word or option that the advice names, and the same again with it.
CASES: dict[str, tuple[Callable[[Place], object], str, Callable[[Place], object]]] = {
    "a layer out of range": (
        lambda at: pp.extract(f"{at.llm}[9]"),
        r"from 0 to (\d+)",
        lambda at: pp.extract(f"{at.llm}[2]"),
    ),
    "layers of two widths in series": (
        lambda at: pp.extract(f"{at.llm}[0] >> {at.wide}[1]"),
        r"with \|",
        lambda at: at.plug(f"{at.llm}[0] | {at.wide}[1]"),
    ),
    "layers of two widths mixed": (
        lambda at: at.plug(f"{at.llm}[0] | {at.wide}[1]", combine="mix"),
        'combine="unshared"',
        lambda at: at.plug(f"{at.llm}[0] | {at.wide}[1]", combine="unshared"),
    ),
    "one layer combined": (
        lambda at: at.plug(combine="mix"),
        "leave combine out",
        lambda at: at.plug(),
    ),
    "no layer": (
        lambda at: pp.plug_in(at.slm, task=slm.tiny_task()),
        r"name one",
        lambda at: at.plug(),
    ),
    "an unknown dtype": (
        lambda at: pp.extract(f"{at.llm}[0]", dtype="float8"),
        "auto",
        lambda at: pp.extract(f"{at.llm}[0]", dtype="auto"),
    ),
    "an unknown device": (
        lambda at: pp.extract(f"{at.llm}[0]", device="warp"),
        "cpu",
        lambda at: pp.extract(f"{at.llm}[0]", device="cpu"),
    ),
    "a revision of a folder": (
        lambda at: pp.extract(f"{at.llm}[0]", revision="main"),
        "leave the revision out",
        lambda at: pp.extract(f"{at.llm}[0]"),
    ),
    "a sequence for a combination that cannot be folded": (
        lambda at: at.plug(feed="sequence").fold(),
        'feed="pooled"',
        lambda at: at.plug(feed="pooled").fold(),
    ),
    "an aligned chain that cannot be folded": (
        lambda at: at.plug(f"{at.llm}[0:2]", wiring="aligned").fold(),
        'deploy the model as it is; single layers with wiring="pifi"',
        lambda at: at.plug(wiring="pifi").fold(),
    ),
    "the first token of a decoder": (
        lambda at: pp.plug_in(at.decoder, f"{at.llm}[0]", task=slm.tiny_task(), pooling="cls"),
        'pooling="last"',
        lambda at: pp.plug_in(at.decoder, f"{at.llm}[0]", task=slm.tiny_task(), pooling="last"),
    ),
    "a form of folding": (
        lambda at: at.plug().fold(form="square"),
        "auto",
        lambda at: at.plug().fold(form="auto"),
    ),
    "resuming nowhere": (
        lambda at: pp.fine_tune(at.plug(), slm.tiny_task(), Recipe(epochs=1), resume=True),
        "name the folder",
        lambda at: pp.fine_tune(at.plug(), slm.tiny_task(), Recipe(epochs=1), out=at.folder / "run", resume=True),
    ),
    "saving nowhere": (
        lambda at: pp.fine_tune(at.plug(), slm.tiny_task(), Recipe(epochs=1), save_model=True),
        "name the folder",
        lambda at: pp.fine_tune(at.plug(), slm.tiny_task(), Recipe(epochs=1), out=at.folder / "run", save_model=True),
    ),
    "a misspelt setting": (
        lambda at: Recipe.from_dict({"epoch": 2}),
        "epochs",
        lambda at: Recipe.from_dict({"epochs": 2}),
    ),
    "texts beyond the positions": (
        lambda at: pp.fine_tune(at.plug(), _long_task(), Recipe(epochs=1, max_tokens=100), out=at.folder / "run"),
        r"max_tokens=(\d+)",
        lambda at: pp.fine_tune(at.plug(), _long_task(), Recipe(epochs=1, max_tokens=64), out=at.folder / "run"),
    ),
    "probing the test split": (
        lambda at: pp.probe(at.llm, slm.tiny_task(), pp.ProbeSettings(split="test"), n=16, progress=False),
        'split="train"',
        lambda at: pp.probe(
            at.llm,
            slm.tiny_task(),
            pp.ProbeSettings(split="train", n_permutations=2, cache=False),
            n=24,
            progress=False,
        ),
    ),
    "a tab-separated file called .csv": (
        lambda at: pp.load_task(at.table("task.csv", "\t")),
        "rename it to task.tsv",
        lambda at: pp.load_task(at.table("task.csv", "\t").rename(at.folder / "task.tsv")),
    ),
    "a misspelt column": (
        lambda at: pp.load_task(at.table("task.csv", ","), text="texd", label="label"),
        "did you mean 'text'",
        lambda at: pp.load_task(at.table("task.csv", ","), text="text", label="label"),
    ),
    "a second result of one arm": (
        lambda at: pp.compare([]),
        "pp.fine_tune",
        lambda at: pp.compare(
            [pp.fine_tune(at.plug(control="vanilla"), slm.tiny_task(), Recipe(epochs=1))] * 1, baseline="vanilla"
        ),
    ),
    "an unknown strategy": (
        lambda at: pp.search(at.slm, at.llm, slm.tiny_task(), strategy="magic", study=None),
        "fast",
        lambda at: pp.search(
            at.slm,
            at.llm,
            slm.tiny_task(),
            strategy="last",
            study=None,
            budget="2 trials",
            confirm=False,
            recipe=Recipe(epochs=1),
        ),
    ),
}


def _vanilla(at: Place, seed: int) -> pp.RunResult:
    return pp.fine_tune(at.plug(control="vanilla", seed=seed), slm.tiny_task(), Recipe(epochs=1, seed=seed))


def _search(at: Place, strategy: str) -> pp.Study:
    short = Recipe(epochs=1)
    return pp.search(
        at.slm, at.llm, slm.tiny_task(), strategy=strategy, study=None, wiring="pifi", budget="2 trials", recipe=short
    )


def _long_task() -> pp.Task:
    task = slm.tiny_task()
    from dataclasses import replace

    splits = {
        name: replace(split, texts=tuple(f"{text} {'very ' * 90}{row}" for row, text in enumerate(split.texts)))
        for name, split in task.splits.items()
    }
    return replace(task, splits=splits)


@pytest.mark.parametrize("case", CASES)
def test_doing_what_the_error_says_works(case: str, place: Place) -> None:
    wrong, says, again = CASES[case]
    found = advice_of(lambda: wrong(place))
    assert re.search(says, found), found
    again(place)


@pytest.mark.parametrize("separator", [";", "|"])
def test_the_code_that_an_error_shows_mends_the_file(separator: str, place: Place) -> None:
    path = place.table("task.csv", separator)
    with pytest.raises(TaskError) as caught:
        pp.load_task(path)
    assert "did you mean" not in str(caught.value)
    exec(caught.value.next.partition(": ")[2], {"pandas": pandas})
    assert len(pp.load_task(place.folder / "task-commas.csv").splits["train"]) > 30


def overflowing(place: Place) -> str:
    """A donor whose layer overflows in float16, and in no wider type."""
    folder = Path(place.llm)
    weights = load_file(folder / "model.safetensors")
    weights["model.layers.0.mlp.down_proj.weight"] *= 1e7 / weights["model.layers.0.mlp.down_proj.weight"].abs().max()
    from safetensors.torch import save_file

    save_file({name: t.clamp(-6e4, 6e4) for name, t in weights.items()}, folder / "model.safetensors", {"format": "pt"})
    return f"{folder}[0]"


@pytest.mark.parametrize("wiring", ["pifi", "matched"])
def test_a_layer_that_overflows_in_float16_is_advised_into_float32(wiring: str, place: Place) -> None:
    spec = overflowing(place)

    def train(dtype: str) -> object:
        model = place.plug(
            pp.extract(spec, dtype=dtype), wiring=wiring, target_rms=1e3 if wiring == "matched" else None
        )
        if wiring == "pifi":
            with torch.no_grad():
                model.plugin.L_in.weight.mul_(1e3)
        return pp.fine_tune(model, slm.tiny_task(), Recipe(epochs=1))

    with pytest.raises((PlugInError, TrainingDiverged)) as caught:
        train("float16")
    assert 'dtype="float32"' in caught.value.next and "scale=" not in caught.value.next
    train("float32")


def test_a_diverged_run_of_the_matched_scale_is_not_sent_to_it(place: Place) -> None:
    for wiring, sent in (("pifi", True), ("matched", False)):
        model = place.plug(wiring=wiring, target_rms=1.0 if wiring == "matched" else None)
        with pytest.raises(TrainingDiverged) as caught:
            pp.fine_tune(model, slm.tiny_task(), Recipe(epochs=3, learning_rate=1e30))
        assert ('scale="matched"' in caught.value.next) == sent


@pytest.mark.parametrize("kind", ["plain", "folded", "unfrozen"])
def test_a_gated_donor_is_passed_on_as_its_error_says(kind: str, place: Place) -> None:
    layer = pp.extract(f"{place.llm}[0]")
    assert isinstance(layer, FrozenLayer)
    plain = place.plug(layer.with_card(gated=True), **({"control": "unfrozen"} if kind == "unfrozen" else {}))
    model = plain.fold() if kind == "folded" else plain
    with pytest.raises(LicenceError) as caught:
        check_licence(model, None)
    assert ("config.save_layer=False" in caught.value.next) == (kind != "unfrozen")
    plain.config.save_layer = False
    if kind == "unfrozen":
        with pytest.raises(LicenceError):
            check_licence(plain, None)
    else:
        check_licence(plain, None)
    check_licence(model, "by agreement")


def test_a_folder_of_gguf_files_names_the_file_to_give(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = place.folder / "ggufs"
    folder.mkdir()
    (folder / "model.gguf").write_bytes(b"GGUF")
    (folder / "config.json").write_text(json.dumps({"model_type": "llama"}))
    found = advice_of(lambda: pp.extract(f"{folder}[0]"))
    assert found.endswith(str(folder / "model.gguf")) and Path(found.rpartition(": ")[2]).is_file()


def commands_in(text: str) -> list[list[str]]:
    """Return the commands of this program that a text names in backquotes."""
    return [shlex.split(found)[1:] for found in re.findall(r"`(pifi-probe [^`]+)`", text)]


def test_commands_that_errors_name_exist(capsys: pytest.CaptureFixture[str]) -> None:
    """Every `pifi-probe ...` in the package's advice is a command with these options."""
    found = set()
    for path in Path(pp.__file__).parent.rglob("*.py"):
        text = re.sub(r'"\s*\n\s*f?"', "", path.read_text(encoding="utf-8"))
        for command in commands_in(re.sub(r"\{[^{}]*\}", "NAME", text)):
            words = []
            for word in command:
                if not re.fullmatch(r"[a-z]+|--[a-z-]+", word):
                    break
                words.append(word)
            found.add(tuple(words))
    assert len(found) >= 3
    for words in found:
        place = [word for word in words if not word.startswith("-")]
        while place and main([*place, "--help"]) != 0:
            place.pop()
        capsys.readouterr()
        assert place, words
        main([*place, "--help"])
        shown = capsys.readouterr().out
        for option in (word for word in words if word.startswith("--")):
            assert option in shown, f"{words}: {option}"


def test_the_embedded_names_that_an_error_lists_are_names(place: Place) -> None:
    found = advice_of(lambda: assets.path("no-such-asset"))
    names = found.partition(": ")[2].split(", ")
    assert len(names) > 3 and all(assets.is_asset(name) for name in names)
