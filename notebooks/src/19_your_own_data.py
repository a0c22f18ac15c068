# %% [markdown]
# # 19 Your own data
#
# **You will show that** you can take texts of your own from a file to a verdict: which layer, is it the layer, and is it
# worth it, with a sentence that the numbers allow.
#
# **After this notebook you can**
#
# - load a file, and read what the library did to its rows;
# - say what no model at all would reach;
# - choose a layer with a small budget, without looking at the test;
# - train it next to its controls and write down the verdict.
#
# | Minutes on a CPU | Difficulty | You need first | Downloads |
# |---|---|---|---|
# | 45, and your own time | 3 of 3 | [05](05_train_it.ipynb); 09 and 10 help | nothing new |

# %%
import csv
import tempfile
from collections import Counter
from pathlib import Path

from matplotlib import pyplot as plt

import pifi_probe as pp
from pifi_probe import checks

checks.start("19", seed=0)

# %%
checks.pifi_block("text", "encoder", "L_in", "layer", "L_out", "head", "label")

# %% [markdown]
# ## 1. The file
#
# **Why.** A task is a file with one row for each text. The study starts with its rows: equal texts in training and test
# make every model look good, and unequal classes make accuracy look good.
#
# Put the path of your file into `MY_FILE`, and the names of its columns below. Without one, the notebook writes a file of
# product reviews, with a few rows twice, as real files have them.
#
# $$\text{rows} \to \text{without repeats} \to \underbrace{\text{train}}_{\text{to fit}} \cup \underbrace{\text{validation}}_{\text{to choose}} \cup \underbrace{\text{test}}_{\text{to report, once}}$$
#
# **Predict.** We add 20 rows that are there already, half of them in capital letters. How many of these texts will lie in
# two parts, such as training and test?

# %% tags=["guess"]
guess = None  # texts

# %%
MY_FILE = None  # for example "reviews.csv"
TEXT, LABEL = "text", "label"

if MY_FILE is None:
    reviews = pp.load_task("product-reviews")
    split = reviews.splits["train"].take(range(400))
    rows = [
        (text, reviews.label_names[label])
        for text, label in zip(split.texts, split.labels, strict=True)
    ]
    rows += rows[:10] + [(text.upper(), label) for text, label in rows[10:20]]
    file = Path(tempfile.mkdtemp()) / "reviews.csv"
    with file.open("w", newline="", encoding="utf-8") as out:
        csv.writer(out).writerows([(TEXT, LABEL), *rows])
else:
    file = Path(MY_FILE)

task = pp.load_task(file, text=TEXT, label=LABEL)
print(task)
print(
    f"rows in the file: {len(rows) if MY_FILE is None else '?'},",
    f"in the task: {sum(map(len, task.splits.values()))}",
)
for note in task.notes:
    print("note:", note)

# %% [markdown]
# **Read.** No row was dropped. Texts that differ only in case and punctuation count as the same, and the same texts go into
# the same part. Where your file says itself which rows are the test, a repeated text cannot move: it is dropped there, and a
# note says how many. Read every note: it is the library telling what it did to your rows.
#
# **Checkpoint.** No text is in two parts:

# %%
parts = {name: set(split.keys) for name, split in task.splits.items()}
assert not parts["train"] & parts["test"]
assert not parts["train"] & parts["validation"]
shared = parts["train"] & (parts["test"] | parts["validation"])
checks.reveal(guess, len(shared), "texts in two parts", live=False)

# %% [markdown]
# If several rows belong together (one author, one film, one day), add `group="author"`: rows of one author then stay in
# one part. Nobody can find this out for you.
#
# ## 2. Without any model
#
# **Why.** Always answer the class that was most frequent in training. With class shares $\pi_k$ in the test,
#
# $$\text{accuracy}_{\text{majority}} = \pi_{k^*}, \qquad k^* = \arg\max_k n_k^{\text{train}}$$
#
# **Predict.** What does it reach here?

# %% tags=["guess"]
guess = None  # per cent

# %%
train, test = task.splits["train"], task.splits["test"]
frequent = Counter(train.labels).most_common(1)[0][0]
majority = sum(label == frequent for label in test.labels) / len(test)
by = f"% by always answering {task.label_names[frequent]!r}"
checks.reveal(guess, 100 * majority, by, ".1f", live=False)

