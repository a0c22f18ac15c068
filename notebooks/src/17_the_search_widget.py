# %% [markdown]
# # 17 The search widget, guided
#
# **You will show that** choosing a layer can be watched and steered from a notebook, and that whatever you see there can be
# read from Python, saved, stopped and resumed.
#
# **After this notebook you can**
#
# - start a search with three lines, and say what every mark of its chart means;
# - pause it, resume it after a restart, and stop it;
# - read the selected trial and all results as plain data;
# - take the result out: as a table, a picture, a script, a model.
#
# | Minutes on a CPU | Difficulty | You need first | Downloads |
# |---|---|---|---|
# | 25 | 1 of 3 | [10](10_automatic_selection.ipynb) | nothing new |

# %%
import os
import shutil
import tempfile
from pathlib import Path

import pandas as pd

import pifi_probe as pp
from pifi_probe import checks
from pifi_probe.errors import SearchError

checks.start("17", seed=0)

# %%
checks.pifi_block("layer")

# %% [markdown]
# ## 1. Three lines
#
# **Why.** A search takes minutes to hours. You want to see early whether it makes sense, and to stop when you know
# enough. The smallest example is
#
# ```python
# import pifi_probe as pp
#
# pp.widgets.LayerSearch("movie-reviews")  # choose, estimate, Start
# ```
#
# It shows a form, buttons and an empty chart. What a search may spend is its budget $b$, in full runs; it goes on while
#
# $$\sum_t c_t < b \qquad c_t = \text{cost of trial } t \text{, in full runs}$$
#
# Here we fix a very small search in code, three layers with a frozen encoder, and run it to its end with `run()`: that
# blocks, which is right for scripts and tests. In the widget, *Start* works in the background.
#
# **Predict.** Three layers, one seed. How many trials will there be?

# %% tags=["guess"]
guess = None  # trials

# %%
task = pp.load_task("movie-reviews").subset(train=32, validation=32, test=32)
long_search = checks.recorded("book/_studies/search/movie-reviews.db")
folder = Path(tempfile.mkdtemp())
os.chdir(folder)  # names of files below are names in this new folder
w = pp.widgets.LayerSearch(
    task,
    strategy="fast",
    budget="6 trials",
    layers=[0, 15, 29],
    n_seeds=1,
    study="small.db",
    recipe=pp.Recipe(epochs=1, max_tokens=24, device="cpu"),
)
print(w)
result = w.run()
checks.reveal(guess, len(w.results), "trials", live=False)
print(w)

# %%
print(w.results.groupby(["phase", "fidelity"]).size().to_string())

# %% [markdown]
# **Checkpoint.** The test texts had no part in it: a score on the test split is not among the columns.

# %%
assert not [name for name in w.results.columns if "test" in name]
assert w.results["value"].between(0.3, 1.5).all()
print("columns:", ", ".join(w.results.columns))

# %% [markdown]
# **Read.** Eight: three trials select, five confirm the choice on a fresh seed next to its controls. With so few texts the
# numbers mean nothing; the next section has a search that is worth looking at. Which five would you have run?
#
# ## 2. Reading the chart
#
# **Why.** Every mark answers a question of the chapters before:
#
# | mark | what it is | chapter |
# |---|---|---|
# | square, dot | a layer with a frozen encoder, a layer in a full run; thin line: its interval | 08, 05 |
# | line and band | what is believed of every layer | 10 |
# | shaded columns | layers tied with the best | 07 |
# | grey band | random and shuffled layers | 05 |
# | dashed, dotted blue line | the encoder alone; two projections with nothing between them | 05 |
# | triangle at the top, with a dotted line down | the chosen layer | 10 |
# | columns on the right, with names below | the confirmation on fresh seeds: the choice, hollow, and its controls | 09 |
#
# They are in the view *Depth*. The first one, *Gain*, shows what each layer adds over the two projections, in front of the
# grey band that layers without knowledge reach, and the model as a stack of blocks, coloured by $p_{\text{best}}$.
#
# This is a recorded search with a budget of six full runs. Choose a view, point at a mark, sort the table: it works
# without Python too, in the book. In the posterior,
#
# $$p_{\text{best}}(i) = \Pr\big[f(i) = \min_j f(j)\big] \qquad \sum_{i=0}^{29} p_{\text{best}}(i) = 1$$
#
# **Predict.** Read the chart first: is any layer clearly the best?

# %% tags=["guess"]
guess = None  # "yes" or "no"

