# Every target makes the virtual environment .venv when it is missing, and again when a pin changed.
#   PYTHON=...       make .venv from this Python (3.11 or newer)
#   TORCH_INDEX=...  take torch from this package index, which decides between a CPU and a CUDA build
# A torch that .venv has, or that the Python used has, is kept.

PYTHON ?=
TORCH_INDEX ?=
export PYTHON

VENV := .venv
RUN := $(VENV)/bin/python
READY := $(VENV)/.ready
RAY := $(VENV)/.ray
# what chapters 13 to 15 read, next to the embedded default
NOTEBOOK_TEXTS := ui-strings
NBVAL := --nbval --nbval-current-env --nbval-sanitize-with tests/nbval_sanitize.cfg --nbval-cell-timeout 120
BENCHMARKS := extract train_step fold stream_memory estimators probe_sweep efficiency

# A Python that is named must be the one of .venv: the checks would run with another one, and nobody would see it.
ifeq ($(origin PYTHON),command line)
OTHER := $(shell [ -x $(RUN) ] && own="$$($(RUN) -V 2>&1)" && [ "$$own" != "$$("$(PYTHON)" -V 2>&1)" ] && echo "$${own:-another Python}")
ifneq ($(OTHER),)
$(error $(VENV) was made with $(OTHER), and PYTHON=$(PYTHON) is another one: remove $(VENV), then run make again)
endif
endif

.PHONY: help demo test test-slow lint bench notebooks results book lab clean

help:
	@echo "make demo | test | test-slow | lint | bench | notebooks | results | book | lab | clean"

$(READY): pyproject.toml constraints.txt
	@if ! $(RUN) -c "" 2>/dev/null; then \
		set -- "$$PYTHON"; \
		[ -n "$$PYTHON" ] || set -- python3 python python3.13 python3.12 python3.11; \
		found=; \
		for python in "$$@"; do \
			if "$$python" -c 'import ensurepip, sys, venv; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; \
			then found=$$python; break; fi; \
		done; \
		if [ -z "$$found" ]; then \
			echo "pifi-probe needs Python 3.11 or newer with venv and ensurepip; looked for: $$*" >&2; \
			echo "Install it (Debian, Ubuntu: python3 and python3-venv) or name one: make PYTHON=/path/to/python3.11 ..." >&2; \
			exit 1; \
		fi; \
		echo "making $(VENV) with $$("$$found" --version)"; \
		"$$found" -m venv --clear \
			$$("$$found" -c 'import importlib.util as u; print("--system-site-packages" * bool(u.find_spec("torch")))') \
			$(VENV); \
	fi
	@$(RUN) -c "import torch" 2>/dev/null || $(RUN) -m pip install \
		$(if $(TORCH_INDEX),--index-url "$(TORCH_INDEX)",-c constraints.txt) "$$(grep '^torch==' constraints.txt)"
	@grep -v '^torch==' constraints.txt > $(VENV)/constraints.txt
	@$(RUN) -m pip install -c $(VENV)/constraints.txt -e ".[dev,book]"
	@touch $@

$(RAY): $(READY)
	$(RUN) -m pip install -q -c $(VENV)/constraints.txt -e ".[ray]"
	@touch $@

demo: $(READY)
	$(VENV)/bin/pifi-probe demo

test: $(READY)
	OMP_NUM_THREADS=1 $(RUN) -m pytest tests -m "not slow" -n 2 --dist loadscope
	$(RUN) scripts/notebooks.py --check
	$(VENV)/bin/pifi-probe assets pull
	$(VENV)/bin/pifi-probe assets pull $(NOTEBOOK_TEXTS)
	HF_HUB_OFFLINE=1 PIFI_PROBE_OFFLINE=1 OMP_NUM_THREADS=1 $(RUN) -m pytest $(NBVAL) -n 2 --dist loadscope notebooks/*.ipynb

# In the order of their names: sorted by their number of tests, the files with few long ones would all come last.
test-slow: $(RAY)
	OMP_NUM_THREADS=1 $(RUN) -m pytest tests -m slow -n 2 --dist loadfile --no-loadscope-reorder

lint: $(READY)
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .
	$(RUN) -m mypy

bench: $(READY)
	@set -e; for name in $(BENCHMARKS); do echo "$$name"; $(RUN) benchmarks/$$name.py; done

notebooks: $(READY)
	$(RUN) scripts/notebooks.py

results: $(READY)
	$(RUN) benchmarks/readme_tables.py
	$(RUN) book/_scripts/results.py
	$(RUN) book/_scripts/aligned_page.py
	$(RUN) book/_scripts/decided_page.py
	$(RUN) book/_scripts/layerbench_page.py
	$(RUN) book/_scripts/verified_page.py
	$(RUN) book/_scripts/costs_page.py
	$(RUN) book/_scripts/timings.py
	$(RUN) book/_scripts/log.py
	$(RUN) book/_scripts/weights.py
	$(RUN) book/_scripts/winner.py
	$(RUN) scripts/size.py

book: $(READY)
	$(RUN) book/_scripts/build.py

lab: $(READY)
	$(VENV)/bin/jupyter lab

clean:
	rm -rf $(VENV) build dist book/_build .pytest_cache .mypy_cache .ruff_cache .hypothesis