# %% alt="Bars: the number of texts of each class in training, validation and test."
figure, axes = plt.subplots(figsize=(6, 2.6))
for place, (name, split) in enumerate(task.splits.items()):
    counts = Counter(split.labels)
    x = [k + 0.27 * place for k in range(task.n_labels)]
    axes.bar(
        x, [counts[k] for k in range(task.n_labels)], width=0.25, label=name
    )
axes.set_xticks([k + 0.27 for k in range(task.n_labels)], task.label_names)
axes.set(ylabel="texts")
axes.legend(frameon=False)
plt.show()

# %%
shares = {
    task.label_names[k]: f"{n / len(test):.0%}"
    for k, n in sorted(Counter(test.labels).items())
}
print("shares in the test:", shares)

# %% [markdown]
# **Read.** Nearly two thirds are right without any model. Every accuracy below is compared with this one. With very unequal
# classes look at balanced accuracy too: what would it be here?
#
# ## 3. Choose a layer
#
# **Why.** The choice is made on the *validation* texts. The test is read once, at the end: if you choose on the test,
# you report the luckiest layer, not the best one.
#
# $$\hat\ell = \arg\min_\ell \ \mathrm{NLL}^{\text{validation}}_\ell \qquad\text{and then, once:}\qquad \text{gain} = A^{\text{test}}_{\hat\ell} - A^{\text{test}}_{\text{vanilla}}$$
#
# In test mode we try three layers with a frozen encoder, which takes seconds. For a real choice take more.
#
# **Predict.** First, middle or last: which one will it choose for your task?

# %% tags=["guess"]
guess = None  # such as "smollm2-135m[0]"

# %%
few = task.subset(
    train=96, validation=min(40, len(task.splits["validation"])), test=60
)
study = pp.search(
    "minilm-l6",
    "smollm2-135m",
    few,
    strategy="fast",
    layers=[0, 15, -1],
    budget="3 trials",
    n_seeds=1,
    confirm=False,
    study=None,
    recipe=pp.Recipe(epochs=1, max_tokens=24, device="cpu"),
)
table = study.leaderboard()
assert str(study.best) in set(table["candidate"])
checks.reveal(guess, str(study.best))
print("tried:", ", ".join(sorted(table["candidate"])))

# %% [markdown]
# **Checkpoint.** Three trials with one seed each are a rehearsal. The study says so itself:

# %%
assert "not confirmed" in str(study.result)
print(study.result.answer.split("; ")[-1])

# %% [markdown]
# **Read.** The last of the three layers was chosen, and nobody knows yet what it gains. For your own data, run this over a
# coffee. It tries all layers, spends twelve full runs where it is unclear which one is best, and confirms the choice on fresh
# seeds next to its controls:
#
# ```python
# study = pp.search("minilm-l6", "smollm2-135m", task, budget="12", study="my-study.db")
# print(study.result)
# study.widget()      # watch it
# ```
#
# ```bash
# pifi-probe search --task reviews.csv --budget 12 --study my-study.db
# ```
#
# ## 4. Train it next to its controls
#
# **Why.** A gain over vanilla may come from more weights alone. So there is a control that has the layer's shape
# without its knowledge:
#
# | arm | has | answers |
# |---|---|---|
# | vanilla | encoder and head | is there a gain? |
# | random | a layer of random weights | is it the layer's *weights*? |
# | PiFi | the layer that section 3 chose | |
#
# `study.best.spec` is its name, and the random layer has its shape. A fourth arm, `linear`, has both projections and no
# layer. It is left out here; `--arms all`, below, trains it too.
#
# **Predict.** In test mode each arm trains for one epoch on 96 texts. Do you expect the interval of PiFi minus vanilla to
# leave out zero?

# %% tags=["guess"]
guess = None  # "yes" or "no"

# %%
results = []
for control in ("vanilla", "random", None):
    for seed in range(2):
        model = pp.plug_in(
            "minilm-l6",
            study.best.spec,
            task=few,
            wiring="matched",
            control=control,
            seed=seed,
        )
        results.append(
            pp.fine_tune(
                model,
                few,
                pp.Recipe(seed=seed, epochs=1, max_tokens=24, device="cpu"),
            )
        )
