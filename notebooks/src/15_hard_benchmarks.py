# %% [markdown]
# # 15 Hard benchmarks
#
# **You will show that** a multiple-choice exam is a classifier over its choices, that an accuracy near chance leaves
# nothing to compare, and how many questions it takes before a difference can be seen at all.
#
# **After this notebook you can**
#
# - turn a model with one score into one that answers exams;
# - give the chance level of an exam, and the range in which guessing falls;
# - hold out whole exams, so that the test is not more of the same;
# - tell "the layer does not help" from "this test could not have shown it".
#
# | Minutes on a CPU | Difficulty | You need first | Downloads |
# |---|---|---|---|
# | 30 | 2 of 3 | [03](03_pifi_from_scratch.ipynb) | interface texts, 5 MB |

# %%
import json
import math
import random
import tempfile
from collections import Counter
from pathlib import Path

import torch
from matplotlib import pyplot as plt

import pifi_probe as pp
from pifi_probe import checks
from pifi_probe.plugin import tokenizer_for
from pifi_probe.reporting.looks import looks_of

checks.start(
    "15", seed=0, needs=("minilm-l6", "smollm2-135m", "translation-choice")
)

# %%
checks.pifi_block("head")

# %% [markdown]
# ## 1. One score for each choice
#
# **Why.** Exams like MMLU have a question and a few choices. Read the question together with each choice, give each pair
# *one* score with the same model, and let the scores of one question compete:
#
# $$s_{bc} = w^\top \mathrm{PiFi}(\text{question}_b, \text{choice}_{bc}) \in \mathbb{R}, \qquad
# p(c \mid b) = \frac{e^{s_{bc}}}{\sum_{c'} e^{s_{bc'}}}$$
#
# The input is $(B, C, T)$, the scores are $(B, C)$; the block sees $B \cdot C$ pooled vectors.
#
# Our task asks which of four German texts translates an English one.
#
# **Predict.** For 3 questions with 4 choices, how many vectors pass through the frozen layer?

# %% tags=["guess"]
guess = None  # vectors

# %%
task = pp.load_task("translation-choice")
model = pp.plug_in("minilm-l6", "smollm2-135m[-1]", task=task, seed=0).eval()
tokenizer = tokenizer_for(model)
test = task.splits["test"]

pairs = [
    (text, choice)
    for text, choices in zip(test.texts[:3], test.items[:3], strict=True)
    for choice in choices
]
tokens = tokenizer(
    [text for text, _ in pairs],
    [choice for _, choice in pairs],
    padding=True,
    return_tensors="pt",
)
batch = {name: ids.unflatten(0, (3, 4)) for name, ids in tokens.items()}

seen = []
hook = model.plugin.layers[0].register_forward_hook(
    lambda module, inputs, output: seen.append(len(inputs[0]))
)
with torch.no_grad():
    logits = model(**batch).logits  # (batch, n_choices)
hook.remove()
print(
    "input:", tuple(batch["input_ids"].shape), " scores:", tuple(logits.shape)
)
checks.reveal(guess, sum(seen), "vectors", live=False)

# %% [markdown]
# **Checkpoint.** The order of the choices does not matter: each is scored on its own.

# %%
with torch.no_grad():
    swapped = model(**{name: ids.flip(1) for name, ids in batch.items()}).logits
difference = (swapped.flip(1) - logits).abs().max()
assert difference < 1e-4
print(f"the reverse order changes the scores by at most ≈{difference:.1g}")

# %% [markdown]
# **Read.** Twelve vectors, one for each pair, and their order changes no score. A model that is asked for a *letter* sees all
# choices at once and often prefers one letter. This one cannot: it has never seen a letter. What can it not do that such a
# model can?
#
# ## 2. Chance, and around it
#
# **Why.** Guessing is right with probability $1/C_b$ on question $b$, so its accuracy is
#
# $$\text{chance} = \frac1N \sum_b \frac1{C_b}, \qquad \text{95 \% range:}\ \pm 1.96 \sqrt{\frac{p\,(1-p)}{N}}$$
#
# **Predict.** Ten thousand people guess on an exam of 100 questions with 4 choices. What does the *best* of the middle
# 95 % get?

# %% tags=["guess"]
guess = None  # per cent right

# %%
draw = random.Random(0)
N = 100
rights = sorted(
    sum(draw.random() < 0.25 for _ in range(N)) for _ in range(10_000)
)
low, high = rights[250], rights[-250]
checks.reveal(guess, high, f"of {N}", live=False)
print(f"95 % of the guessers get {low} to {high} right")

