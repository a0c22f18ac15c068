"""`pifi-probe decide` on a CSV file: how long until a question about a layer or a chain is answered?

Writes a small CSV out of embedded texts, as a user would bring one, and runs the command on it. The time is that of the
command, with loading, training and looks at the data.

    python benchmarks/decide_csv.py                # reviews: what do layers that know nothing do?
    python benchmarks/decide_csv.py --case chain   # do the weights of an aligned chain matter?
    python benchmarks/decide_csv.py --case tweets  # does plugging in help on tweets?

Each case but the first is written to a file of its own, decide_csv_CASE.json.
"""

from __future__ import annotations

import csv
import json
import shlex
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from _common import parser, record, target

from pifi_probe.cli import main as command
from pifi_probe.tasks import load_task

SLM = "minilm-l6"
N_TRAIN, MINUTES = 300, 15
ROWS = {"train": 2000, "validation": 400, "test": 600}  # of a file that is split anew: a fifth is for tests
FEWER = {"train": 600, "validation": 100, "test": 400}
PAPER = ["--layer", "smollm2-135m[-1]", "--wiring", "pifi"]
ALIGNED = ["--layer", " >> ".join(f"smollm2-135m[{layer}]" for layer in range(8, 15)), "--wiring", "aligned"]
# Few labels at the usual rate leave the encoder itself nearly untrained, and seeds points apart.
SHORT = ["--learning-rate", "0.0001", "--max-tokens", "64"]
CASES: dict[str, tuple[str, dict[str, int], list[str]]] = {  # texts, how many of each split, and what is asked
    "reviews": ("movie-reviews", ROWS, [*PAPER, *SHORT, "--question", "block"]),
    "chain": ("movie-reviews", ROWS, [*ALIGNED, *SHORT, "--question", "knowledge"]),
    "tweets": ("tweets", FEWER, [*PAPER, "--learning-rate", "0.0005", "--question", "plugging in"]),
}


def write_csv(file: Path, task_name: str, rows: dict[str, int]) -> None:
    """Write texts and their labels; each text once."""
    whole = load_task(task_name)
    task = whole.subset(**{name: min(n, len(whole.splits[name])) for name, n in rows.items()})
    with file.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["text", "label"])
        seen = set()
        for split in task.splits.values():
            for given, label in zip(split.texts, split.labels, strict=True):
                text = " ".join(given.split())
                if text in seen:
                    continue
                seen.add(text)
                writer.writerow([text, task.label_names[label]])


def main() -> None:
    """Decide, and record."""
    options = parser(__doc__)
    options.add_argument("--case", choices=CASES, default="reviews")
    chosen = options.parse_args()
    task, most, asked = CASES[chosen.case]
    rows = {name: n // 5 if chosen.quick else n for name, n in most.items()}
    with tempfile.TemporaryDirectory() as folder:
        file, out = Path(folder) / "mine.csv", Path(folder) / "runs"
        write_csv(file, task, rows)
        call = ["decide", "--task", str(file), "--slm", SLM, *asked]
        call += ["--n-train", str(min(N_TRAIN, rows["train"] // 2))]
        call += ["--budget", f"{MINUTES}m", "--epochs", "1" if chosen.quick else "3", "--out", str(out)]
        since = time.perf_counter()
        code = command(call)
        seconds = time.perf_counter() - since
        if code:
            sys.exit(code)
        decision = json.loads((out / "decision.json").read_text(encoding="utf-8"))
    shown = shlex.join("mine.csv" if part == str(file) else part for part in call[:-2])
    settings = {"command": f"pifi-probe {shown}", "rows": rows, "task": task, "question": asked[-1]}
    measurements = {"seconds": seconds, "verdict": decision["verdict"], "stopped": decision["stopped"]}
    measurements |= {"looks": decision["looks"], "answer": decision["answer"], "effect": decision["effect"]}
    record(
        "decide_csv" if chosen.case == "reviews" else f"decide_csv_{chosen.case}",
        chosen,
        settings,
        measurements,
        tables(measurements, settings),
    )


def tables(measurements: dict[str, Any], settings: dict[str, Any]) -> dict[str, Any]:
    """Return the target and every look at the data."""
    question = settings.get("question", "plugging in")  # records of tweets were made before it was kept
    reached = {"question": question, "verdict": measurements["verdict"], "stopped": measurements["stopped"]}
    minutes = measurements["seconds"] / 60
    return {
        "targets": [target("minutes from the command to the answer", minutes, most=float(MINUTES))],
        "rows": [{**reached, **look} for look in measurements["looks"]],
    }


if __name__ == "__main__":
    main()
