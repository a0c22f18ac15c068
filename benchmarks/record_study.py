"""The search that the book shows: a layer of SmolLM2 for MiniLM on movie reviews, with a fixed small budget.

Writes book/_studies/search/movie-reviews.db and, when it is over, movie-reviews.json with its provenance. A search that
was left off continues where it stopped.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import pifi_probe as pp
from pifi_probe.files import write_json
from pifi_probe.provenance import collect

OUT = Path(__file__).resolve().parent.parent / "book" / "_studies" / "search" / "movie-reviews.db"
SIZES = {"train": 300, "validation": 200, "test": 200}


def main() -> None:
    """Record the search, or what is missing of it."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--budget", default="6", help="full runs, or trials such as '40 trials'")
    options.add_argument("--layers", type=int, nargs="+", help="only these (all of them)")
    options.add_argument("--out", type=Path, default=OUT)
    chosen = options.parse_args()
    chosen.out.parent.mkdir(parents=True, exist_ok=True)
    study = pp.search(
        "minilm-l6",
        "smollm2-135m",
        pp.load_task("movie-reviews").subset(**SIZES),
        budget=chosen.budget,
        layers=chosen.layers,
        n_seeds=2,
        recipe=pp.Recipe(epochs=1),
        study=chosen.out,
    )
    print(study.result, flush=True)
    write_json(chosen.out.with_suffix(".json"), {"budget": chosen.budget, "texts": SIZES, "provenance": collect()})


if __name__ == "__main__":
    main()