# %% alt="Histogram of how many of 100 questions ten thousand guessers got right: a bell around 25, the middle 95 per cent shaded."
counts = Counter(rights)
figure, axes = plt.subplots(figsize=(6, 2.6))
axes.bar(list(counts), list(counts.values()), color="black")
axes.axvspan(low, high, color="black", alpha=0.15)
axes.set(xlabel="right answers of 100", ylabel="guessers")
plt.show()

# %%
formula = 1.96 * math.sqrt(0.25 * 0.75 / N)
print(f"the formula: 25 +- {100 * formula:.1f}")
assert abs((high - low) / 200 - formula) < 0.02

# %% [markdown]
# **Read.** A lucky guesser gets 34 of a hundred right, one third. So with a hundred questions, a model that "beats chance by
# five points" may be guessing. How wide is the range for exams of other sizes?

# %%
for n in (100, 250, 1000, 14_000):
    half = 196 * math.sqrt(0.25 * 0.75 / n)
    print(f"{n:6d} questions: +- {half:.1f} points")

# %% [markdown]
# The difference of two models on the *same* questions is known better than this, because they fail on the same hard
# questions; `pp.compare` pairs them question by question. But two models that both guess have nothing in common.
#
# **Checkpoint.** An untrained model is a guesser. We ask ours 60 questions:

# %%
N_ASKED = 60
right = 0
for start in range(0, N_ASKED, 12):
    rows = range(start, start + 12)
    flat = [
        (test.texts[row], choice) for row in rows for choice in test.items[row]
    ]
    tokens = tokenizer(
        [text for text, _ in flat],
        [choice for _, choice in flat],
        padding=True,
        return_tensors="pt",
    )
    with torch.no_grad():
        scores = model(
            **{name: ids.unflatten(0, (12, 4)) for name, ids in tokens.items()}
        ).logits
    labels = torch.tensor([test.labels[row] for row in rows])
    right += int((scores.argmax(1) == labels).sum())
spread = 1.96 * math.sqrt(0.25 * 0.75 / N_ASKED)
assert 0.25 - 2 * spread < right / N_ASKED < 0.25 + 2 * spread
print(
    f"right: ≈{right} of {N_ASKED}; guessing gives {N_ASKED / 4:.0f} ± {spread * N_ASKED:.0f}"
)

# %% [markdown]
# ## 3. An exam that training did not see
#
# **Why.** A model that was trained on the questions of one exam may have learned how *this exam* is made. The honest test
# is another exam. `load_task(..., group=...)` keeps the name of each row's exam, and `held_out` makes one of them the
# test:
#
# $$\text{test} = \{\,b : g_b \in \mathcal{H}\,\}, \qquad \text{train} \cup \text{validation} = \{\,b : g_b \notin \mathcal{H}\,\}$$
#
# **Predict.** Below, "exams" are made of real questions by their length. We hold out those with long questions. Is the median length
# of a training question now shorter or longer than that of a test question?

# %% tags=["guess"]
guess = None  # "shorter" or "longer"

# %%
folder = Path(tempfile.mkdtemp())
rows = [
    {
        "question": text,
        "choices": list(choices),
        "answer": label,
        "exam": f"{len(text) // 10}0 letters",
    }
    for text, choices, label in zip(
        test.texts, test.items, test.labels, strict=True
    )
]
file = folder / "exams.jsonl"
file.write_text("\n".join(json.dumps(row) for row in rows), encoding="utf-8")

