"""What a run reports to TensorBoard, MLflow, W&B and callbacks, and that it changes no number; a study's dashboard."""

from __future__ import annotations

import io
import sys
from pathlib import Path
from typing import Any

import pytest
from transformers import TrainerCallback

import pifi_probe as pp
from pifi_probe.cli import main
from pifi_probe.selection.store import Store
from pifi_probe.training import fine_tune
from tests.runs import RECIPE, TASK, Parts


def test_tensorboard_shows_every_step_and_epoch_and_changes_nothing(parts: Parts, tmp_path: Path) -> None:
    events = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    plain = fine_tune(parts.model(), TASK, RECIPE, out=tmp_path / "plain")
    told = fine_tune(
        parts.model(), TASK, RECIPE, out=tmp_path / "told", report_to="tensorboard", tags=["paper", "night"]
    )
    assert told.tests == plain.tests and told.curves == plain.curves and told.epochs == plain.epochs
    assert not (tmp_path / "plain" / "tensorboard").exists(), "nothing is reported by default"
    shown = events.EventAccumulator(str(tmp_path / "told" / "tensorboard"))
    shown.Reload()
    (tags,) = shown.Tensors("tags/text_summary")
    assert tags.tensor_proto.string_val[0].decode() == "paper, night"
    losses = [event.value for event in shown.Scalars("train/loss")]
    assert losses == pytest.approx(told.curves["loss"], abs=1e-3)
    accuracies = [event.value for event in shown.Scalars("eval/accuracy")]
    assert accuracies == pytest.approx([epoch["accuracy"] for epoch in told.epochs[1:]])


def test_mlflow_shows_every_step_and_epoch_and_the_settings(
    parts: Parts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mlflow = pytest.importorskip("mlflow")
    monkeypatch.chdir(tmp_path)  # what MLflow writes next to its database
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'mlflow.db'}")
    monkeypatch.setenv("MLFLOW_TAGS", '{"for": "paper"}')
    told = fine_tune(parts.model(), TASK, RECIPE, report_to="mlflow")
    assert mlflow.active_run() is None, "the next run is one of its own"
    mlflow.flush_async_logging()
    (run,) = mlflow.search_runs(output_format="list")
    history = mlflow.MlflowClient().get_metric_history
    losses = [one.value for one in sorted(history(run.info.run_id, "loss"), key=lambda one: one.step)]
    assert losses == pytest.approx(told.curves["loss"], abs=1e-3)
    assert run.data.metrics["eval_accuracy"] == pytest.approx(told.epochs[-1]["accuracy"])
    assert float(run.data.params["learning_rate"]) == RECIPE.learning_rate and run.data.params["wiring"] == "pifi"
    assert run.info.run_name.endswith(", seed 0") and run.data.tags["for"] == "paper"


def test_wandb_shows_losses_metrics_and_the_settings(
    parts: Parts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wandb = pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    for folder in ("DIR", "DATA_DIR", "CACHE_DIR", "CONFIG_DIR"):
        monkeypatch.setenv(f"WANDB_{folder}", str(tmp_path))
    monkeypatch.setenv("WANDB_TAGS", "paper")
    try:
        told = fine_tune(parts.model(), TASK, RECIPE, report_to="wandb")
        shown, settings = dict(wandb.run.summary), dict(wandb.run.config)
        name, tags = wandb.run.name, wandb.run.tags
    finally:
        wandb.finish()
    assert shown["train/global_step"] == len(told.curves["loss"])
    assert shown["train/loss"] == pytest.approx(told.curves["loss"][-1], abs=1e-3)
    assert shown["eval/accuracy"] == pytest.approx(told.epochs[-1]["accuracy"])
    assert settings["learning_rate"] == RECIPE.learning_rate and settings["model/num_parameters"] > 0
    assert name.endswith(", seed 0") and tuple(tags) == ("paper",)


def test_a_callback_of_the_user_hears_the_logs(parts: Parts) -> None:
    class Listener(TrainerCallback):
        heard: list[dict[str, Any]] = []

        def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
            self.heard.append(logs)

    fine_tune(parts.model(), TASK, RECIPE, callbacks=[Listener()])
    assert sum("loss" in logs for logs in Listener.heard) == 9
    assert sum("eval_accuracy" in logs for logs in Listener.heard) == RECIPE.epochs


def test_what_cannot_report_says_what_to_do(parts: Parts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = parts.model()
    with pytest.raises(pp.errors.RecipeError, match=r"nothing to report to is called 'tensorbord'.*tensorboard"):
        fine_tune(model, TASK, RECIPE, report_to="tensorbord")
    with pytest.raises(pp.errors.RecipeError, match="out="):
        fine_tune(model, TASK, RECIPE, report_to="tensorboard")
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(pp.errors.RecipeError, match=r"pip install 'pifi-probe\[tensorboard\]'"):
        fine_tune(model, TASK, RECIPE, report_to=["none", "tensorboard"], out=tmp_path)


def test_serve_hands_the_study_to_the_dashboard(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dashboard = pytest.importorskip("optuna_dashboard")
    study = f"{tmp_path / 's.db'}#mine"
    Store.open(study)
    shown: list[Any] = []

    def run_server(storage: Any, host: str, port: int) -> None:
        application = dashboard.wsgi(storage)
        request = {"REQUEST_METHOD": "GET", "PATH_INFO": "/api/studies", "wsgi.input": io.BytesIO()}
        shown.extend([host, port, b"".join(application(request, lambda *_: None))])

    monkeypatch.setattr(dashboard, "run_server", run_server)
    assert main(["study", "serve", study, "--port", "8123"]) == 0
    assert shown[:2] == ["127.0.0.1", 8123] and b"mine" in shown[2], "on this machine only"


def test_serve_without_the_dashboard_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    study = f"{tmp_path / 's.db'}#mine"
    Store.open(study)
    monkeypatch.setitem(sys.modules, "optuna_dashboard", None)
    assert main(["study", "serve", study]) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert "pip install 'pifi-probe[dashboard]'" in line