# %% tags=["nbval-ignore-output"] reason="the page holds posteriors in full precision"
study = pp.Study.open(shutil.copy(long_search, "movie-reviews.db"))
recorded = study.widget()
recorded.static()

# %%
largest = max(one.p_best for one in study.result.posterior)
assert largest < 0.5
checks.reveal(guess, "yes" if largest > 0.5 else "no")
print(f"the most probable best layer has ≈{largest:.0%}")
checks.say(study.result.answer)
print(study.result.details[0])

# %% alt="The recorded search as a picture: validation loss over depth with frozen and full runs, the posterior over depth and the controls."
study.plot("depth")

# %%
print("trials:", len(recorded.results))

# %% [markdown]
# **Read.** No layer is: even the most probable one has about 5 %. The answer above the chart is the result; the marks are its
# evidence. If they seem to say different things, look at the intervals. Which of them are the widest?
#
# ## 3. One selection, in the browser and in Python
#
# **Why.** A click on a mark, a row of the table and `w.selected` are the same thing. So a picture leads to data: the trial's
# recipe, its cost, why the search ran it. For trial $t$ the card shows
#
# $$(\text{layers},\ \text{fidelity},\ \text{seed}) \mapsto (\text{loss}_t,\ \text{accuracy}_t,\ c_t)$$
#
# **Predict.** Why did the search run its first full run where it did?

# %% tags=["guess"]
guess = None  # in words

# %%
full = recorded.results[recorded.results["fidelity"] == "full"]
recorded.selected = int(full.index[0])
trial = recorded.results.loc[recorded.selected]
checks.reveal(guess, trial["why"], live=False)
print(
    "selected:",
    trial["label"],
    "| fidelity:",
    trial["fidelity"],
    "| seed:",
    trial["seed"],
)

# %% [markdown]
# **Checkpoint.** The chart has the same selection, whoever made it:

# %%
assert recorded.chart.selected == recorded.selected
recorded.chart.selected = int(full.index[-1])  # as a click would
assert recorded.selected == int(full.index[-1])
print("after the click, trial", recorded.selected, "is selected in Python")

# %% [markdown]
# **Read.** The first full run was of layer 0, the best of the cheap sweep. And both ways of selecting it are one:
# `w.selected` can be observed, so that your own plot or table follows the chart.
#
# ## 4. Pause, go on, stop
#
# **Why.** *Start* works in a thread, so the notebook stays free. *Pause* stops within one training step and keeps the
# search open; *Resume* goes on, after a restart of the kernel as well, because every finished trial is in the study's file
# before the next one starts. *Stop* ends it for good. If the process is killed at a random moment, at most this is lost:
#
# $$\text{the running trial}: \quad c_t \le 1 \text{ full run}$$
#
# **Predict.** We ask for a pause right after the start. How many of the finished trials will be lost?

# %% tags=["guess"]
guess = None  # trials

# %%
again = pp.widgets.LayerSearch(
    task,
    strategy="fast",
    budget="6 trials",
    layers=[0, 29],
    n_seeds=1,
    study="paused.db",
    recipe=pp.Recipe(epochs=1, max_tokens=24, device="cpu"),
)
again.start()
again.pause()
await again.finished()
kept = set(again.results.index)
again.resume()
await again.finished()
lost = len(kept - set(again.results.index))
assert lost == 0
checks.reveal(guess, lost, "finished trials lost", live=False)
print(again.state, "with", len(again.results), "trials")

# %% [markdown]
# **Checkpoint.** Another widget on the same file shows the same trials, and refuses a search that would not be the same:

# %%
viewer = pp.widgets.LayerSearch(
    task,
    strategy="fast",
    budget="6 trials",
    layers=[0, 29],
    n_seeds=1,
    study="paused.db",
    recipe=pp.Recipe(epochs=1, max_tokens=24, device="cpu"),
)
assert viewer.results["label"].tolist() == again.results["label"].tolist()
print("a second viewer sees", len(viewer.results), "trials, the same ones")
try:
    pp.search(
        "minilm-l6",
        "smollm2-135m",
        task,
        strategy="fast",
        budget="6 trials",
        layers=[0, 29],
        n_seeds=1,
        study="paused.db",
        recipe=pp.Recipe(epochs=2, max_tokens=24, device="cpu"),
    )
except SearchError as error:
    checks.say(error)

