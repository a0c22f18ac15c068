"""``train`` and ``compare``: single runs, and what their differences are worth."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from pifi_probe.cli import flags
from pifi_probe.cli.inputs import chosen_layer, load_task
from pifi_probe.cli.output import console, print_json, print_record
from pifi_probe.tags import tags_of
from pifi_probe.vocabulary import COMBINATIONS, CONTROLS

if TYPE_CHECKING:
    from pifi_probe.training import RunResult

__all__ = ["register"]


def register(app: typer.Typer) -> None:
    """Attach the commands."""
    app.command(
        "train",
        epilog="Example: pifi-probe train --task movie-reviews --layer 'smollm2-135m[-1]' -o runs/last",
    )(train)
    app.command("compare", epilog="Example: pifi-probe compare runs/vanilla-0 runs/last-0 --baseline vanilla")(compare)


def train(
    task: str = flags.Task,
    out: Path = typer.Option(..., "--out", "-o", help="Folder of the run; result.json is written into it."),
    slm: str = flags.Slm,
    layer: str = typer.Option(
        "", help="MODEL[i], or several: A[i] >> B[j], A[i] | B[j]; by default the last of smollm2-135m, or its chain."
    ),
    combine: str = typer.Option("", help=f"Of several layers: {', '.join(COMBINATIONS)}."),
    wiring: str = typer.Option("pifi", help=flags.WIRING),
    control: str = typer.Option("", help=f"One of {', '.join(CONTROLS)}."),
    also: list[str] = typer.Option([], help="Further test sets; may be repeated."),
    text: str = flags.Text,
    label: str = flags.Label,
    kind: str = flags.Kind,
    language: str = flags.Language,
    n_train: int = flags.NTrain,
    per_class: int = typer.Option(0, help="Train on this many texts of every class."),
    seed: int = typer.Option(0, help="Seed of initialisation, order and dropout."),
    epochs: int = flags.Epochs,
    learning_rate: float = flags.LearningRate,
    precision: str = flags.Precision,
    max_tokens: int = flags.MaxTokens,
    device: str = flags.Device,
    class_weights: str = typer.Option("none", help="none, or balanced: rare classes count as much as common ones."),
    arms: str = typer.Option("", help="All of vanilla, linear, random, shuffled, real (all), or some, with commas."),
    n_seeds: int = typer.Option(
        0, "--n-seeds", "--seeds", help="With --arms: this many seeds of each, from --seed on; 3 when 0."
    ),
    executor: str = typer.Option("local", help=f"With --arms: {flags.EXECUTOR}"),
    workers: int = typer.Option(1, help="With --arms: runs made at the same time."),
    tokenizer: str = flags.Tokenizer,
    save_model: bool = typer.Option(False, "--save-model", help="Save the trained model into the folder."),
    resume: bool = typer.Option(
        False, "--resume", help="Continue with what the same command has left in the folder; do not start over."
    ),
    report_to: list[str] = typer.Option([], help="tensorboard, mlflow, wandb, ...; may be repeated."),
    tags: list[str] = flags.Tags,
    allow_pickle: bool = flags.AllowPickle,
    as_json: bool = flags.Json,
) -> None:
    """Train one model and test it; with --arms, the layer and its controls with several seeds, and compare them."""
    import pifi_probe as pp
    from pifi_probe.errors import RunInterrupted

    tags_of(tags)
    main = load_task(task, text, label, kind, language)
    if n_train or per_class:
        main = main.subset(train=n_train or None, per_class=per_class or None)
    further = [load_task(name, text, label, kind, language) for name in also]
    recipe = pp.Recipe(
        seed=seed,
        epochs=epochs,
        learning_rate=learning_rate,
        precision=precision,
        max_tokens=max_tokens,
        device=device,
        class_weights=class_weights,
    )
    layer = chosen_layer(layer, wiring)
    if arms or n_seeds:
        _refuse_single(control, resume, save_model, tokenizer, report_to)
        terminal = console()

        def say(run: RunResult) -> None:
            if not as_json:
                terminal.print(f"{run!r}, {sum(run.seconds.values()):.0f} s")

        where: dict[str, Any] = {"out": out, "executor": executor, "workers": workers, "allow_pickle": allow_pickle}
        what: dict[str, Any] = {
            "wiring": wiring,
            "combine": combine or None,
            "arms": arms or "all",
            "n_seeds": n_seeds or 3,
        }
        runs = pp.train_arms(slm, layer, main, recipe, **what, **where, also=further, tags=tags, on_run=say)
        _compare_arms(runs, out, tags, as_json)
        return
    model = pp.plug_in(
        slm,
        layer,
        task=main,
        wiring=wiring,
        combine=combine or None,
        control=control or None,
        seed=seed,
        tokenizer=tokenizer or None,
        allow_pickle=allow_pickle,
    )
    try:
        options: dict[str, Any] = {"save_model": save_model, "report_to": report_to, "tags": tags}
        result = pp.fine_tune(model, main, recipe, also=further, out=out, resume=resume, **options)
    except RunInterrupted as stopped:
        again = "run the same command again" + (" with --resume" if stopped.where else "")
        raise RunInterrupted(stopped.what, where=stopped.where, next=again) from stopped
    if as_json:
        print_json(result.to_dict())
        return
    for name, metrics in result.metrics.items():
        shown = {key: f"{value:.3f}" for key, value in metrics.items() if isinstance(value, float)}
        print_record(f"{result.label} on {name}", shown)


def _refuse_single(control: str, resume: bool, save_model: bool, tokenizer: str, report_to: list[str]) -> None:
    """Raise where an option belongs to a single run."""
    given = {
        "--control": bool(control),
        "--resume": resume,
        "--save-model": save_model,
        "--tokenizer": tokenizer,
        "--report-to": report_to,
    }
    if wrong := [name for name, used in given.items() if used]:
        raise typer.BadParameter(f"{wrong[0]} is for a single run; --arms keeps finished runs by itself")


def _compare_arms(made: list[RunResult], out: Path, tags: list[str], as_json: bool) -> None:
    """Compare arms that were trained; without the encoder alone, say how."""
    import pifi_probe as pp

    terminal = console()
    if all(run.model["control"] != "vanilla" for run in made):
        terminal.print(f"{len(made)} runs in {out}; compare them: pifi-probe compare FOLDERS --baseline ARM")
        return
    comparison = pp.compare(made, tags=tags_of(tags))
    comparison.to_json(out / "comparison.json")
    if as_json:
        print_json(comparison.to_dict())
        return
    terminal.print(comparison.panel())
    terminal.print(f"every arm: pifi-probe compare {out}/*-seed* --table")


def compare(
    runs: list[Path] = typer.Argument(help="Folders of runs, or their result.json files."),
    baseline: str = typer.Option("vanilla", help="The arm that the others are compared with."),
    metric: str = typer.Option("", help="A score of every example, such as nll; the task's main one when empty."),
    margin: float = typer.Option(0.0, help="What counts as no difference, such as 0.01; one point when 0."),
    tagged: list[str] = typer.Option([], help="Only runs with this tag; may be repeated."),
    tags: list[str] = flags.Tags,
    html: Path = typer.Option(None, help="Write a report here."),
    table: bool = typer.Option(False, "--table", help="Show every arm, not only the answer."),
    as_json: bool = flags.Json,
) -> None:
    """Compare runs, paired over seeds and test examples: the answer, and every arm with --table."""
    import pifi_probe as pp

    files = [path / "result.json" if path.is_dir() else path for path in runs]
    found = [pp.RunResult.from_json(file) for file in files]
    kept = [run for run in found if set(tagged) <= set(run.tags)]
    if found and not kept:
        known = ", ".join(sorted({tag for run in found for tag in run.tags})) or "none"
        raise typer.BadParameter(f"no run has the tag {' and '.join(tagged)}; their tags: {known}")
    comparison = pp.compare(
        kept,
        baseline=baseline,
        metric=metric or None,
        margin=margin or None,
        tags=tags,
    )
    if html is not None:
        from pifi_probe.reporting import html as report

        report.report("Comparison", [*comparison.sections(), {"title": "Arms", "table": comparison.frame}], html)
    if as_json:
        print_json(comparison.to_dict())
    else:
        console().print(comparison.panel())
        for line in comparison.sight():
            console().print(f"Sight of the weights: {line}.")
        if table:
            console().print(comparison.to_rich(f"against {baseline}"))
        else:
            console().print("every arm and its verdict: the same command with --table")
