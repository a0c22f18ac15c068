"""Does everything run on this card, with the CPU's numbers? One JSON and a row of a table, in ten minutes at most.

Needs a checkout and no network: models are tiny and random, but for one layer stack of the shape of an 8B model. A
check that fails is a row with its error; the others go on. `--device cpu --quick` tries the script itself.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from transformers import TrainerCallback

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks")]

import pifi_probe as pp  # noqa: E402
from benchmarks._checkpoint import llama_8b, llama_tiny, write_checkpoint  # noqa: E402
from pifi_probe.cli import main as main_of_cli  # noqa: E402
from pifi_probe.devices import has_bf16  # noqa: E402
from pifi_probe.files import write_json  # noqa: E402
from pifi_probe.layers.frozen import FrozenLayer  # noqa: E402
from pifi_probe.layers.open import open_checkpoint  # noqa: E402
from pifi_probe.layers.stream import Batch, stream  # noqa: E402
from pifi_probe.provenance import collect, shorten_paths  # noqa: E402
from tests import kinds, runs, slm, tiny  # noqa: E402
from tests.contract import CASES, Shelf, answer, batch_of  # noqa: E402

TOLERANCE = {"float32": 2e-4, "bfloat16": 5e-2, "float16": 1e-2}  # of the largest number of the CPU in float32
QUICK_FAMILIES = ("llama", "gpt2")
QUICK_CASES = ("classes", "tags", "folded")
Row = dict[str, Any]


class Check:
    """What all checks share: the device, tiny models on disk, and the time that is left.

    Parameters
    ----------
    device : str
    quick : bool
    folder : Path
        For models and runs.
    """

    def __init__(self, device: str, quick: bool, folder: Path) -> None:
        self.device, self.quick, self.folder = torch.device(device), quick, folder
        self.shelf, self.parts = Shelf(folder / "shelf"), runs.Parts(folder / "parts")
        self.recipe = runs.RECIPE.replace(device=device)

    def families(self) -> Iterator[Row]:
        """Compare a layer of every family on the device with the CPU in float32."""
        for family in QUICK_FAMILIES if self.quick else tiny.FAMILIES:
            checkpoint = tiny.tiny_checkpoint(family, self.folder / family)
            states = torch.randn(3, 9, tiny.WIDTH, generator=torch.Generator().manual_seed(0))
            mask = torch.ones(3, 9, dtype=torch.long)
            mask[0, 6:] = 0
            want = pp.extract(f"{checkpoint}[1]", dtype="float32")(states, mask)
            for dtype, tolerance in TOLERANCE.items():
                layer = pp.extract(f"{checkpoint}[1]", dtype=dtype, device=str(self.device))
                found = layer(states.to(self.device), mask.to(self.device)).float().cpu()
                yield difference(f"{family}, {dtype}", found[mask.bool()], want[mask.bool()], tolerance)

    def models(self) -> Iterator[Row]:
        """Compare logits, losses and a few steps of training of every head, wiring, control and combination."""
        for name in QUICK_CASES if self.quick else CASES:
            model, batch = self.shelf.model(name).eval(), batch_of(name)
            want = answer(model, batch)
            loss = model(**batch).loss
            there = {key: value.to(self.device) for key, value in batch.items()}
            model.to(self.device)
            found = model(**there)
            found.loss.backward()
            yield difference(name, answer(model, there).cpu(), want, TOLERANCE["float32"])
            yield difference(f"{name}, loss", found.loss.detach().cpu(), loss.detach(), TOLERANCE["float32"])
            if any(p.requires_grad for p in model.parameters()):
                losses = [steps(self.shelf.model(name), batch, device) for device in ("cpu", self.device)]
                yield difference(f"{name}, trained", losses[1], losses[0], 1e-3)

    def training(self) -> Iterator[Row]:
        """Train every kind of task, twice to the same bits, and go on where an interrupted run stopped."""
        for kind in ("single",) if self.quick else kinds.KINDS:
            task = kinds.task_of(kind)
            small = "t5" if kind == "seq2seq" else "bert"
            curves = []
            for _ in range(2):
                model = pp.plug_in(str(self.shelf.slm(small)), f"{self.shelf.llm}[1]", task=task, seed=1)
                curves.append(pp.fine_tune(model, task, self.recipe.replace(epochs=1)).curves["loss"])
            yield {"check": f"{kind}: bit-equal repeats", "holds": curves[0] == curves[1], "value": curves[0][-1]}
        whole = pp.fine_tune(self.parts.model(), runs.TASK, self.recipe)
        folder = self.folder / "resumed"
        with contextlib.suppress(pp.errors.RunInterrupted):
            pp.fine_tune(self.parts.model(), runs.TASK, self.recipe, out=folder, callbacks=[Stop(4)])
        again = pp.fine_tune(self.parts.model(), runs.TASK, self.recipe, out=folder, resume=True)
        yield {"check": "resume", "holds": again.curves == whole.curves and again.tests == whole.tests, "value": None}

    def storage(self) -> Iterator[Row]:
        """Save on the device, load on the CPU and the other way round; fold on the device."""
        model, batch = self.shelf.model("classes").eval().to(self.device), batch_of("classes", labels=False)
        there = {key: value.to(self.device) for key, value in batch.items()}
        want = answer(model, there).cpu()
        model.save_pretrained(self.folder / "saved")
        loaded = type(model).from_pretrained(self.folder / "saved").eval()
        yield difference("saved there, loaded here", answer(loaded, batch), want, TOLERANCE["float32"])
        yield difference("and back", answer(loaded.to(self.device), there).cpu(), want, TOLERANCE["float32"])
        for form in ("z", "grouped"):
            yield difference(f"fold, {form}", answer(model.fold(form), there).cpu(), want, TOLERANCE["float32"])

    def probing(self) -> Iterator[Row]:
        """Compare the scores of a probe and of a search with the CPU's."""
        task = slm.tiny_task(120)
        values = []
        for device in ("cpu", str(self.device)):
            table = pp.probe(
                str(self.parts.llm),
                task,
                pp.ProbeSettings(device=device, n_permutations=0, cache=False),
                n=60,
                estimators=["ridge_accuracy", "logme"],
                progress=False,
            )
            values.append(torch.tensor(table.frame["value"].to_numpy()))
        yield difference("probe", values[1], values[0], 1e-3)
        if self.quick:
            return
        losses = []
        for device in ("cpu", str(self.device)):
            study = pp.search(
                str(self.parts.slm),
                str(self.parts.llm),
                task,
                strategy="exhaustive",
                n_seeds=1,
                budget="3",
                recipe=self.recipe.replace(device=device, epochs=1),
                study=self.folder / f"{device}.db",
                confirm=False,
            )
            losses.append(torch.tensor(sorted(study.leaderboard()["nll"].dropna().tolist())))
        yield difference("search", losses[1], losses[0], 1e-2)

    def memory(self) -> Iterator[Row]:
        """Go on with fewer texts at once where the card is full."""
        config = llama_tiny(2)
        checkpoint = open_checkpoint(str(write_checkpoint(self.folder / "full", config, seed=0)))
        ids = torch.randint(5, 90, (64, 32), generator=torch.Generator().manual_seed(0))
        batches = [Batch(ids, torch.ones_like(ids))]
        plain: list[torch.Tensor] = []
        small: list[torch.Tensor] = []
        stream(checkpoint, batches, keep(plain), model="full", device=self.device, progress=False)
        whole = FrozenLayer.forward

        def full(layer: Any, states: torch.Tensor, *args: Any) -> torch.Tensor:
            if len(states) > 16:
                raise torch.OutOfMemoryError("the card is full")
            return whole(layer, states, *args)

        with mock.patch.object(FrozenLayer, "forward", full):
            stream(checkpoint, batches, keep(small), model="full", device=self.device, progress=False)
        yield difference("halved after running out of memory", small[-1], plain[-1], TOLERANCE["float32"])

    def costs(self) -> Iterator[Row]:
        """Run ``pifi-probe bench`` for pairs of two encoders and two donors on this device."""
        data = self.folder / "reviews.csv"
        data.write_text(
            "text,label\n" + "".join(f"the film was {w} {n},{w}\n" for w in ("good", "bad") for n in range(99))
        )
        donors = {family: tiny.tiny_checkpoint(family, self.folder / f"donor-{family}") for family in ("llama", "gpt2")}
        pairs = [(small, large) for small in ("bert", "roberta") for large in donors]
        for small, large in pairs[:1] if self.quick else pairs:
            out = self.folder / f"costs-{small}-{large}"
            told = ["bench", "--task", str(data), "--slm", str(self.shelf.slm(small)), "--layer", f"{donors[large]}[1]"]
            told += ["--device", str(self.device), "--batch", "1", "--batch", "8", "--length", "16", "--rounds", "2"]
            code = main_of_cli([*told, "--allow-busy", "--json", "--out", str(out)])  # that it runs, not how fast
            found = json.loads((out / "benchmark.json").read_text(encoding="utf-8")) if code == 0 else {}
            whole = bool(found) and not found["left_out"] and found["device"].startswith(self.device.type)
            yield {"check": f"bench, {small} + {large}", "holds": whole, "value": len(found.get("arms", ()))}

    def large(self) -> Iterator[Row]:
        """Stream layers of the shape of an 8B model to the device, one in memory at a time, and probe their states."""
        config = llama_tiny(2) if self.quick else llama_8b(4, vocab_size=32_000)
        checkpoint = open_checkpoint(str(write_checkpoint(self.folder / "large", config, seed=0)))
        ids = torch.randint(5, 90, (64, 64), generator=torch.Generator().manual_seed(0))
        seen: list[torch.Tensor] = []
        start = time.perf_counter()
        batches = [Batch(part, torch.ones_like(part)) for part in ids.split(16)]
        options: dict[str, Any] = {"model": "8B shape", "device": self.device, "progress": False}
        stream(checkpoint, batches, keep(seen), precision=self.precision, **options)
        yield {
            "check": f"{config.num_hidden_layers} layers of width {config.hidden_size}, streamed",
            "holds": all(bool(torch.isfinite(one).all()) for one in seen),
            "value": round(time.perf_counter() - start, 2),
        }
        slm.tiny_tokenizer().save_pretrained(self.folder / "large")
        start = time.perf_counter()
        settings = pp.ProbeSettings(device=str(self.device), n_permutations=0, cache=False, precision=self.precision)
        options = {"n": 60, "estimators": ["ridge_accuracy", "logistic_nll"], "progress": False}
        table = pp.probe(str(self.folder / "large"), slm.tiny_task(120), settings, **options)
        yield {
            "check": f"{config.num_hidden_layers} layers of width {config.hidden_size}, probed",
            "holds": bool(table.frame["value"].notna().all())
            and len(table.frame) == 2 * (config.num_hidden_layers + 1),
            "value": round(time.perf_counter() - start, 2),
        }

    @property
    def precision(self) -> str:
        """bf16 where the device has it."""
        return "bf16" if has_bf16(self.device) else "float32"


