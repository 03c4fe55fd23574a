# Each target sets up what it needs, so any of them works on a machine with only Python and make.

PYTHON ?= python3
PORT   ?= 8000
PINNED := $(shell sed -n 's/^torch==//p' constraints.txt)
TORCH  ?= $(PINNED)
NEEDED := $(shell sed -n 's/^dependencies = \["\(torch[^"]*\)".*/\1/p' pyproject.toml)
ifeq ($(TORCH),$(PINNED))
VENV   := .venv
PINS   := constraints.txt
else
VENV   := .venv-torch-$(TORCH)
PINS   := $(VENV)/constraints.txt
endif
BIN    := $(VENV)/bin
READY  := $(VENV)/ready
LAB    := $(VENV)/lab-ready
BENCH  := $(VENV)/bench-ready
PIP    := $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-compile # most of torch is never imported

export NO_MKDOCS_2_WARNING := 1
export PYTHONDONTWRITEBYTECODE := # else each run compiles the tests again

help: ## Show these targets
	@sed -n 's/^\([a-z]*\):.*## \(.*\)/make \1\t\2/p' Makefile | expand -t 20

serve: notebooks ## Build the course and serve it on 127.0.0.1:8000 (PORT=8765 for another)
	@$(BIN)/python -c 'import socket; socket.create_server(("127.0.0.1", $(PORT)))' 2>/dev/null || { echo "cannot listen on port $(PORT), something else may use it; try: make serve PORT=8765" >&2; exit 1; }
	$(BIN)/python -m mkdocs serve --livereload --dev-addr 127.0.0.1:$(PORT)

test: check ## Run every check: style, types, tests, and each snippet of the lessons
	$(BIN)/python -m pytest -rs -n 2 --dist loadfile --no-loadscope-reorder

deep: $(READY) ## Free graphs of a million levels, try each operation of torch, and all that make test takes a part of
	LEVELS=1000000 OPERATIONS=1 EXAMPLES=all $(BIN)/python -m pytest tests/graph/test_freeing.py tests/test_operations.py --durations 0
	EXAMPLES=all $(BIN)/python -m pytest -n 2 $$(grep -rl --include='test_*.py' 'tests.slices' tests)

site: notebooks ## Build the course into site/, as it is published
	$(BIN)/python -m mkdocs build --strict && $(BIN)/python -m tools.publish && $(BIN)/python -m tools.download

notebooks: $(READY) ## Write each lesson as a notebook into course/notebooks/
	@$(BIN)/python -m tools.notebooks

update: $(READY) ## Write what the snippets print, raise and draw into the lessons
	$(BIN)/python -m pytest course README.md companion/README.md --update-outputs && $(BIN)/python -m tools.course && $(BIN)/python -m course.assets.messages && $(BIN)/python -m course.assets.pictures && $(MAKE) --no-print-directory notebooks

lab: notebooks $(LAB) ## Open the notebooks in JupyterLab: copies in lab/, which are yours
	@mkdir -p lab; cd course/notebooks; for book in *.ipynb; do test -e ../../lab/$$book || sed 's|](\.\./|](../course/|g' $$book > ../../lab/$$book; done
	$(BIN)/python -m jupyterlab --LabApp.default_url=/lab/tree/lab

bench: $(READY) $(BENCH) ## Measure beside other packages, and write course/measured.md
	$(BIN)/python -m benchmarks --write && $(BIN)/python -m pytest course/measured.md --update-outputs

check: $(READY) ## Check style and types alone
	$(BIN)/python -m ruff check --quiet && $(BIN)/python -m ruff format --quiet --check && $(BIN)/python -m mypy

clean: ## Remove everything that make made, but for your copies in lab
	rm -rf .venv .venv-torch-* site build dist *.egg-info .*_cache .hypothesis

# Torch comes first and alone: on Linux the package index gives a build with gigabytes of CUDA,
# and only the index of CPU builds, where it can be reached, has the small one. Next to what the
# package needs, pip refuses a torch that is too old before it downloads it.
# Another torch than the pinned one has our pins but those of what it needs itself, which may
# contradict it; pip would then replace torch.
$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "this needs Python 3.11 or newer as $(PYTHON); name another: make PYTHON=python3.12" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { echo "$(PYTHON) has no venv module; on Debian and Ubuntu: apt install python3-venv" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(PIP) --retries 0 --extra-index-url https://download.pytorch.org/whl/cpu torch==$(TORCH) '$(NEEDED)'
ifneq ($(TORCH),$(PINNED))
	echo torch==$(TORCH) > $(PINS)
	$(BIN)/python -m pip show torch | sed -n 's/^Requires: /torch,/p' | tr -d ' ' | tr , '\n' | sed 's/[-_]/[-_]/g; s/.*/^&==/' | grep -vif - constraints.txt >> $(PINS)
endif
	$(PIP) --constraint $(PINS) --editable '.[test]'
	@case $$($(BIN)/python -c 'from importlib.metadata import version; print(version("torch"))') in $(TORCH)|$(TORCH)+*) ;; *) echo "this tests torch $(TORCH), but pip installed another in $(VENV); see: $(BIN)/python -m pip list" >&2; exit 1;; esac
	@touch $@

$(LAB): $(READY)
	$(PIP) --constraint $(PINS) --editable '.[lab]'
	@touch $@

$(BENCH): $(READY)
	$(PIP) --constraint $(PINS) --editable '.[bench]'
	@touch $@

.PHONY: help serve test deep site notebooks update lab bench check clean
