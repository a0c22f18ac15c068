"""Put recorded numbers into README.md: the table between two markers is made from a JSON, never by hand."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
DEMO = ROOT / "benchmarks" / "results" / "demo-full.json"
README = ROOT / "README.md"
_BLOCK = re.compile(r"(<!-- demo:begin -->\n).*?(<!-- demo:end -->)", re.DOTALL)


def demo_table(record: dict[str, Any]) -> str:
    """Return the recorded demo as Markdown: one table per test set."""
    size, machine = record["size"], record["provenance"]["machine"]
    lines = [
        f"`{record['command']}`, {record['provenance']['date'][:10]}, {machine['cpu']}, {machine['cores']} cores: "
        f"{size['train']} training and {size['validation']} validation texts, {size['seeds']} seeds, "
        f"{size['epochs']} epochs, {size['precision']}; 95 % intervals over seeds and test texts.",
        "",
    ]
    against_random = {(row["test"], row["arm"]): row for row in record["comparisons"]["random"]["rows"]}
    rows = record["comparisons"]["vanilla"]["rows"]
    for test in dict.fromkeys(row["test"] for row in rows):
        lines += [
            f"**{test}**",
            "",
            "| arm | accuracy % | balanced % | to vanilla (points) | to the random-init layer (points) | verdict |",
            "|---|---|---|---|---|---|",
        ]
        for row in (row for row in rows if row["test"] == test):
            other = against_random[test, row["arm"]]
            lines.append(
                f"| {row['arm']} | {100 * row['mean']:.1f} | {100 * row['balanced_accuracy']:.1f} | "
                f"{_difference(row)} | {_difference(other)} | {row['verdict']} |"
            )
        lines.append("")
    return "\n".join(lines)


def _difference(row: dict[str, Any]) -> str:
    if row["difference"] is None:
        return ""
    values = [100 * row[name] for name in ("difference", "difference_low", "difference_high")]
    return f"{values[0]:+.1f} [{values[1]:+.1f}, {values[2]:+.1f}]"


def updated(readme: str, record: dict[str, Any]) -> str:
    """Return the README with the recorded table between its markers."""
    return _BLOCK.sub(lambda match: f"{match[1]}{demo_table(record)}\n{match[2]}", readme)


if __name__ == "__main__":
    text = updated(README.read_text(encoding="utf-8"), json.loads(DEMO.read_text(encoding="utf-8")))
    README.write_text(text, encoding="utf-8")