class Stop(TrainerCallback):
    """Interrupts a run, as Ctrl-C does, after so many steps."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Send the interrupt."""
        if state.global_step == self.step:
            signal.raise_signal(signal.SIGINT)


def steps(model: Any, batch: dict[str, torch.Tensor], device: Any, n_steps: int = 3) -> torch.Tensor:
    """Return the losses before each of a few steps of plain gradient descent, without dropout."""
    model, batch, losses = model.eval().to(device), {key: value.to(device) for key, value in batch.items()}, []
    descent = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=1e-2)
    for _ in range(n_steps):
        loss = model(**batch).loss
        losses.append(loss.detach().float().cpu())
        descent.zero_grad()
        loss.backward()
        descent.step()
    return torch.stack(losses)


def keep(into: list[torch.Tensor]) -> Callable[[int, int, torch.Tensor], None]:
    """Return what copies the states of every point to the CPU."""
    return lambda point, batch, states: into.append(states.float().cpu())


def difference(name: str, found: torch.Tensor, want: torch.Tensor, tolerance: float) -> Row:
    """Return the largest difference, relative to the largest number that was wanted."""
    value = float((found.double() - want.double()).abs().max() / want.double().abs().max().clamp_min(1e-12))
    return {"check": name, "holds": value <= tolerance, "value": value, "most": tolerance}