comparison = pp.compare(results)
pifi = comparison.rows[-1]
low, high = 100 * pifi.difference_low, 100 * pifi.difference_high
checks.reveal(guess, "no" if low <= 0 <= high else "yes", live=False)
print("runs:", len(results), " arms:", len(comparison.rows))

# %% tags=["nbval-ignore-output"] reason="scores of a live training"
comparison

# %% [markdown]
# **Checkpoint.** Every arm was tested on the same texts, and with the same seeds, so that they can be paired:

# %%
for row in comparison.rows:
    assert row.seeds == (0, 1)
    assert 0.2 < row.mean <= 1.0
print(f"PiFi minus vanilla, in points: from ≈{low:.0f} to ≈{high:.0f}")
print(
    "each arm has seeds 0 and 1 and was tested on",
    len(few.splits["test"]),
    "texts",
)

# %% [markdown]
# **Read.** The interval reaches from about five points behind vanilla to about seven ahead: with 60 test texts and two seeds
# no difference can be told. In the table the answer comes first, then means, differences with their intervals, and a verdict for
# each arm. How many texts would your question need? The formula of exercise 15.3 is a first answer.
#
# The same with three seeds, all arms, and the whole task, from the command line (`--layer` names the one that you
# chose):
#
# ```bash
# pifi-probe train --task reviews.csv --text text --label label --arms all --seeds 3 --out runs/mine
# ```
#
# ## 5. The report
#
# **Why.** A result is a sentence with its conditions. Copy this, and fill it in; a line that you cannot fill in is what to
# do next.
#
# ```text
# Task:        ... texts, ... classes, from ...; dropped: ...; grouped by ...
# Majority:    ... %
# Chosen:      layer ... of ..., by ... on the validation texts, budget ...
# Test:        PiFi ... %, vanilla ... %, random ... %, linear ... %; ... seeds
# Difference:  ... points [..., ...] to vanilla; ... [..., ...] to random
# Verdict:     better / worse / similar (within ...) / open
# Cost:        ... MB more, ... times vanilla's step
# Not shown:   ...
# ```
#
# ## Exercises
#
# **Exercise 19.1.** The accuracy on the test of the class that is most frequent in training.


# %% tags=["exercise"]
def majority_accuracy(train_labels, test_labels):
    return ...  # from 0 to 1


checks.check_majority(majority_accuracy)


# %% tags=["solution"]
def majority_accuracy(train_labels, test_labels):
    frequent = max(set(train_labels), key=train_labels.count)
    return test_labels.count(frequent) / len(test_labels)


checks.check_majority(majority_accuracy)

# %% [markdown]
# **Exercise 19.2.** The word that an interval from `low` to `high` allows: `"better"`, `"worse"`, `"similar"` (all of it
# within $\pm$ `margin`) or `"open"`. None of the intervals ends at zero.


# %% tags=["exercise"]
def allowed(low, high, margin):
    return ...  # a word


checks.check_allowed(allowed)


# %% tags=["solution"]
def allowed(low, high, margin):
    if low > 0:
        return "better"
    if high < 0:
        return "worse"
    return "similar" if -margin <= low and high <= margin else "open"


checks.check_allowed(allowed)

# %% [markdown]
# ## What this does not show
#
# - A result: test mode uses a few dozen texts. The notebook shows the way; your file and your patience give the numbers.
# - Texts of next year. A random test split is like the training texts; if your texts change over time, hold out the
#   latest ones (`split=` names the column).
# - That PiFi is the best you can do: a larger encoder, or more labels, may be the cheaper gain.
#
# ## Quiz

# %%
checks.quiz("19")

# %% [markdown]
# ## Summary
#
# - Rows first: repeats, groups, classes, and the number that needs no model.
# - Choose on validation texts, report on the test once, with controls and seeds.
# - Write the sentence that the interval allows. "Open" is a result.
#
# **Words:** [majority class](../book/glossary.md#majority-class) · [control](../book/glossary.md#control) ·
# [seed](../book/glossary.md#seed) · [interval](../book/glossary.md#interval) · [budget](../book/glossary.md#budget)
#
# **Next:** your own task. When something stops you, [the errors](../book/errors/index.md) have one page each.
