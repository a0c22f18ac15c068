"""Options that several commands have, said once."""

from __future__ import annotations

import typer

from pifi_probe.vocabulary import MAX_TOKENS

MODEL = "Hub id, folder, .gguf or .safetensors file, or embedded name."
TASK = "Embedded or named task, CSV, TSV, JSONL or parquet file, or hub id."
WIRING = "pifi, matched, aligned, or one that --import registers."
EXECUTOR = "local, processes or ray."
WORKERS = "Runs made at the same time."
CUT = "Tokens after which a text is cut"
LAYERS = 'Such as "17", "16-19", "0,15,-1" or "0:30:3"'

Task = typer.Option(..., "--task", help=TASK)
Slm = typer.Option("minilm-l6", "--slm", help="The small language model.")
Text = typer.Option("text", "--text", help="Column with the text, for files and hub data.")
Label = typer.Option("label", "--label", help="Column with the label, for files and hub data.")
Kind = typer.Option(
    "", "--kind", help="Kind of the task, for files and hub data: inferred from the columns when empty."
)
Language = typer.Option("en", "--language", help="Language of the texts, for files and hub data; a translation: en-de.")
NTrain = typer.Option(0, "--n-train", help="Train on this many texts only.")
Epochs = typer.Option(3, "--epochs", help="Passes over the training texts.")
LearningRate = typer.Option(5e-5, "--learning-rate", help="Learning rate of encoder and head.")
Precision = typer.Option("float32", "--precision", help="float32 or bf16.")
Device = typer.Option("auto", "--device", help="auto, cpu, cuda, ...")
MaxTokens = typer.Option(MAX_TOKENS, "--max-tokens", help=f"{CUT}.")
Tokenizer = typer.Option("", "--tokenizer", help="Another tokenizer for the small model: hub id, folder or name.")
Layers = typer.Option("all", "--layers", help=f"{LAYERS}.")
Executor = typer.Option("local", "--executor", help=EXECUTOR)
Workers = typer.Option(1, "--workers", help=WORKERS)
Fraction = typer.Option([], "--fraction", help="Also with this many labelled texts, or a share; may be repeated.")
Tags = typer.Option([], "--tag", help="A word of your own that is kept with it; may be repeated.")
AllowPickle = typer.Option(False, "--allow-pickle", help="Read legacy .bin weights too, as data alone.")
Json = typer.Option(False, "--json", help="Print JSON for machines.")
