"""The recorded probe tables of both families, for three tasks, with their plots.

Writes book/_studies/probes/TASK-FAMILY.json, .csv, .html and two .svg plots. A table that is there already is kept
and its plots are drawn anew (--again makes it anew), and features come from the cache, so that an interrupted recording
continues where it stopped.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import pifi_probe as pp
from pifi_probe.files import write_text
from pifi_probe.reporting.svg import standalone_svg

OUT = Path(__file__).resolve().parent.parent / "book" / "_studies" / "probes"
TASKS = ("movie-reviews", "tweets", "product-reviews")
FAMILIES = ("own-state", "plug-in")
LLM, SLM, N = "smollm2-135m", "minilm-l6", 1000


def main() -> None:
    """Record what is missing."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--tasks", nargs="+", choices=TASKS, default=list(TASKS))
    options.add_argument("--families", nargs="+", choices=FAMILIES, default=list(FAMILIES))
    options.add_argument("--n", type=int, default=N, help="texts of the training split")
    options.add_argument("--seed", type=int, default=0)
    options.add_argument("--out", type=Path, default=OUT)
    options.add_argument("--again", action="store_true", help="make tables anew that are there already")
    chosen = options.parse_args()
    for task in chosen.tasks:
        for family in chosen.families:
            file = chosen.out / f"{task}-{family}.json"
            if file.is_file() and not chosen.again:
                draw(pp.ProbeTable.from_json(file), file)
                print(f"kept {file.name}", flush=True)
                continue
            table = measure(family, task, chosen.n, chosen.seed)
            write(table, file)
            print(f"wrote {file.name}: {table!r}", flush=True)


def measure(family: str, task: str, n: int, seed: int) -> pp.ProbeTable:
    """Return one table."""
    loaded = pp.load_task(task)
    if family == "own-state":
        return pp.probe(LLM, loaded, n=n, seed=seed)
    return pp.probe_plugin(SLM, LLM, loaded, n=n, seed=seed)


def write(table: pp.ProbeTable, file: Path) -> None:
    """Write a table and what shows it; the JSON last, since it says that all is there."""
    table.to_csv(file.with_suffix(".csv"))
    table.report(file.with_suffix(".html"))
    draw(table, file)
    table.to_json(file, per_example=table.family == "own-state")  # a plug-in table has some 30 MB of them


def draw(table: pp.ProbeTable, file: Path) -> None:
    """Write the plots of a table."""
    for name, figure in (("curves", table.plot()), ("heatmap", table.heatmap())):
        write_text(file.with_name(f"{file.stem}-{name}.svg"), standalone_svg(figure, f"{table!r}: {name}") + "\n")


if __name__ == "__main__":
    main()
