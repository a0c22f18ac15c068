"""Run the conformity tests and write what passed: book/_studies/compatibility.json and book/compatibility.md.

python book/_scripts/compatibility.py           runs the tests, some minutes
python book/_scripts/compatibility.py --types   only the walk over all causal model types of transformers
python book/_scripts/compatibility.py --page    writes the page from the stored result
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ElementTree
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pifi_probe.files import write_json, write_text
from pifi_probe.layers.families import FAMILIES
from pifi_probe.layers.refused import REFUSED
from pifi_probe.provenance import collect

BOOK = Path(__file__).resolve().parent.parent
ROOT = BOOK.parent
RESULT = BOOK / "_studies" / "compatibility.json"
PAGE = BOOK / "compatibility.md"
TYPES = BOOK / "_studies" / "types.json"
TESTS = ("tests/test_conformity.py", "tests/test_heads_conformity.py", "tests/test_plugin.py")
WALK = ("test_every_offered_type_conforms", "test_types_whose_layers_depend_on_their_index_conform")
COUNTED = ("passed", "failed", "skipped")
DONOR = {  # what the table says: the test that says it
    "every layer equals itself inside of its model": (
        "test_conformity_every_layer_equals_itself_inside_the_full_model"
    ),
    "single-token form exact, or refused": "test_conformity_the_single_token_form_equals_the_layer_or_is_refused",
}
KINDS = ("single", "regression", "multiple-choice", "qa", "token-classification")
PADDING = ("test_left_and_right_padding_give_equal_logits", "test_left_and_right_padding_give_equal_predictions")
GRADIENTS = ("test_gradients_reach_encoder_projections_and_head_but_not_the_layer",)
WRITING = {
    "padding": "test_padding_on_either_side_changes_nothing_that_is_written",
    "gradients": "test_gradients_reach_encoder_projections_and_decoder_but_not_the_layer",
    "saving": "test_a_saved_encoder_decoder_writes_the_same",
    "as a classifier": "test_an_encoder_decoder_gives_its_encoder_to_a_classifier",
}
HEAD = """# Compatibility

What passed when the conformity tests ran on tiny random models of every family; `python
book/_scripts/compatibility.py` runs them and writes this page.

{when}
"""


def run_tests(*tests: str) -> list[dict[str, str]]:
    """Run the tests and return name, parameters and outcome of each."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.xml"
        command = [sys.executable, "-m", "pytest", "-q", *tests, f"--junitxml={report}"]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
        if not report.is_file():
            raise SystemExit(done.stdout[-2000:] + done.stderr[-2000:])
        return [outcome_of(case) for case in ElementTree.parse(report).iter("testcase")]


def outcome_of(case: ElementTree.Element) -> dict[str, str]:
    """Return what the report says of one test."""
    name, _, parameters = case.get("name", "").partition("[")
    bad = {child.tag for child in case} & {"failure", "error"}
    skipped = case.find("skipped") is not None
    outcome = "failed" if bad else "skipped" if skipped else "passed"
    file = case.get("classname", "").rpartition(".")[2]
    return {"file": file, "test": name, "parameters": parameters.removesuffix("]"), "outcome": outcome}


def walk() -> dict[str, Any]:
    """Return which causal model types of transformers conform, by test, and why the others are not offered."""
    outcomes = [one for one in run_tests("tests/test_causal_types.py") if one["test"] in WALK]
    types = {kind: sorted(one["parameters"] for one in outcomes if one["outcome"] == kind) for kind in COUNTED}
    return {"types": types, "not offered": dict(REFUSED), "provenance": collect()}


def types_said(record: Mapping[str, Any]) -> str:
    """Return what the page says of all types: the exceptions first, by their reason."""
    by_reason: dict[str, list[str]] = {}
    for name, reason in record["not offered"].items():
        by_reason.setdefault(reason, []).append(f"`{name}`")
    rows = [f"| {reason} | {', '.join(sorted(names))} |" for reason, names in by_reason.items()]
    passed, failed = record["types"]["passed"], record["types"]["failed"]
    made, versions = record["provenance"]["date"][:10], record["provenance"]["versions"]
    lines = [
        f"Of the causal model types of transformers {versions['transformers']}, {len(passed)} conform ({made}): "
        "every layer of a tiny random model equals itself inside of its model, one token and 17, padding on either "
        "side, to a relative error of 1e-5 in float32. A type that a new version of transformers brings fails the "
        "test until it conforms or a reason is written down.",
        f"Failed: {', '.join(f'`{name}`' for name in failed)}." if failed else "None of those offered failed.",
        f"Not offered, {len(record['not offered'])} types:",
        "\n".join(["| because | types |", "| --- | --- |", *rows]),
        "Conforming: " + ", ".join(f"`{name}`" for name in passed) + ".",
    ]
    return "\n\n".join(lines)


def tables(outcomes: list[dict[str, str]]) -> dict[str, list[dict[str, str]]]:
    """Return the three tables: donors, encoders by kind of head, encoder-decoders."""
    return {"donors": donors(outcomes), "encoders": encoders(outcomes), "encoder-decoders": writers(outcomes)}