# %% [markdown]
# **Read.** No finished trial is lost, and the second viewer sees the same seven: the file is the search. A colleague, a script
# and the widget can all open it, and `pifi-probe study show` too.
#
# ## 5. Taking it out
#
# **Why.** A choice that lives in a widget is not a result. It has to become a table, a picture, a script that trains the
# winner, or the model. In full, the script is the whole recipe:
#
# $$\text{task} \times \text{encoder} \times \text{layers} \times \text{wiring} \times \text{recipe} \times \text{seed}
# \mapsto \text{model}$$
#
# **Predict.** How many lines does the script need?

# %% tags=["guess"]
guess = None  # lines

# %%
table, picture = (recorded.save(name) for name in ("trials.csv", "depth.svg"))
code = recorded.to_code()
assert "<svg" in picture.read_text()
checks.reveal(guess, len(code.splitlines()), "lines", live=False)
print("rows in the table:", len(pd.read_csv(table)))
print("the picture:", picture.name)
print(code)

# %% [markdown]
# **Checkpoint.** On a page where no script may run there is a snapshot, plain text and pictures:

# %%
page = recorded.snapshot()
assert "<script" not in page and "<svg" in page
print(
    "a snapshot has",
    page.count("<svg"),
    "picture and",
    page.count("<script"),
    "scripts",
)

# %% [markdown]
# **Read.** Ten lines train the choice again, on texts that are checked to be the same. *Export model* in the toolbar does so
# and writes model, model card, report and script into a folder.
#
# ## 6. Look at a model before searching it
#
# `LayerBrowser` shows what each layer of a checkpoint holds. Only headers are read until *Extract* is pressed.

# %%
browser = pp.widgets.LayerBrowser("smollm2-135m")
browser.selected = 29
browser

# %%
print(browser, "| type of layer 29:", browser.frame.loc[29, "type"])
print("one layer extracted:", browser.extract().card.spec)

# %% [markdown]
# ## Exercises
#
# **Exercise 17.1.** Which button? One of `"pause"`, `"resume"`, `"stop"`, `"estimate"` for each situation.

# %% tags=["exercise"]
button = {
    "lunch break, the same search goes on later": ...,
    "the kernel was restarted, the study's file is there": ...,
    "enough is known, whatever is left of the budget": ...,
    "how long will it take?": ...,
}

checks.check_button_for(button)

# %% tags=["solution"]
button = {
    "lunch break, the same search goes on later": "pause",
    "the kernel was restarted, the study's file is there": "resume",
    "enough is known, whatever is left of the budget": "stop",
    "how long will it take?": "estimate",
}

checks.check_button_for(button)

# %% [markdown]
# **Exercise 17.2.** What was spent at a fidelity, in full runs? `results` is a table as `w.results`; failed trials were paid
# for too.


# %% tags=["exercise"]
def spent_on(results, fidelity):
    return ...  # full runs


checks.check_spent_on(spent_on)


# %% tags=["solution"]
def spent_on(results, fidelity):
    return results.loc[results["fidelity"] == fidelity, "cost"].sum()


checks.check_spent_on(spent_on)

# %% [markdown]
# **Exercise 17.3.** The label with the lowest mean `value` over seeds, among complete full runs of the phase `"select"`.


# %% tags=["exercise"]
def steady_best(results):
    return ...  # a label


checks.check_steady_best(steady_best)


# %% tags=["solution"]
def steady_best(results):
    own = results[
        (results["fidelity"] == "full") & (results["phase"] == "select")
    ]
    own = own[own["state"] == "complete"]
    return own.groupby("label")["value"].mean().idxmin()


checks.check_steady_best(steady_best)

# %% [markdown]
# ## What this does not show
#
# - The form and the buttons at work: they need a live kernel. Open this notebook in JupyterLab and run
#   `pp.widgets.LayerSearch("movie-reviews")`.
# - That a search by eye is better than `strategy="auto"`. If you stop when the picture looks good, you have chosen by it.
#
# ## Quiz

# %%
checks.quiz("17")

# %% [markdown]
# ## Summary
#
# - The widget is a view; the search is its file, and survives the browser, the kernel and you.
# - Every mark is an estimate with an interval, and the answer above the chart is the result.
# - The selection, the trials, the script and the pictures are plain data.
#
# **Words:** [study](../book/glossary.md#study) · [budget](../book/glossary.md#budget) ·
# [set of the best](../book/glossary.md#set-of-the-best) · [posterior](../book/glossary.md#posterior) ·
# [worker](../book/glossary.md#worker)
#
# **Next:** [18 Bigger machines](18_bigger_machines.ipynb)
