"""Write `book/costs.md` from the recorded tables of quality next to cost, with a picture of each pair.

python book/_scripts/costs_page.py
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import t

sys.path.insert(0, str(Path(__file__).resolve().parent))
from result_pictures import piece  # noqa: E402

from pifi_probe.efficiency.cost_result import CostRow, CostTable  # noqa: E402

ROOT = Path(__file__).resolve().parents[2]
RECORDS = ROOT / "book" / "_studies" / "costs"
PICTURES = ROOT / "book" / "_pictures" / "costs"
PAGE = ROOT / "book" / "costs.md"
ALONE, WIRED, FOLDED = "encoder alone", ("PiFi", "PiFi, matched", "PiFi, aligned"), "PiFi, folded"

HEAD = """# What it costs

Quality next to cost: every arm that is trained has five seeds; then the first model of each is served on an idle
machine, one text at a time, all arms in turn. "Encoder alone" is plain fine-tuning; the donor by probe reads the
language model itself. Forgetting is by how many nats an arm's loss on product reviews lies above that of the encoder
alone. The figures belong to this size, machine and task, and only within a table may they be compared."""
COLUMNS = {  # column of the page: (of the frame, digits)
    "trained, M": ("trained, M", 2),
    "weights, M": ("weights, M", 1),
    "file, MB": ("file MB", 1),
    "training, s for 1,000 texts": ("train s / 1,000", 0),
    "peak memory, MB": ("peak MB", 0),
    "its 99th percentile, MB": ("p99 MB", 0),
    "P50, ms": ("P50 ms", 1),
    "P90, ms": ("P90 ms", 1),
    "P50 with tokenising, ms": ("P50 ms, tokenised", 1),
    "P90 with tokenising, ms": ("P90 ms, tokenised", 1),
    "first call, ms": ("first ms", 0),
    "texts a second": ("texts/s", 0),
    "at once": ("at once", 0),
    "load cold, ms": ("load cold ms", 0),
    "load warm, ms": ("load warm ms", 0),
    "processor's energy, J for 1,000 texts": ("J / 1,000, processor", 1),
    "card's energy, J for 1,000 texts": ("J / 1,000, card", 1),
    "search, s": ("search s", 0),
}


def page(tables: dict[str, CostTable]) -> str:
    """Return the page."""
    parts = [HEAD, *(section(name, table) for name, table in tables.items())]
    parts.append(
        "## On your own pair\n\n"
        "```shell\npifi-probe bench --slm minilm-l6 --layer 'smollm2-135m[-1]' --task reviews.csv \\\n"
        "  --seeds 5 --learning-rate 2e-4 --max-tokens 32 -o costs\n```"
        "\n\nor `pp.cost_table(...)` from Python. The tables above: `python benchmarks/cost_tables.py`, which keeps "
        "every run and refuses a busy machine; each JSON in `book/_studies/costs/` holds every time in use."
    )
    return "\n\n".join(parts) + "\n"


def section(name: str, table: CostTable) -> str:
    """Return the answer, the picture and the table of one pair."""
    made = table.provenance
    machine = made.get("machine", {})
    recipe = made["settings"]["recipe"]
    where = (
        f"`book/_studies/costs/{name}.json`, {made.get('date', '')[:10]}, {machine.get('cpu', 'unknown processor')}, "
        f"{machine.get('threads', '?')} threads, {table.precision}; {table.task}, learning rate "
        f"{recipe['learning_rate']:g}, {recipe['epochs']} epochs, {table.n_seeds} seeds; {measured(table)}."
    )
    failed = [f"{row.arm}: {row.failed}" for row in table.rows if row.failed and row.quality is not None]
    parts = [
        f"## {table.pair}",
        answer(table),
        f"```{{raw}} html\n:file: _pictures/costs/{name}.html\n```",
        markdown(table),
    ]
    return "\n\n".join([*parts, *failed, *blank(table), where])


def measured(table: CostTable) -> str:
    """Return what was read, and how it was trained, as far as the record says."""
    settings = table.provenance["settings"]
    words = [f"{max(len(row.stream.get('forward_s', ())) for row in table.rows)} texts one at a time"]
    if sizes := settings.get("sizes"):
        words.append(", ".join(f"{size} {name}" for name, size in sizes.items()) + " rows")
    words += [f"forgetting on {size} rows of {name}" for name, size in settings.get("also", {}).items()]
    turns = any(len(row.train_s) > 1 for row in table.rows)  # records of arms that were not trained in turns lack them
    words.append("arms trained in turns" if turns else "one arm trained after the other: its seconds are coarse")
    return ", ".join(words)


def blank(table: CostTable) -> list[str]:
    """Say why whole columns are blank."""
    words = []
    if not any(row.offline.get("joules") for row in table.rows):
        words.append("This machine shows no counter of energy.")
    if not table.search:
        words.append("The layer was named and not searched for.")
    return [" ".join(words)] if words else []


def answer(table: CostTable) -> str:
    """Return in words what plugging in costs over the encoder alone, and what folding takes back."""
    rows = {row.arm: row for row in table.rows if row.quality is not None}
    base = rows[ALONE]
    words = []
    for arm in WIRED:
        if arm in rows:
            own = rows[arm]
            words.append(f"{arm}: {gain(own, base)}, {ratio(own, base, 'forward_s')} as long a text")
    found = f"Next to the encoder alone ({shown(base)}): {'; '.join(words)}."
    if FOLDED in rows and "PiFi" in rows:
        whole, folded = rows["PiFi"].file.get("bytes"), rows[FOLDED].file.get("bytes")
        if whole == folded:
            found += (
                " Folded, the file has the same size: a layer that reads one vector is kept in its single-token form "
                "anyway, and the form with folded projections would be larger."
            )
        elif whole and folded:
            found += (
                f" Folded, the file is {folded / 1e6:.0f} MB instead of {whole / 1e6:.0f} MB, with the same answers."
            )
    return found


def gain(own: CostRow, base: CostRow) -> str:
    """Return the mean difference over seeds in points, with Student's interval of 95 % over them."""
    points = 100 * (np.array(own.by_seed) - np.array(base.by_seed))
    half = t.isf(0.025, len(points) - 1) * points.std(ddof=1) / len(points) ** 0.5
    return f"{points.mean():+.1f} points [{points.mean() - half:.1f}, {points.mean() + half:.1f}]"