def donors(outcomes: list[dict[str, str]]) -> list[dict[str, str]]:
    names = dict.fromkeys(one["parameters"] for one in outcomes if one["test"] in DONOR.values())
    rows = []
    for name in names:
        found = {said: [one for one in outcomes if one["test"] == test] for said, test in DONOR.items()}
        cells = {said: verdict([one for one in own if one["parameters"] == name]) for said, own in found.items()}
        family = max((one for one in FAMILIES if name == one or name.startswith(one + "_")), key=len, default=name)
        row = FAMILIES.get(family)
        more = {"reduces": row is not None and row.value is not None, "folds": row is not None and row.gated_mlp}
        rows.append(
            {"family (and variant)": name, **cells, **{key: "yes" if has else "no" for key, has in more.items()}}
        )
    return rows


def encoders(outcomes: list[dict[str, str]]) -> list[dict[str, str]]:
    """Return families by kind of head; "single" is the head for single texts and for pairs."""
    own = [one for one in outcomes if one["test"] in (*PADDING, *GRADIENTS)]
    other = "|".join((*KINDS, "cls", "mean", "last", "pooled", "sequence"))
    seen: dict[str, dict[str, list[dict[str, str]]]] = {}
    for one in own:
        kind = next((kind for kind in KINDS[1:] if has(one["parameters"], kind)), "single")
        family = re.sub(rf"-?\b({other})\b-?", "", one["parameters"])
        seen.setdefault(family, {}).setdefault(kind, []).append(one)
    return [
        {"family": family, **{kind: verdict(kinds.get(kind, [])) for kind in KINDS}} for family, kinds in seen.items()
    ]


def has(parameters: str, kind: str) -> bool:
    return re.search(rf"(^|-){re.escape(kind)}($|-)", parameters) is not None


def writers(outcomes: list[dict[str, str]]) -> list[dict[str, str]]:
    families = dict.fromkeys(one["parameters"] for one in outcomes if one["test"] == WRITING["padding"])
    return [
        {
            "family": family,
            **{
                said: verdict([one for one in outcomes if one["test"] == test and one["parameters"] == family])
                for said, test in WRITING.items()
            },
        }
        for family in families
    ]


def verdict(outcomes: list[dict[str, str]]) -> str:
    """Return "yes" when every test passed, else what happened; "" when there was none."""
    if not outcomes:
        return ""
    worst = {one["outcome"] for one in outcomes}
    return "**no**" if "failed" in worst else "not run" if "skipped" in worst else "yes"


def page(record: Mapping[str, Any], types: Mapping[str, Any]) -> str:
    """Return the page."""
    made = record["provenance"]
    versions = made["versions"]
    when = (
        f"This result: {made['date'][:10]}, torch {versions['torch']}, transformers {versions['transformers']}; "
        f"{record['counts']['passed']} tests passed, {record['counts']['failed']} failed, "
        f"{record['counts']['skipped']} were skipped."
    )
    donors_said = (
        "Language models whose layers can be plugged in. *Reduces*: a single token needs only the value path of "
        "attention. *Folds*: the projections can be folded into the layer exactly."
    )
    encoders_said = (
        "Small models, by the kind of the task: padding on either side changes nothing; gradients reach encoder, "
        "projections and head, and never the layer."
    )
    writers_said = "Encoder-decoders, and an encoder with a new decoder, where text is written."
    parts = [
        HEAD.format(when=when).strip(),
        "## Layers of which language models",
        types_said(types),
        "## Variants, and what their layers allow",
        donors_said,
        exceptions(record["donors"]),
        "## Which small models",
        encoders_said,
        exceptions(record["encoders"]),
        "## Writing",
        writers_said,
        exceptions(record["encoder-decoders"]),
    ]
    return "\n\n".join(parts) + "\n"


def exceptions(rows: list[dict[str, str]]) -> str:
    """Return for each thing that was tried which families are an exception to it, and then what was tried at all."""
    first, *tried = rows[0]
    lines = ["| what | holds for |", "| --- | --- |"]
    for what in tried:
        names = {value: [f"`{row[first]}`" for row in rows if row[what] == value] for value in {r[what] for r in rows}}
        good = names.pop("yes", [])
        bad = [f"{name}{_HOW.get(value, f' ({value})')}" for value, found in names.items() for name in found]
        said = f"all {len(rows)}" if not bad else f"all but {', '.join(bad)}" if len(bad) < len(good) else ""
        lines.append(f"| {what} | {said or 'only ' + ', '.join(good)} |")
    return "\n".join([*lines, "", f"Tried: {', '.join(f'`{row[first]}`' for row in rows)}."])


_HOW = {"no": "", "": " (not tried)"}


def main() -> None:
    """Run the tests unless only the page is wanted, and write."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--page", action="store_true", help="write the page from the stored result")
    options.add_argument("--types", action="store_true", help="run the walk over all types only")
    chosen = options.parse_args()
    if not chosen.page and not chosen.types:
        outcomes = run_tests(*TESTS)
        counts = {kind: sum(one["outcome"] == kind for one in outcomes) for kind in COUNTED}
        write_json(RESULT, {"counts": counts, **tables(outcomes), "tests": outcomes, "provenance": collect()})
    if not chosen.page:
        write_json(TYPES, walk())
    write_text(PAGE, page(*(json.loads(file.read_text(encoding="utf-8")) for file in (RESULT, TYPES))))


if __name__ == "__main__":
    main()