def run(check: Check, until: float) -> list[Row]:
    """Run all checks; one that fails, or has no time left, is a row."""
    groups = ("families", "models", "training", "storage", "probing", "memory", "costs", "large")
    rows: list[Row] = []
    for group in groups:
        start = time.perf_counter()
        try:
            made = iter(getattr(check, group)())
            while time.perf_counter() <= until:
                if (row := next(made, None)) is None:
                    break
                rows.append({"group": group, **row})
            else:
                rows.append({"group": group, "check": "no time left", "holds": None})
        except Exception as error:  # one failure says nothing of the other groups
            rows.append(
                {"group": group, "check": "broke off", "holds": False, "error": shorten_paths(repr(error))[:500]}
            )
        print(f"{group}: {time.perf_counter() - start:.1f} s", flush=True)
    return rows


def summary(rows: list[Row], made: dict[str, Any]) -> str:
    """Return the row of a table: card, versions, how many checks hold, and which do not."""
    wrong = [f"{row['group']}: {row['check']}" for row in rows if row["holds"] is not True]
    held = sum(row["holds"] is True for row in rows)
    machine, versions = made["machine"], made["versions"]
    card = machine.get("gpu") or machine["cpu"]
    cells = (
        made["date"][:10],
        card,
        f"torch {versions['torch']}",
        f"{held} of {len(rows)}",
        "; ".join(wrong) or "none",
    )
    return f"| {' | '.join(map(str, cells))} |"


def main() -> int:
    """Check, write, and return 0 when everything holds."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--device", default="cuda")
    options.add_argument("--quick", action="store_true", help="a few models of each kind")
    options.add_argument("--minutes", type=float, default=10, help="after which no further check begins")
    options.add_argument("--out", type=Path, default=Path("gpu_check.json"))
    given = options.parse_args()
    if given.device == "cuda" and not torch.cuda.is_available():
        print("this PyTorch sees no CUDA device; --device cpu --quick tries the script", file=sys.stderr)
        return 2
    os.environ["HF_HUB_OFFLINE"] = "1"
    start = time.perf_counter()
    with tempfile.TemporaryDirectory(prefix="pifi-gpu-") as folder:
        caches = {name: folder for name in ("PIFI_PROBE_FEATURES", "PIFI_PROBE_CACHE")}
        with mock.patch.dict(os.environ, caches):
            rows = run(Check(given.device, given.quick, Path(folder)), start + 60 * given.minutes)
    made = collect(device=given.device, quick=given.quick, seconds=round(time.perf_counter() - start, 1))
    write_json(given.out, {"rows": rows, **made})
    print(summary(rows, made))
    return int(any(row["holds"] is False for row in rows))


if __name__ == "__main__":
    sys.exit(main())