def ratio(own: CostRow, base: CostRow, what: str) -> str:
    """Return how many times as long as the base an arm takes for half of the texts."""
    mine, other = own.percentile(what, 50), base.percentile(what, 50)
    return "an unmeasured multiple of" if mine is None or not other else f"{mine / other:.2f} times"


def shown(row: CostRow) -> str:
    """Return the quality with its interval, in percent."""
    return f"{100 * row.quality:.1f} [{100 * row.low:.1f}, {100 * row.high:.1f}] %"


def markdown(table: CostTable) -> str:
    """Return the table of a pair, folded."""
    frame = table.frame.set_index("arm")
    head = ["arm", table.rows[0].metric, "forgetting, nats", *COLUMNS]
    lines = [head, ["---", *["---:"] * (len(head) - 1)]]
    for row in table.rows:
        if row.quality is None:
            lines.append([row.arm, f"failed: {row.failed}", *[""] * (len(head) - 2)])
            continue
        own: Any = frame.loc[row.arm]
        cells = [cell(own[column], digits) for column, digits in COLUMNS.values()]
        lines.append([row.arm, shown(row), cell(row.forgetting, 3), *cells])
    text = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    return f":::{{dropdown}} Every arm, {len(lines) - 2} rows\n\n{text}\n\n:::"


def cell(value: float | None, digits: int) -> str:
    """Return a number, or nothing where none was measured."""
    return "" if value is None or value != value else f"{value:,.{digits}f}"


def recorded() -> dict[str, CostTable]:
    """Return the tables by the names of their files."""
    return {file.stem: CostTable.from_json(file) for file in sorted(RECORDS.glob("*.json"))}


def main() -> None:
    """Write the page and its pictures."""
    tables = recorded()
    PICTURES.mkdir(parents=True, exist_ok=True)
    for name, table in tables.items():
        alt = f"Quality over latency of every arm, {table.pair}; the size of a mark is that of the file."
        (PICTURES / f"{name}.html").write_text(piece(table.figure(), alt), encoding="utf-8")
    PAGE.write_text(page(tables), encoding="utf-8")


if __name__ == "__main__":
    main()
