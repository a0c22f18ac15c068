"""A trained model and its ONNX graphs: accuracy, bytes and milliseconds for one text, in float32 and in int8.

A real pair on a real task: MiniLM with the last layer of SmolLM2-135M, trained on rated sentences and folded. The
three take turns for every text, on one thread. The differences of accuracy are over the same test rows.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch
from _common import parser, record, spread, target

import pifi_probe as pp
from pifi_probe.plugin import tokenizer_for

TASK, SLM, LAYER = "movie-reviews", "minilm-l6", "smollm2-135m[-1]"
N_TRAIN, N_TEST, LENGTH, TIMED = 1000, 1000, 64, 256
TORCH, FLOAT, INT8 = "torch, float32", "onnxruntime, float32", "onnxruntime, int8"


def main() -> None:
    """Train, export, predict, record."""
    options = parser(__doc__).parse_args()
    n_train, n_test, timed = (40, 40, 5) if options.quick else (N_TRAIN, N_TEST, TIMED)
    fewer = {"validation": 40} if options.quick else {}
    task = pp.load_task(TASK).subset(train=n_train, test=n_test, seed=options.seed, **fewer)
    model = pp.plug_in(SLM, LAYER, task=task, seed=options.seed)
    recipe = pp.Recipe(seed=options.seed, epochs=2, max_tokens=LENGTH, device="cpu")
    pp.fine_tune(model, task, recipe)
    folded = model.fold().eval()
    test = task.splits["test"]
    rows = [dict(row) for row in texts_of(folded, test.texts)]
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(prefix="pifi-onnx-") as folder:
        made = {arm: folded.export_onnx(Path(folder) / arm[-4:], int8=arm == INT8) for arm in (FLOAT, INT8)}
        arms: dict[str, Any] = {TORCH: lambda row: torch_logits(folded, row)}
        arms |= {arm: one_thread(found.file) for arm, found in made.items()}
        logits: dict[str, list[list[float]]] = {arm: [] for arm in arms}
        seconds: dict[str, list[float]] = {arm: [] for arm in arms}
        for number, row in enumerate(rows):
            for arm, call in arms.items():
                start = time.perf_counter()
                logits[arm].append(call(row)[0].tolist())
                if 3 <= number < timed + 3:
                    seconds[arm].append(time.perf_counter() - start)
        n_bytes = {arm: found.n_bytes for arm, found in made.items()}
    n_bytes[TORCH] = sum(p.numel() * p.element_size() for p in folded.parameters())
    measurements = {
        "labels": [int(label) for label in test.labels],
        "predictions": {arm: np.argmax(found, 1).tolist() for arm, found in logits.items()},
        "largest_difference": {
            arm: float(np.abs(np.array(found) - np.array(logits[TORCH])).max()) for arm, found in logits.items()
        },
        "seconds": seconds,
        "bytes": n_bytes,
    }
    settings = {"task": TASK, "slm": SLM, "layer": LAYER, "n_train": n_train, "n_test": n_test}
    settings |= {"recipe": recipe.to_dict(), "threads": 1, "texts timed": timed}
    record("onnx_export", options, settings, measurements, tables(measurements, settings))


def texts_of(model: Any, texts: list[str]) -> list[dict[str, torch.Tensor]]:
    """Return a batch of one for each text."""
    tokenizer = tokenizer_for(model)
    return [tokenizer(text, truncation=True, max_length=LENGTH, return_tensors="pt") for text in texts]


@torch.inference_mode()
def torch_logits(model: Any, row: dict[str, torch.Tensor]) -> np.ndarray:
    """Return the model's own logits."""
    return np.asarray(model(**row).logits)


def one_thread(file: Path) -> Any:
    """Return the graph as a function of one text, on one thread."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
    names = [one.name for one in session.get_inputs()]
    return lambda row: session.run(None, {name: row[name].numpy() for name in names})[0]


def tables(measurements: dict[str, Any], settings: dict[str, Any]) -> dict[str, Any]:
    """Return targets and rows."""
    labels = np.array(measurements["labels"])
    right = {arm: np.array(found) == labels for arm, found in measurements["predictions"].items()}
    lost = {arm: 100 * float(right[TORCH].mean() - one.mean()) for arm, one in right.items()}
    differences = measurements["largest_difference"]
    targets = [
        target("largest difference of a logit, float32", differences[FLOAT], most=1e-4, unit=""),
        target("accuracy lost in int8, points", lost[INT8]),
    ]
    rows = [
        {
            "arm": arm,
            "accuracy": float(one.mean()),
            "points lost": lost[arm],
            "other answers than torch's": int((one != right[TORCH]).sum()),
            "MB": measurements["bytes"][arm] / 1e6,
            "ms, one text": spread(1e3 * t for t in measurements["seconds"][arm]),
            "largest difference": differences[arm],
        }
        for arm, one in right.items()
    ]
    return {"targets": targets, "rows": rows}


if __name__ == "__main__":
    main()
