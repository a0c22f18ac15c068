"""Scores of all layers of SmolLM2-135M on 1,000 movie reviews, against what else computes them.

Every contestant has a fresh process and an empty cache; the clock starts after imports and stops when all scores
are there, reading the model included. Memory is all that the process held at its peak. A contestant that cannot
be installed or fails is listed with the reason. --loops runs the loops that one writes by hand, and what they are
compared with. They may take an hour: one is stopped when it has taken six times as long as ours, and its time is then
a lower bound.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import psutil
from _common import Usage, in_child, parser, ratio, record, spread, target
from _rivals import Unavailable, python_of

ALL, ALL_16 = "ours, all default scores", "ours, all default scores, bf16"
H, RIDGE, LOGISTIC = "ours, H-score", "ours, ridge", "ours, logistic"
PASS, PASS_16 = "one length-sorted forward pass", "one length-sorted forward pass, bf16"
RANKER, LMPROBE = "transformer-ranker, H-score", "lmprobe, ridge"
LOOP, LOOP_1 = "plain loop, states as they are", "plain loop, states scaled"
LOOP_5 = "plain loop, states scaled, penalty chosen as ours"
RIVALS = {RANKER: ("transformer-ranker", "0.2.0"), LMPROBE: ("lmprobe", "0.10.3")}
OURS: dict[str, dict[str, Any]] = {
    ALL: {},
    ALL_16: {"precision": "bf16"},
    H: {"estimators": ["hscore"], "n_permutations": 0},
    RIDGE: {"estimators": ["ridge_accuracy"], "n_permutations": 0},
    LOGISTIC: {"estimators": ["logistic_accuracy"], "n_permutations": 0},
}
LOOPS = (LOGISTIC, LOOP, LOOP_5, LOOP_1)
ARMS = (ALL, PASS, H, RANKER, RIDGE, LMPROBE, ALL_16, PASS_16)
TASK, MODEL, LENGTH, BATCH, BATCH_TOKENS, FOLDS = "movie-reviews", "smollm2-135m", 100, 32, 2048, 5
QUICK = (LOGISTIC, LOOP)
PATIENCE = 6  # times the seconds of our logistic probe
Rows = tuple[list[str], list[int]]


def main() -> None:
    """Convert the model once, run the contestants, record."""
    options = parser(__doc__)
    options.add_argument("--rounds", type=int, default=1)
    options.add_argument("--loops", action="store_true", help="the plain loops instead of the others")
    chosen = options.parse_args()
    if chosen.child:
        print(json.dumps(measure(**json.loads(chosen.child))))
        return
    n, rounds = (24, 1) if chosen.quick else (1000, chosen.rounds)
    with tempfile.TemporaryDirectory(prefix="pifi-probes-") as scratch:
        child({"arm": "convert", "n": n, "seed": chosen.seed}, scratch, sys.executable)
        runs = compete(QUICK if chosen.quick else LOOPS if chosen.loops else ARMS, scratch, n, rounds, chosen.seed)
    settings = {"n": n, "rounds": rounds, "max_tokens": LENGTH, "rivals": [f"{a} {b}" for a, b in RIVALS.values()]}
    record("probe_sweep_loops" if chosen.loops else "probe_sweep", chosen, settings, runs, tables(runs, settings))


def compete(arms: Sequence[str], scratch: str, n: int, rounds: int, seed: int) -> dict[str, Any]:
    """Run every arm `rounds` times in turn; one that failed is left out of the further rounds."""
    runs: dict[str, Any] = {arm: [] for arm in arms}
    for i in range(rounds):
        for arm in arms[i % len(arms) :] + arms[: i % len(arms)]:
            if isinstance(runs[arm], dict):
                continue
            try:
                python = str(python_of(*RIVALS[arm])) if arm in RIVALS else sys.executable
                done = runs.get(LOGISTIC)
                limit = PATIENCE * done[-1]["seconds"] if isinstance(done, list) and done else None
                found = child({"arm": arm, "n": n, "seed": seed, "limit": limit}, scratch, python)
                runs[arm].append(found)
                print(f"round {i + 1}, {arm}: {found['seconds']:.1f} s, {found['peak_bytes'] / 1e9:.2f} GB", flush=True)
            except Unavailable as reason:
                runs[arm] = {"skipped": str(reason)}
                print(f"round {i + 1}, {arm}: {reason}", flush=True)
    return runs


def child(task: Mapping[str, Any], scratch: str, python: str) -> dict[str, Any]:
    """Run one arm in a fresh process with empty caches of features; return the JSON of its last line."""
    with tempfile.TemporaryDirectory(dir=scratch) as empty:
        places = {"PIFI_PROBE_FEATURES": f"{empty}/ours", "LMPROBE_CACHE_DIR": f"{empty}/lmprobe"}
        environment = os.environ | places | {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "true"}
        found = in_child(__file__, {**task, "folder": f"{scratch}/model"}, python, environment)
    if "failed" in found:
        raise Unavailable(f"it failed: {found['failed']}".replace("|", ";"))
    return found


def measure(arm: str, n: int, seed: int, folder: str, limit: float | None = None) -> dict[str, Any]:
    """Measure one arm in this fresh process; a plain loop stops after `limit` seconds."""
    rows = rows_of(n, seed)
    if arm == "convert":
        return convert(folder)
    call = CONTESTANTS[arm]()  # imports
    start = psutil.Process().memory_info().rss
    usage = Usage()
    options = {"limit": limit} if arm in LOOPS else {}
    scores = call(n, seed) if arm in OURS else call(rows, folder, **options)
    used = usage.until_now()
    peak = start + int(used["peak_bytes"] or 0)
    return {"seconds": used["seconds"], "cpu_seconds": used["cpu_seconds"], "peak_bytes": peak, **scores}


def rows_of(n: int, seed: int) -> Rows:
    """Return texts and labels, the same for all."""
    from pifi_probe.features.rows import scoring_rows
    from pifi_probe.tasks import load_task

    rows = scoring_rows(load_task(TASK), n, "train", seed)
    return list(rows.texts), list(rows.labels)


def convert(folder: str) -> dict[str, Any]:
    """Write the model as a folder of float32 safetensors, for contestants that read no GGUF."""
    import torch

    model, tokenizer = whole_model(torch.float32, head=True)
    settings = {key: value for key, value in model.config.to_dict().items() if key != "quantization_config"}
    plain = type(model)(type(model.config)(**settings))  # the loaded one says that it is quantised
    plain.load_state_dict(model.state_dict())
    plain.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return {}


def whole_model(dtype: Any, head: bool = False) -> tuple[Any, Any]:
    """Load the whole model from its GGUF file, as transformers does."""
    from transformers import AutoModel, AutoModelForCausalLM, AutoTokenizer

    from pifi_probe import assets

    file = assets.path(MODEL)
    kind = AutoModelForCausalLM if head else AutoModel
    model = kind.from_pretrained(file.parent, gguf_file=file.name, dtype=dtype).eval()
    tokenizer = AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    tokenizer.padding_side = "right"
    return model, tokenizer


def ours(arm: str) -> Callable[[], Callable[..., dict[str, Any]]]:
    def prepare() -> Callable[..., dict[str, Any]]:
        import transformers.models.llama.modeling_llama  # noqa: F401

        import pifi_probe as pp
        import pifi_probe.probing.probe  # noqa: F401

        def run(n: int, seed: int) -> dict[str, Any]:
            own = {name: value for name, value in OURS[arm].items() if name != "estimators"}
            settings = pp.ProbeSettings(max_tokens=LENGTH, batch_tokens=BATCH_TOKENS, n_folds=FOLDS, **own)
            chosen = OURS[arm].get("estimators", "default")
            table = pp.probe(MODEL, pp.load_task(TASK), settings, n=n, estimators=chosen, seed=seed)
            larger = {name: kind.larger_is_better for name, kind in table.kinds.items()}
            scores = {name: table.series(name)["value"].tolist() for name in table.estimators}
            return {"scores": scores, "larger_is_better": larger, "parts": table.provenance["seconds"]}

        return run

    return prepare


def forward_pass(bf16: bool) -> Callable[[], Callable[..., dict[str, Any]]]:
    def prepare() -> Callable[..., dict[str, Any]]:
        import time

        import torch
        import transformers.models.llama.modeling_llama  # noqa: F401

        from pifi_probe.tasks.tokens import buckets

        @torch.no_grad()
        def run(rows: Rows, folder: str) -> dict[str, Any]:
            model, tokenizer = whole_model(torch.float32)
            start = time.perf_counter()
            ids = tokenizer(rows[0], truncation=True, max_length=LENGTH)["input_ids"]
            with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
                for batch in buckets([len(one) for one in ids], BATCH_TOKENS):
                    padded = tokenizer.pad({"input_ids": [ids[row] for row in batch]}, return_tensors="pt")
                    model(**padded, use_cache=False)
            return {"parts": {"pass": time.perf_counter() - start}}

        return run

    return prepare


def plain_loop(scaled: bool = True, choosing: bool = False) -> Callable[[], Callable[..., dict[str, Any]]]:
    return lambda: scikit_learns_loop(scaled, choosing)


def scikit_learns_loop(scaled: bool, choosing: bool) -> Callable[..., dict[str, Any]]:
    import time

    import numpy as np
    import torch
    import transformers.models.llama.modeling_llama  # noqa: F401
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import GridSearchCV, cross_val_score
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler
    from transformers import AutoModel, AutoTokenizer

    from pifi_probe.scoring.linear import L2_GRID

    @torch.no_grad()
    def run(rows: Rows, folder: str, limit: float | None = None) -> dict[str, Any]:
        start_of_all = time.perf_counter()
        model = AutoModel.from_pretrained(folder, dtype=torch.float32).eval()
        tokenizer = AutoTokenizer.from_pretrained(folder)
        texts, labels = rows
        pooled = []
        for start in range(0, len(texts), BATCH):
            batch = tokenizer(
                texts[start : start + BATCH], padding=True, truncation=True, max_length=LENGTH, return_tensors="pt"
            )
            states = model(**batch, output_hidden_states=True).hidden_states
            mask = batch["attention_mask"][:, :, None]
            pooled.append(np.stack([((h * mask).sum(1) / mask.sum(1)).numpy() for h in states]))
        features = np.concatenate(pooled, axis=1)  # (points, N, d_llm)
        probe = LogisticRegression(max_iter=1000)
        if scaled:
            probe = make_pipeline(StandardScaler(), probe)
        if choosing:
            grid = {"logisticregression__C": [1 / (l2 * features.shape[2]) for l2 in L2_GRID]}
            probe = GridSearchCV(probe, grid, scoring="neg_log_loss", cv=FOLDS - 1)
        states_done = time.perf_counter()
        scores: list[float] = []
        for x in features:
            if limit is None or time.perf_counter() - start_of_all < limit:
                scores.append(float(cross_val_score(probe, x, labels, cv=FOLDS).mean()))
        parts = {"features": states_done - start_of_all, "scores": time.perf_counter() - states_done}
        return {"scores": {"accuracy": scores}, "points": [len(scores), len(features)], "parts": parts}

    return run


def transformer_ranker() -> Callable[..., dict[str, Any]]:
    import transformers.models.llama.modeling_llama  # noqa: F401
    from datasets import Dataset
    from transformer_ranker import TransformerRanker

    def run(rows: Rows, folder: str) -> dict[str, Any]:
        ranker = TransformerRanker(Dataset.from_dict({"text": rows[0], "label": rows[1]}))
        result = ranker.run([folder], estimator="hscore", layer_aggregator="bestlayer", batch_size=BATCH, device="cpu")
        return {"scores": {"best": list(result.scores.values())}}

    return run


def lmprobe() -> Callable[..., dict[str, Any]]:
    import transformers.models.llama.modeling_llama  # noqa: F401
    from lmprobe import Probe

    def run(rows: Rows, folder: str) -> dict[str, Any]:
        texts, labels = rows
        halves = [[text for text, label in zip(texts, labels, strict=True) if label == wanted] for wanted in (1, 0)]
        options = {"pooling": "mean", "classifier": "ridge", "device": "cpu", "dtype": "float32", "batch_size": BATCH}
        swept = Probe.sweep_layers(folder, *halves, layers="all", **options)
        return {"scores": {"layers": swept.layers}}

    return run


CONTESTANTS: dict[str, Callable[[], Callable[..., dict[str, Any]]]] = {
    **{arm: ours(arm) for arm in OURS},
    PASS: forward_pass(bf16=False),
    PASS_16: forward_pass(bf16=True),
    RANKER: transformer_ranker,
    LMPROBE: lmprobe,
    LOOP: plain_loop(scaled=False),
    LOOP_1: plain_loop(),
    LOOP_5: plain_loop(choosing=True),
}


def tables(runs: dict[str, Any], settings: dict[str, Any]) -> dict[str, Any]:
    """Return targets and rows; a contestant that was skipped has no ratio."""
    found = {arm: own for arm, own in runs.items() if isinstance(own, list)}
    seconds = {arm: [run["seconds"] for run in own] for arm, own in found.items()}
    alone = {arm: [run["parts"]["pass"] for run in found[arm]] for arm in (PASS, PASS_16) if arm in found}
    lines = []
    for arm, other in ((ALL, PASS), (ALL_16, PASS_16)):
        if arm in found and other in found:
            lines.append(target(f"{arm} / {other}", ratio(seconds[arm], seconds[other])["median"], most=1.25))
            what = f"{arm} / {other}, its own loading not counted"
            lines.append(target(what, ratio(seconds[arm], alone[other])["median"]))
    rivals: tuple[tuple[str, str, float | None], ...] = (
        (H, RANKER, 1.5),
        (RIDGE, LMPROBE, 2.5),
        (LOGISTIC, LOOP, 5.0),
        (LOGISTIC, LOOP_5, None),
    )
    for arm, other, least in rivals:
        if arm in found and other in found:
            times = ratio(seconds[other], seconds[arm])["median"]
            lines.append(target(f"time: {other}{_stopped(found[other])} / {arm}", times, least=least))
    peaks = {arm: max(run["peak_bytes"] for run in own) for arm, own in found.items()}
    others = [peaks[arm] for arm in (RANKER, LMPROBE, PASS) if arm in peaks]
    if ALL in peaks and others:
        lines.append(
            target(
                "peak memory: ours, all default scores / the lowest of the others", peaks[ALL] / min(others), most=1.0
            )
        )
    return {"targets": lines, "rows": [row(arm, runs[arm], runs) for arm in runs]}


def row(arm: str, own: Any, runs: dict[str, Any]) -> dict[str, Any]:
    names = ("seconds", "x one forward pass", "peak GB", "order of layers against float32", "remark")
    if isinstance(own, dict):
        return {"contestant": arm, **dict.fromkeys(names), "remark": own["skipped"]}
    baseline = runs.get(PASS)
    passes = [run["parts"]["pass"] for run in baseline] if isinstance(baseline, list) else None
    seconds = [run["seconds"] for run in own]
    agreement = agreement_of(own[0], runs[ALL][0]) if arm == ALL_16 and isinstance(runs[ALL], list) else None
    values = (spread(seconds), ratio(seconds, passes) if passes else None, max(r["peak_bytes"] for r in own) / 1e9)
    remark = REMARKS.get(arm, "")
    if arm in LOOPS:
        parts = own[-1]["parts"]
        remark += f"states {parts['features']:.0f} s, scores {parts['scores']:.0f} s{_stopped(own)}"
    return {"contestant": arm, **dict(zip(names, (*values, agreement, remark), strict=True))}


def _stopped(own: list[dict[str, Any]]) -> str:
    """Return in words how far a loop came that was stopped."""
    done, all_points = own[-1].get("points", (0, 0))
    return f", stopped after {done} of {all_points} points" if done < all_points else ""


REMARKS = {
    ALL: "with intervals, 100 label permutations and best sets",
    RANKER: "30 layers, score of the best only; loads the model twice",
    LMPROBE: "30 layers, fitted only: it holds nothing out",
    LOOP_5: f"{FOLDS} folds, each with {FOLDS - 1} inner ones; ",
}


def agreement_of(half: dict[str, Any], full: dict[str, Any]) -> str:
    """Return the lowest and the highest Kendall's tau of one score in two precisions, over the scores."""
    from pifi_probe.ranking import rank_agreement

    found = {name: rank_agreement(half["scores"][name], full["scores"][name])["kendall"] for name in full["scores"]}
    lowest, highest = min(found, key=lambda name: found[name]), max(found, key=lambda name: found[name])
    return f"Kendall {found[lowest]:.2f} ({lowest}) to {found[highest]:.2f} ({highest})"


if __name__ == "__main__":
    main()