exams = pp.load_task(file, kind="multiple-choice", group="exam")
names = {row["exam"] for row in rows}
long = [name for name in names if int(name.split()[0]) >= 60]
tested = exams.held_out(*long)
median = {
    name: sorted(map(len, split.texts))[len(split) // 2]
    for name, split in tested.splits.items()
}
shorter = median["train"] < median["test"]
checks.reveal(guess, "shorter" if shorter else "longer", live=False)
print(tested)
for name, letters in median.items():
    print(f"median length in {name}: {letters} letters")

# %% [markdown]
# **Checkpoint.** No held-out row is left in training:

# %%
assert set(tested.splits["test"].groups) == set(long)
assert not set(tested.splits["train"].groups) & set(long)
print(
    "exams in training:", ", ".join(sorted(set(tested.splits["train"].groups)))
)

# %% [markdown]
# **Read.** Half of the training questions now have at most 30 letters, half of the test questions at least 110: a harder test
# than a random split, and closer to what a benchmark is for. Which groups would you hold out of your own data?
#
# ## 4. What was measured
#
# **Why.** The paper did not test exams; it lists them as an open question. The recorded experiment takes eight English
# exams (law, reading, logic, maths), tests each group with models trained on the *other* groups, and asks three arms:
# vanilla, PiFi, PiFi with a random layer.
#
# **Predict.** A 6-layer encoder alone on law exams: how many points above chance?

# %% tags=["guess"]
guess = None  # points

# %%
record = checks.experiment("hard-benchmarks")
record

# %% [markdown]
# These are the intervals of the experiment's recording, each arm by its own seeds;
# [Decided then, decided now](../book/decided.md) has what all runs together say.
#
# Before reading any difference, see who is above chance, trained or not:

# %%
for row in record.extra("chance and the LLM alone"):
    ends = (
        "" if row["low"] is None else f" [{row['low']:.1%}, {row['high']:.1%}]"
    )
    print(
        f"{row['block']:8s} {row['questions']:4d} questions  {row['accuracy']:.1%}{ends}  {row['who']}"
    )
print("rows:", len(record.extra("chance and the LLM alone")))

# %%
guessing = {
    row["block"]: row["accuracy"]
    for row in record.extra("chance and the LLM alone")
    if row["who"] == "guessing"
}
arms = []  # block, arm, points above chance; the encoder alone on law first
for block, found in record.summary.get("comparisons", {}).items():
    for row in found["rows"]:
        if row["mean"] is not None:
            arms.append(
                (block, row["arm"], 100 * (row["mean"] - guessing[block]))
            )
checks.reveal(guess, arms[0][2], "points", "+.1f", live=False)
for block, arm, points in arms:
    print(f"{block:8s} {arm:28s} {points:+5.1f} points from chance")
assert arms[0][:2] == ("law", "pifi: vanilla")

# %% alt="Points above chance of each arm on each group of exams, with a line at zero, which is guessing."
if arms:
    figure, axes = plt.subplots(figsize=(6, 0.8 + 0.25 * len(arms)))
    for place, (_, arm, points) in enumerate(arms):
        colour, marker = looks_of([arm])[arm]
        axes.plot(points, place, marker, color=colour)
    axes.axvline(0, color="black")
    axes.set_yticks(
        range(len(arms)), [f"{block}: {arm}" for block, arm, _ in arms]
    )
    axes.set(xlabel="points above chance")
    plt.show()

# %%
decided = [one for one in record.measured if one["low"] > 0 or one["high"] < 0]
print(
    "claims whose interval leaves out zero:",
    len(decided),
    "of",
    len(record.measured),
)

# %% [markdown]
# **Read.** No arm is more than five points from chance on any group: the encoder alone is about four above it on law, and below
# it on logic and maths. A comparison between guessers can only end as "open", and that is not evidence against the method. A
# test of the method needs a small model that can do some of the exam. How would you find out beforehand whether yours can?
#
# The command that makes the record again (hours on two cores; the folder holds the file of the exams):
#
# ```bash
# pifi-probe reproduce hard-benchmarks --scale small --data my-exams
# ```
#
# ## Exercises
#
# **Exercise 15.1.** The accuracy of guessing, for questions with these numbers of choices.


# %% tags=["exercise"]
def chance(n_choices):
    return ...  # from 0 to 1


checks.check_chance(chance)


# %% tags=["solution"]
def chance(n_choices):
    return sum(1 / n for n in n_choices) / len(n_choices)


checks.check_chance(chance)

# %% [markdown]
# **Exercise 15.2.** A model gave one score for each pair, question after question. Which choice does each question get?


# %% tags=["exercise"]
def chosen(scores, n_choices):
    return ...  # (batch,)


checks.check_chosen(chosen)


# %% tags=["solution"]
def chosen(scores, n_choices):
    return scores.reshape(-1, n_choices).argmax(1)


checks.check_chosen(chosen)

# %% [markdown]
# **Exercise 15.3.** How many questions make the 95 % range of guessing at most $\pm$ `margin` wide?


# %% tags=["exercise"]
def questions_needed(chance, margin):
    return ...  # a whole number


checks.check_questions_needed(questions_needed)


# %% tags=["solution"]
def questions_needed(chance, margin):
    return math.ceil(1.96**2 * chance * (1 - chance) / margin**2)


checks.check_questions_needed(questions_needed)

# %% [markdown]
# ## What this does not show
#
# - Reasoning. A right answer may come from a hint in the wording of the choices; held-out exams make this harder, not
#   impossible.
# - Whether questions were in the language model's own training texts.
# - What a large encoder with a layer of an 8B model does: `--scale paper`, and a GPU.
#
# ## Quiz

# %%
checks.quiz("15")

# %% [markdown]
# ## Summary
#
# - A multiple-choice model scores each pair of question and choice; a softmax runs over the choices of a question.
# - Chance and its range come first: without a model above chance there is nothing to compare.
# - Hold out whole exams, and say how many questions a claim needs.
#
# **Words:** [chance](../book/glossary.md#chance) · [held-out group](../book/glossary.md#held-out-group) ·
# [control](../book/glossary.md#control) · [interval](../book/glossary.md#interval)
#
# **Next:** [16 What it costs](16_what_it_costs.ipynb)
