"""The command line: exit codes, one-line errors, and output for machines."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pifi_probe import assets
from pifi_probe.cli import main
from pifi_probe.errors import RunInterrupted
from pifi_probe.units import amount
from tests import slm, tiny
from tests.runs import made_up

Captured = pytest.CaptureFixture[str]


@pytest.fixture(scope="module")
def llm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.tiny_checkpoint("llama", tmp_path_factory.mktemp("llm"))


@pytest.fixture
def words(tmp_path: Path) -> Path:
    rows = [
        f"the {slm.WORDS[8 + n % 4]} was {slm.WORDS[n % 8]} {n},{'good' if n % 8 < 4 else 'bad'}" for n in range(80)
    ]
    file = tmp_path / "words.csv"
    file.write_text("text,label\n" + "\n".join(rows) + "\n", encoding="utf-8")
    return file


def one_error_line(args: list[str], capsys: Captured) -> str:
    assert main(args) == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if line.strip()]
    assert len(lines) == 1, lines
    assert lines[0].startswith("error: ") and "| next: " in lines[0]
    return lines[0]


@pytest.mark.parametrize(
    "args",
    [[], ["extract"], ["info"], ["train"], ["compare"], ["demo"], ["doctor"], ["assets"], ["assets", "pull"]],
)
def test_every_command_has_help_and_the_leaves_an_example(args: list[str], capsys: Captured) -> None:
    assert main([*args, "--help"]) == 0
    shown = capsys.readouterr().out
    assert "Usage" in shown
    if args and args != ["assets"]:
        assert "Example: pifi-probe" in " ".join(shown.split())


def test_an_unknown_command_is_a_usage_error(capsys: Captured) -> None:
    assert main(["nosuch"]) == 2
    assert "nosuch" in capsys.readouterr().err


def test_extract_saves_the_layer_and_says_so_in_json(llm: Path, tmp_path: Path, capsys: Captured) -> None:
    assert main(["extract", f"{llm}[-1]", "--out", str(tmp_path / "layer"), "--json"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert record["index"] == 2 and (tmp_path / "layer" / "layer.safetensors").is_file()
    assert main(["extract", f"{llm}[0:2]", "--out", str(tmp_path / "two")]) == 0
    assert (tmp_path / "two" / "1" / "layer.json").is_file()


def test_info_says_what_a_layer_costs_before_anything_is_read(llm: Path, capsys: Captured) -> None:
    assert main(["info", str(llm), "--json"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert record["layers"] == 3 and record["hidden size"] == 32 and record["supported"] == "yes"
    assert record["layer bytes"] == 4 * record["layer weights"]


def test_numbers_are_printed_in_units_that_people_read(llm: Path, tmp_path: Path, capsys: Captured) -> None:
    layer = ["extract", f"{llm}[0]", "--out", str(tmp_path / "layer")]
    for command, keys in (
        (["info", str(llm)], {"layer weights": "", "layer bytes": "B", "layer memory": "B"}),
        (layer, {"weights": "", "bytes": "B"}),
        (["assets", "list"], {"bytes": "B"}),
    ):
        assert main([*command, "--json"]) == 0
        found = json.loads(capsys.readouterr().out)
        assert main(command) == 0
        shown = capsys.readouterr().out
        for record in found if isinstance(found, list) else [found]:
            for key, unit in keys.items():
                assert record[key] > 999
                assert re.search(rf"\b{key}\W+{re.escape(amount(record[key], unit))}\W", shown), (command, key)


def test_train_and_compare_work_from_files(
    llm: Path, bert: Path, words: Path, tmp_path: Path, capsys: Captured
) -> None:
    for control in ("vanilla", ""):
        for seed in ("0", "1"):
            args = ["train", "--task", str(words), "--slm", str(bert), "--layer", f"{llm}[1]", "--epochs", "1"]
            args += ["--control", control, "--seed", seed, "--out", str(tmp_path / f"{control}-{seed}"), "--json"]
            assert main(args) == 0
    capsys.readouterr()
    runs = [str(tmp_path / f"{control}-{seed}") for control in ("vanilla", "") for seed in "01"]
    assert main(["compare", *runs, "--json", "--html", str(tmp_path / "report.html")]) == 0
    comparison = json.loads(capsys.readouterr().out)
    assert len(comparison["rows"]) == 2
    assert "2 seeds" in comparison["rows"][1]["verdict"]
    assert "<table" in (tmp_path / "report.html").read_text(encoding="utf-8")
    assert main(["compare", *runs]) == 0
    assert "verdict" in capsys.readouterr().out


def test_doctor_fails_when_an_asset_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    monkeypatch.setenv("PIFI_PROBE_CACHE", str(tmp_path))
    assert main(["doctor", "--json"]) == 1
    findings = {finding["name"]: finding for finding in json.loads(capsys.readouterr().out)["findings"]}
    assert not findings["embedded assets"]["well"] and findings["embedded assets"]["next"] == "pifi-probe assets pull"
    assert findings["Python"]["well"]


# -- bad input: one line that says what, where and what next; exit code 2 --------------------------------------------


def test_ctrl_c_is_one_line_that_says_how_to_go_on(monkeypatch: pytest.MonkeyPatch, capsys: Captured) -> None:
    for raised, shown in (
        (KeyboardInterrupt(), "interrupted; what was finished is on disk: run the same command again to continue"),
        (RunInterrupted("stopped", where="here", next="go on"), "error: stopped | where: here | next: go on"),
    ):

        def stop(*args: object, raised: BaseException = raised, **kwargs: object) -> None:
            raise raised

        monkeypatch.setattr("pifi_probe.extract", stop)
        assert main(["extract", "m[0]"]) == 130
        assert capsys.readouterr().err.strip() == shown


@pytest.mark.slow
def test_a_training_stopped_by_ctrl_c_says_how_to_go_on_and_does(
    bert: Path, llm: Path, words: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    args = [
        "train",
        "--slm",
        str(bert),
        "--layer",
        f"{llm}[0]",
        "--task",
        str(words),
        "-o",
        str(run),
        "--epochs",
        "100",
    ]
    command = [sys.executable, "-m", "pifi_probe", *args]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True)
    deadline = time.monotonic() + 120
    while not list(run.glob("checkpoints/checkpoint-*")) and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert err.startswith("error: interrupted; the run is kept up to step") and "--resume" in err and str(run) in err
    assert err.count("\n") == 1
    again = subprocess.run([*command, "--resume"], capture_output=True, text=True, timeout=300)
    assert again.returncode == 0, again.stderr
    assert (run / "result.json").is_file()


def test_output_that_cannot_be_written_is_one_line(capsys: Captured) -> None:
    full = Path("/dev/full")
    if not full.exists():
        pytest.skip("this system has no /dev/full")
    with full.open("w") as nowhere:
        done = subprocess.run(
            [sys.executable, "-m", "pifi_probe", "assets", "list"], stdout=nowhere, stderr=subprocess.PIPE, text=True
        )
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert done.stderr.startswith("error: the system refused to read or write: No space left")


def test_verify_without_a_name_finds_broken_files_too(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: Captured
) -> None:
    monkeypatch.setenv("PIFI_PROBE_CACHE", str(tmp_path))
    asset = next(one for one in assets.ASSETS if one.name == "minilm-l6")
    home = tmp_path / "assets" / asset.name / asset.version
    home.mkdir(parents=True)
    (home / "config.json").write_text("{")
    monkeypatch.setattr(assets, "verify", lambda name: ["config.json"])
    assert main(["assets", "verify"]) == 0
    assert capsys.readouterr().out == "minilm-l6: repaired config.json\n"


def test_an_index_out_of_range(llm: Path, capsys: Captured) -> None:
    assert "the model has 3 layers" in one_error_line(["extract", f"{llm}[3]"], capsys)


def test_an_unknown_model(capsys: Captured) -> None:
    assert "no-such-model.gguf" in one_error_line(["extract", "no-such-model.gguf[0]"], capsys)


def test_a_folder_without_a_configuration(tmp_path: Path, capsys: Captured) -> None:
    (tmp_path / "model.safetensors").write_bytes(b"x")
    assert "config.json" in one_error_line(["extract", f"{tmp_path}[0]"], capsys)


def test_a_shard_that_is_listed_but_missing(tmp_path: Path, capsys: Captured) -> None:
    folder = tiny.tiny_checkpoint("llama", tmp_path, max_shard_size="40KB")
    next(iter(sorted(folder.glob("*-00001-of-*.safetensors")))).unlink()
    assert "missing" in one_error_line(["extract", f"{folder}[0]"], capsys)


def test_a_truncated_file(tmp_path: Path, capsys: Captured) -> None:
    folder = tiny.tiny_checkpoint("llama", tmp_path)
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    assert "model.safetensors" in one_error_line(["extract", f"{folder}[0]"], capsys)


def test_a_header_longer_than_the_file(tmp_path: Path, capsys: Captured) -> None:
    folder = tiny.tiny_checkpoint("llama", tmp_path)
    (folder / "model.safetensors").write_bytes((10**12).to_bytes(8, "little") + b"{}")
    assert "header" in one_error_line(["extract", f"{folder}[0]"], capsys)


@pytest.mark.parametrize("start", [b"GGML", b"GGUF" + b"\x03\0\0\0" + b"\xff" * 16])
def test_a_gguf_with_bad_magic_or_absurd_counts(start: bytes, tmp_path: Path, capsys: Captured) -> None:
    file = tmp_path / "model.gguf"
    file.write_bytes(start + b"\0" * 64)
    assert "model.gguf" in one_error_line(["extract", f"{file}[0]"], capsys)


def test_a_tensor_with_nan(tmp_path: Path, capsys: Captured) -> None:
    import torch
    from safetensors.torch import load_file, save_file

    folder = tiny.tiny_checkpoint("llama", tmp_path)
    tensors = load_file(folder / "model.safetensors")
    tensors["model.layers.0.mlp.up_proj.weight"][0, 0] = torch.nan
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    assert "mlp.up_proj" in one_error_line(["extract", f"{folder}[0]"], capsys)
    assert main(["extract", f"{folder}[1]", "--out", str(tmp_path / "layer")]) == 0, "other layers are fine"


@pytest.mark.parametrize(
    ("rows", "word"),
    [
        ("review,label\ngood,1\n", "text"),
        ("text,label\ngood,1\nfine,1\nbad,1\n", "class"),
        ("text,label\n,1\nbad,0\n", "empty"),
    ],
)
def test_a_task_file_that_is_no_task(rows: str, word: str, tmp_path: Path, capsys: Captured) -> None:
    file = tmp_path / "task.csv"
    file.write_text(rows, encoding="utf-8")
    assert word in one_error_line(["train", "--task", str(file), "--out", str(tmp_path / "run")], capsys)


def test_a_folder_one_may_not_write_to(llm: Path, tmp_path: Path, capsys: Captured) -> None:
    blocker = tmp_path / "file"
    blocker.write_text("not a folder", encoding="utf-8")
    assert "could not write" in one_error_line(["extract", f"{llm}[0]", "--out", str(blocker / "layer")], capsys)


@pytest.mark.slow
def test_a_report_named_like_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Captured) -> None:
    made_up(control="vanilla").to_json(tmp_path / "result.json")
    monkeypatch.chdir(tmp_path)
    for target in (".", "..", "/", str(tmp_path)):
        line = one_error_line(["compare", str(tmp_path), "--html", target], capsys)
        assert "this is a folder, not a file" in line and "name a file" in line


def test_the_demo_finds_a_folder_it_cannot_write_before_it_trains(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    (tmp_path / "file").write_text("not a folder", encoding="utf-8")
    monkeypatch.setattr("pifi_probe.experiments.demo.run_demo", lambda *args, **kwargs: pytest.fail("ran"))
    line = one_error_line(["demo", "--fast", "--out", str(tmp_path / "file" / "runs")], capsys)
    assert "could not write into the folder" in line and "demo-fast" in line


def test_a_model_cannot_be_saved_after_its_run_has_ended(
    llm: Path, bert: Path, words: Path, tmp_path: Path, capsys: Captured
) -> None:
    args = ["train", "--task", str(words), "--slm", str(bert), "--layer", f"{llm}[1]", "--epochs", "1"]
    args += ["--out", str(tmp_path / "run"), "--json"]
    assert main(args) == 0
    capsys.readouterr()
    assert "its model was not saved" in one_error_line([*args, "--resume", "--save-model"], capsys)


def test_an_unknown_dtype_and_a_bad_specification(llm: Path, capsys: Captured) -> None:
    assert "bfloat16" in one_error_line(["extract", f"{llm}[0]", "--dtype", "int4"], capsys)
    assert "MODEL[i]" in one_error_line(["extract", str(llm)], capsys)


_FULL_DISK = """
import resource, sys
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
import signal
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
from pifi_probe.cli import main
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.skipif(sys.platform == "win32", reason="no file-size limit")
def test_a_full_disk_while_saving_leaves_nothing_half_written(llm: Path, tmp_path: Path) -> None:
    args = ["extract", f"{llm}[0]", "--out", str(tmp_path / "layer")]
    done = subprocess.run([sys.executable, "-c", _FULL_DISK, *args], capture_output=True, text=True, check=False)
    assert done.returncode == 2, done.stderr
    assert "could not write" in done.stderr and "Traceback" not in done.stderr
    assert list((tmp_path / "layer").iterdir()) == []


def test_the_commands_are_attached_once() -> None:
    """Each call once attached all of them again, so that the hundredth was a second slower than the first."""
    from pifi_probe.cli import app

    assert main(["--version"]) == 0
    before = len(app.registered_commands), len(app.registered_groups)
    assert main(["--version"]) == 0
    assert (len(app.registered_commands), len(app.registered_groups)) == before and sum(before) > 15
