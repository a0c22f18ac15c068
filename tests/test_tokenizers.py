"""Tokenizers: one that cannot be used is refused before anything is trained, and one that can be is found."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    AutoModel,
    AutoModelForMaskedLM,
    AutoModelForSequenceClassification,
    PreTrainedTokenizerFast,
    T5Model,
)

import pifi_probe as pp
from pifi_probe.errors import PlugInError, TokenizerError
from pifi_probe.features.donor import llm_features
from pifi_probe.layers.open import open_checkpoint
from pifi_probe.layers.tokenizer import check_known, check_tokenizer, donor_tokenizer, load_tokenizer
from pifi_probe.plugin import tokenizer_for
from pifi_probe.probing.encoder_vectors import slm_features
from tests import slm
from tests.hub_server import running_hub
from tests.kinds import task_of, tiny_seq2seq
from tests.tiny import tiny_checkpoint

TASK = slm.tiny_task(16)
FAMILIES = ("bert", "roberta", "deberta", "deberta-v2", "mt5", "t5", "marian", "llama", "gpt2", "mpnet", "mbart")


def words(*extra: str, first: int = 0, **special: str) -> PreTrainedTokenizerFast:
    """A word-level tokenizer without any special token but those that are named."""
    entries = [*special.values(), *slm.WORDS, *extra]
    vocabulary = {word: number + first for number, word in enumerate(dict.fromkeys(entries))}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token=special.get("unk_token")))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special)


def vanilla(source: Any, **options: Any) -> Any:
    return pp.plug_in(source, None, task=TASK, control="vanilla", **options)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_folder_without_tokenizer_files_is_refused(tmp_path: Path, family: str) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": family}), encoding="utf-8")
    with pytest.raises(TokenizerError) as caught:
        load_tokenizer(tmp_path)
    assert "no tokenizer files" in caught.value.what and "tokenizer=" in caught.value.next


def test_nothing_is_trained_or_probed_without_a_vocabulary(tmp_path: Path) -> None:
    folder = tmp_path / "bert"
    slm.tiny_slm("bert").save_pretrained(folder)
    model = vanilla(str(folder))
    with pytest.raises(TokenizerError):
        pp.fine_tune(model, TASK, pp.Recipe(epochs=1))
    with pytest.raises(TokenizerError):
        slm_features(str(folder), TASK.splits["train"], cache=False)
    llm = tiny_checkpoint("llama", tmp_path / "llama")
    with pytest.raises(TokenizerError):
        llm_features(str(llm), TASK.splits["train"], cache=False)
    with pytest.raises(TokenizerError):
        pp.probe(str(llm), TASK, n=8)
    advice = pp.fine_tune(model, TASK, pp.Recipe(epochs=1), tokenizer=slm.tiny_tokenizer())
    assert advice.epochs and slm_features(
        str(folder), TASK.splits["train"], tokenizer=slm.tiny_tokenizer(), cache=False
    )


def test_a_tokenizer_larger_than_its_embedding_is_refused(tmp_path: Path) -> None:
    folder = slm.tiny_slm_folder(tmp_path)
    larger = slm.tiny_tokenizer()
    larger.add_tokens(["unheard"])
    larger.save_pretrained(folder)
    with pytest.raises(TokenizerError) as caught:
        tokenizer_for(vanilla(str(folder)))
    assert "'unheard'" in caught.value.what
    resized = AutoModel.from_pretrained(folder)  # what the message advises
    resized.resize_token_embeddings(len(larger))
    assert len(tokenizer_for(vanilla(resized))) == len(larger)
    assert len(tokenizer_for(vanilla(str(folder), tokenizer=slm.tiny_tokenizer()))) == len(larger) - 1


def test_a_donor_may_have_special_tokens_that_no_text_holds(tmp_path: Path) -> None:
    folder = tiny_checkpoint("llama", tmp_path)
    tokenizer = words(unk_token="<unk>", eos_token="</s>")
    tokenizer.add_special_tokens({"pad_token": "<pad>", "additional_special_tokens": [f"<{n}>" for n in range(90)]})
    tokenizer.save_pretrained(folder)
    checkpoint = open_checkpoint(str(folder))
    assert len(tokenizer) > checkpoint.config.vocab_size
    assert donor_tokenizer(checkpoint).pad_token_id < checkpoint.config.vocab_size
    words(*(f"word{n}" for n in range(90)), unk_token="<unk>", eos_token="</s>").save_pretrained(folder)
    with pytest.raises(TokenizerError):
        donor_tokenizer(checkpoint)


def test_special_tokens_that_are_needed() -> None:
    assert check_tokenizer(words(unk_token="<unk>", eos_token="</s>"), "").pad_token == "</s>"
    with pytest.raises(TokenizerError) as caught:
        check_tokenizer(words(), "")
    assert "padding" in caught.value.what
    model = vanilla(slm.tiny_slm("bert"), tokenizer=words(unk_token="<unk>", pad_token="<pad>"))
    with pytest.raises(TokenizerError) as caught:
        tokenizer_for(model)
    assert 'pooling="mean"' in caught.value.next
    assert tokenizer_for(vanilla(slm.tiny_slm("bert"), pooling="mean", tokenizer=model.tokenizer))


def test_a_vocabulary_of_nothing_that_texts_hold_is_refused() -> None:
    strange = Tokenizer(models.WordLevel({"<unk>": 0, "qqq": 1, "zzz": 2}, unk_token="<unk>"))
    with pytest.raises(TokenizerError) as caught:
        check_tokenizer(PreTrainedTokenizerFast(tokenizer_object=strange, unk_token="<unk>"), "")
    assert "3 tokens" in caught.value.what


def test_texts_that_are_unknown_are_refused_or_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    tokenizer = slm.tiny_tokenizer()
    with pytest.raises(TokenizerError) as caught:
        check_known(tokenizer, ["ein guter Film war das nicht"], "texts")
    assert "100%" in caught.value.what
    with pytest.raises(TokenizerError) as caught:
        check_known(tokenizer, ["", "  ", "\n"], "texts")
    assert "no token" in caught.value.what and "column" in caught.value.next
    check_known(tokenizer, ["the film war gut"], "texts")
    assert "50 %" in caplog.text
    caplog.clear()
    check_known(tokenizer, ["the film was good"], "texts")
    assert not caplog.text


def sentencepiece(**options: Any) -> bytes:
    import sentencepiece as spm

    texts = [f"the film was good and the plot was bad {n}" for n in range(200)] + ["it was not a good film"] * 50
    written = io.BytesIO()
    spm.SentencePieceTrainer.train(
        sentence_iterator=iter(texts), model_writer=written, vocab_size=48, minloglevel=2, **options
    )
    return written.getvalue()


DEBERTA = {"unk_id": 3, "pad_id": 0, "bos_id": 1, "eos_id": 2}
DEBERTA |= {"pad_piece": "[PAD]", "bos_piece": "[CLS]", "eos_piece": "[SEP]", "unk_piece": "[UNK]"}
T5_SETTINGS = {"eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>", "extra_ids": 0}


@pytest.mark.parametrize(
    ("family", "file", "options", "settings"),
    [
        ("deberta-v2", "spm.model", DEBERTA, {"vocab_type": "spm"}),
        ("mt5", "spiece.model", {"unk_id": 2, "pad_id": 0, "eos_id": 1, "bos_id": -1}, T5_SETTINGS),
        ("xlm-roberta", "sentencepiece.bpe.model", {}, {}),
        ("mbart", "sentencepiece.bpe.model", {}, {}),
        ("albert", "spiece.model", DEBERTA, {}),
        ("llama", "tokenizer.model", {"model_type": "bpe"}, {"tokenizer_class": "LlamaTokenizer"}),
    ],
)
def test_a_sentencepiece_file_is_enough(
    tmp_path: Path, family: str, file: str, options: dict[str, Any], settings: dict[str, Any]
) -> None:
    (tmp_path / file).write_bytes(sentencepiece(**options))
    (tmp_path / "config.json").write_text(json.dumps({"model_type": family}), encoding="utf-8")
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings), encoding="utf-8")
    tokenizer = load_tokenizer(tmp_path)
    assert "the film was good" in tokenizer.decode(tokenizer("the film was good")["input_ids"])
    assert tokenizer.pad_token_id is not None


def test_marian_has_two_sentencepiece_files_and_a_vocabulary(tmp_path: Path) -> None:
    import sentencepiece as spm

    made = sentencepiece(unk_id=1, eos_id=0, bos_id=-1, pad_id=-1)
    pieces = spm.SentencePieceProcessor(model_proto=made)
    entries = dict.fromkeys(["</s>", "<unk>", *(pieces.id_to_piece(n) for n in range(len(pieces))), "<pad>"])
    for name in ("source.spm", "target.spm"):
        (tmp_path / name).write_bytes(made)
    (tmp_path / "vocab.json").write_text(json.dumps({piece: n for n, piece in enumerate(entries)}), encoding="utf-8")
    (tmp_path / "config.json").write_text('{"model_type": "marian"}', encoding="utf-8")
    (tmp_path / "tokenizer_config.json").write_text('{"source_lang": "en", "target_lang": "de"}', encoding="utf-8")
    tokenizer = load_tokenizer(tmp_path)
    assert (
        tokenizer.decode(tokenizer("the film was good")["input_ids"], skip_special_tokens=True) == "the film was good"
    )


@pytest.mark.parametrize("content", [b"", b"\x0e\xff\x00", b"not a model"])
def test_a_damaged_sentencepiece_file_is_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "spm.model").write_bytes(content)
    (tmp_path / "config.json").write_text('{"model_type": "deberta-v2"}', encoding="utf-8")
    with pytest.raises(TokenizerError) as caught:
        load_tokenizer(tmp_path)
    assert str(tmp_path) in caught.value.where and "tokenizer=" in caught.value.next


def test_a_model_without_a_name_never_asks_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with running_hub(monkeypatch, tmp_path) as server:
        model = vanilla(slm.tiny_slm("bert"))
        with pytest.raises(TokenizerError) as caught:
            pp.fine_tune(model, TASK, pp.Recipe(epochs=1))
        assert "tokenizer=" in caught.value.next
        with pytest.raises(TokenizerError):
            pp.plug_in(slm.tiny_slm("bert"), None, task=task_of("seq2seq"), control="vanilla")
        assert server.requests() == []
    assert pp.fine_tune(model, TASK, pp.Recipe(epochs=1), tokenizer=slm.tiny_tokenizer()).epochs
    written = pp.plug_in(
        slm.tiny_slm("bert"), None, task=task_of("seq2seq"), control="vanilla", tokenizer=slm.tiny_tokenizer()
    )
    assert written.config.slm == "" and tokenizer_for(written)


@pytest.mark.parametrize("given", [3, b"x", "", None.__class__])
def test_what_is_no_tokenizer_is_refused(given: Any) -> None:
    with pytest.raises(TokenizerError):
        vanilla(slm.tiny_slm("bert"), tokenizer=given)


def test_a_given_tokenizer_is_copied_and_saved_with_the_model(tmp_path: Path) -> None:
    given = slm.tiny_tokenizer("left")
    model = vanilla(slm.tiny_slm("bert"), tokenizer=given)
    assert tokenizer_for(model) is not given and tokenizer_for(model).padding_side == "left"
    model.save_pretrained(tmp_path / "a")
    again = pp.PiFiForSequenceClassification.from_pretrained(tmp_path / "a")
    assert tokenizer_for(again).get_vocab() == given.get_vocab()
    again.save_pretrained(tmp_path / "b")
    twice = pp.PiFiForSequenceClassification.from_pretrained(tmp_path / "b")
    assert tokenizer_for(twice).padding_side == "left"


def test_a_saved_model_reads_with_the_tokenizer_beside_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = vanilla(str(slm.tiny_slm_folder(tmp_path / "encoder")))
    model.save_pretrained(tmp_path / "saved")
    load = pp.PiFiForSequenceClassification.from_pretrained
    assert tokenizer_for(load(tmp_path / "saved")).padding_side == "right"
    slm.tiny_tokenizer("left").save_pretrained(tmp_path / "saved")
    assert tokenizer_for(load(tmp_path / "saved")).padding_side == "left"
    with running_hub(monkeypatch, tmp_path / "cache") as server:
        server.add_repo("org/saved", tmp_path / "saved")
        assert tokenizer_for(load("org/saved")).padding_side == "left"


class TestNameAndObject:
    """What is loaded first and given as an object becomes what its name gives."""

    @pytest.fixture
    def folder(self, tmp_path: Path) -> Path:
        return slm.tiny_slm_folder(tmp_path / "bert")

    @pytest.mark.parametrize("auto", [AutoModel, AutoModelForSequenceClassification, AutoModelForMaskedLM])
    def test_heads_and_poolers_are_left_out(self, folder: Path, auto: Any) -> None:
        named, given = vanilla(str(folder)), vanilla(auto.from_pretrained(folder))
        weights, others = named.state_dict(), given.state_dict()
        assert weights.keys() == others.keys()
        assert all(torch.equal(weights[key], others[key]) for key in weights)
        assert tokenizer_for(given).get_vocab() == tokenizer_for(named).get_vocab()

    def test_a_model_in_a_short_type_is_trained_in_float32(self, folder: Path) -> None:
        short = AutoModel.from_pretrained(folder, dtype=torch.bfloat16)
        model = vanilla(short)
        assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
        assert short.dtype == torch.bfloat16  # the object is left as it is
        assert pp.fine_tune(model, TASK, pp.Recipe(epochs=1)).epochs

    def test_of_an_encoder_decoder(self, tmp_path: Path) -> None:
        whole = tiny_seq2seq("t5")
        model = pp.plug_in(whole.to(torch.bfloat16), None, task=task_of("seq2seq"), control="vanilla")
        assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
        with pytest.raises(PlugInError) as caught:
            pp.plug_in(T5Model(whole.config), None, task=task_of("seq2seq"), control="vanilla")
        assert "AutoModelForSeq2SeqLM" in caught.value.next
        assert (
            vanilla(whole, pooling="mean").state_dict().keys()
            == vanilla(T5Model(whole.config), pooling="mean").state_dict().keys()
        )


def test_the_matched_scale_is_measured_within_the_encoders_positions(tmp_path: Path) -> None:
    from dataclasses import replace

    folder = slm.tiny_slm_folder(tmp_path / "bert")  # 64 positions
    train = TASK.splits["train"]
    long = replace(train, texts=tuple(f"{text} {'very ' * 90}" for text in train.texts))
    llm = tiny_checkpoint("llama", tmp_path / "llama")
    words(unk_token="<unk>", eos_token="</s>").save_pretrained(llm)
    task = replace(TASK, splits={**TASK.splits, "train": long})
    model = pp.plug_in(str(folder), f"{llm}[1]", task=task, wiring="matched", target_rms=1.0)
    assert model.plugin.scale_in > 0
