# The study as a graph. `make` alone prints what there is to do.
#
# Each step depends on the file of its key (reports/<study>/keys/<step>.json): its parameters and the code that it
# reaches. That file's time changes only when its content does, so `make` runs what a change concerns, and nothing else.
# Its target is its mark (keys/<step>.done.json), which a run removes first and writes last, after everything else.

STUDY  ?= demo
VENV   ?= .venv
PYTHON ?= python3
TORCH  ?= auto
# Settings of this machine that you don't want to type again, such as `export DATA_DIR = /path/to/ISIC2016`.
-include local.mk
# What is typed on the command line stays as it was typed: in a folder's name, $ is no variable of make's.
define as_typed
override $(1) := $$(value $(1))
export $(1)
endef
$(foreach name,DATA_DIR WEIGHTS_DIR REPORTS_DIR LESION_CACHE IMAGES LABELS MODEL OUT PUSH TO A B,\
  $(if $(filter command,$(firstword $(origin $(name)))),$(eval $(call as_typed,$(name)))))
quote = '$(subst ','\'',$(1))'
# A study is one folder below params/: a name that leads elsewhere (.., a path, none at all) reaches no recipe.
STUDIES := $(notdir $(patsubst %/data.yaml,%,$(wildcard params/*/data.yaml)))
ifneq ($(if $(filter-out .% -%,$(STUDY)),,none)$(shell printf %s $(call quote,$(value STUDY)) | LC_ALL=C tr -d '0-9A-Za-z._\200-\377-'),)
  $(error STUDY="$(value STUDY)" must be one folder under params/, named with letters, digits, ".", "_" and "-", such as $(STUDIES))
endif

# A script in $(BIN) names its Python in a first line that not every folder's name fits into: python -m has none.
BIN   := $(VENV)/bin
# Which build of torch: the small one (cpu) where Linux has no driver of a GPU; macOS has one build, which counts as gpu.
BUILD := $(TORCH)
ifeq ($(TORCH),auto)
  BUILD := $(shell test "$$(uname)" = Linux && ! command -v nvidia-smi >/dev/null 2>&1 && echo cpu || echo gpu)
endif
ifeq ($(filter cpu gpu,$(BUILD)),)
  $(error TORCH="$(TORCH)" must be auto, cpu or gpu)
endif
ENV   := $(VENV)/.installed-$(BUILD)-$(word 1,$(shell cat requirements.lock requirements-cpu.lock | cksum))
DEV   := $(VENV)/.dev-$(word 1,$(shell cat requirements-dev.lock requirements-onnx.lock requirements-cluster.lock requirements-mlflow.lock | cksum))
FOR_ONNX := $(VENV)/.onnx-$(word 1,$(shell cksum < requirements-onnx.lock))
FOR_CLUSTER := $(VENV)/.cluster-$(word 1,$(shell cksum < requirements-cluster.lock))
FOR_MLFLOW := $(VENV)/.mlflow-$(word 1,$(shell cksum < requirements-mlflow.lock))
REPORTS := $(if $(strip $(value REPORTS_DIR)),$(value REPORTS_DIR),reports)
# make cannot name a file in a folder whose name has a space, a % and the like: it goes there through a link.
ifneq ($(shell printf %s $(call quote,$(REPORTS)) | LC_ALL=C tr -d '0-9A-Za-z./_~-'),)
  ELSEWHERE := $(REPORTS)
  REPORTS := reports/.elsewhere-$(word 1,$(shell printf %s $(call quote,$(ELSEWHERE)) | cksum))
  $(shell d=$(call quote,$(ELSEWHERE)) && mkdir -p reports "$$d" && ln -sfn "$$(cd "$$d" && pwd)" $(REPORTS))
endif
KEYS  := $(REPORTS)/$(STUDY)/keys
# After a clock that went back, times to come would hide changes: those steps look at contents anew.
$(if $(wildcard $(KEYS)),$(shell now=$$(mktemp 2>/dev/null) && find $(KEYS)/ -name '*.json' -newer "$$now" \
  -exec touch {} \; -name '*.done.json' -exec touch -t 197001020000 {} \; ; rm -f "$$now"))
LESION := $(BIN)/python -m lesion_utils
# Every other YAML file of a study describes a further network, which runs through the notebook of the first.
FURTHER := $(filter-out data augmentation comparison selection resnet50 vgg19,$(patsubst params/$(STUDY)/%.yaml,%,$(wildcard params/$(STUDY)/*.yaml)))
TRAINED := 03_resnet50_finetune 04_vgg19_finetune $(FURTHER:%=network_%)
NOTEBOOKS := 01_eda 02_augmentation_preview $(TRAINED) 05_comparison
STEPS     := data $(NOTEBOOKS) index

.PHONY: help all test test-fast test-long test-faults lint audit reference box readme env lab data report $(NOTEBOOKS) select why plan doctor verify publish paper \
        archive api compare diff-notebooks \
        setup-git export predict track strip clean lock FORCE

help:  ## this page
	@echo "Usage: make <what> [STUDY=demo] [DATA_DIR=folder] [WEIGHTS_DIR=folder] [DEVICE=cpu|cuda|cuda:1|mps] [THREADS=n] [TORCH=cpu|gpu]"
	@echo "       [JOBS=n: workers here] [CLUSTER=tcp://host:port|slurm|pbs|lsf: workers elsewhere, docs/cluster.md]"
	@echo "Studies: $(STUDIES)"
	@echo
	@sed -n 's/^\([a-z][a-z-]*\):.*  ## \(.*\)/\1@\2/p' Makefile | while IFS=@ read what why; do \
	  printf '  %-15s %s\n' "$$what" "$$why"; done
	@printf '  %-15s %s\n' "<notebook>" "one notebook and what it needs: $(NOTEBOOKS)"

# --- the graph --------------------------------------------------------------------------------------------------------

all: $(KEYS)/index.done.json  ## the whole study: data, notebooks, report; only what changed runs
data: $(KEYS)/data.done.json  ## fetch the images where need be, verify, split and decode them
report: all  ## the same as all: the index page needs every step
$(NOTEBOOKS): %: $(KEYS)/%.done.json

# One call writes every key. A pattern with several targets is one rule, in every release of make.
$(foreach step,$(STEPS),%/keys/$(step).json): FORCE | $(ENV)
	@$(LESION) keys $(STUDY)

$(STEPS:%=$(KEYS)/%.done.json): $(KEYS)/%.done.json: $(KEYS)/%.json | $(if $(CLUSTER),$(FOR_CLUSTER))
	@$(LESION) run $* $(STUDY)

EXECUTED := $(NOTEBOOKS:%=$(KEYS)/%.done.json)
$(EXECUTED): $(KEYS)/data.done.json
$(KEYS)/05_comparison.done.json: $(patsubst %,$(KEYS)/%.done.json,01_eda $(TRAINED))
$(KEYS)/index.done.json: $(EXECUTED)

# --- questions and checks ---------------------------------------------------------------------------------------------

select: $(KEYS)/data.done.json | $(ENV) $(if $(CLUSTER),$(FOR_CLUSTER))  ## settings compared on the training images, before a study fixes its own
	@$(LESION) select $(STUDY)

why: | $(ENV)  ## a sentence per step: would it run, and why
	@$(LESION) why $(STUDY)

plan: | $(ENV)  ## time and memory of each step, from earlier runs
	@$(LESION) plan $(STUDY)

doctor: | $(ENV)  ## what is missing, and what to do about it
	@$(LESION) doctor $(STUDY)

verify: | $(ENV)  ## every file of the report, its copy in docs/ and its paper, against its record; runs nothing again
	@$(LESION) verify $(STUDY)

publish: | $(ENV)  ## a finished report copied to docs/<study>/, which is committed and served
	@$(LESION) publish $(STUDY)

archive:  ## lesion-utils-<version>.zip of what is committed, for Zenodo: code, parameters, published reports
	@name=lesion-utils-$$(sed -n 's/^version = "\(.*\)"/\1/p' pyproject.toml); \
	git archive --format=zip --prefix=$$name/ -o $$name.zip HEAD && echo "$$name.zip"; \
	git diff --quiet HEAD || echo "without what is not committed" >&2

paper: | $(ENV)  ## numbers, tables, figures, methods and checklists of a finished report as LaTeX, with a draft
	@$(LESION) paper $(STUDY)

compare: | $(ENV)  ## two reports, number by number: A=reports/x B=reports/y [OUTPUTS=1]
	@test -n "$$A" && test -n "$$B" || { echo "say which: make compare A=reports/x B=reports/y" >&2; exit 2; }
	@$(LESION) compare "$$A" "$$B" $(if $(OUTPUTS),--outputs)

# --- using a trained network ------------------------------------------------------------------------------------------

export: | $(ENV) $(if $(ONNX),$(FOR_ONNX))  ## networks as folders with a model card [MODEL=network/regime/seed] [ONNX=1] [PUSH=user/name]
	@$(LESION) export $(STUDY) --model "$$MODEL" $(if $(ONNX),--onnx) --push "$$PUSH"

predict: | $(ENV) $(if $(filter %.onnx,$(value MODEL)),$(FOR_ONNX))  ## scores and a contact sheet of a folder of photographs: IMAGES=folder MODEL=network [LABELS=file] [OUT=folder]
	@$(LESION) predict $(STUDY) --images "$$IMAGES" --labels "$$LABELS" --model "$$MODEL" --out "$$OUT"

track: | $(ENV) $(FOR_MLFLOW)  ## learning curves, parameters and results to MLflow: TO=folder or TO=http://server, again and again
	@test -n "$$TO" || { echo "say where: make track TO=mlflow, or TO=http://localhost:5000" >&2; exit 2; }
	@$(LESION) track $(STUDY) --to "$$TO"

# --- working on it ----------------------------------------------------------------------------------------------------

test: | $(DEV)  ## the tests, the same that continuous integration runs
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile

test-fast: | $(DEV)  ## the tests of the edit loop: no notebook, no browser, no long training
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile -m "not slow and not long"

test-long: | $(DEV)  ## what takes minutes: every regime of both networks with weights from a hub on loopback (7 GB of memory), compiling
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m "long and not fault"

test-faults: | $(DEV)  ## everything that machines and people do to a study, and the table of it in docs/reliability.md
	@# With "=": apart, a file that exists is taken for one of tests. Unsorted: the longest has few tests, and would come last.
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder -m fault --fault-table=docs/reliability.md

lint: | $(DEV)  ## style, order of imports, dependencies and types of the code
	@$(BIN)/ruff check
	@$(BIN)/python -c 'from importlinter.cli import lint_imports_command as lint; lint()' --no-logo
	@$(BIN)/python -m deptry .
	@$(BIN)/python -m mypy

audit: | $(ENV)  ## known vulnerabilities of every package in requirements.lock, by uv from osv.dev
	@{ echo "# /// script"; echo '# requires-python = ">=3.11"'; echo "# dependencies = ["; sed -n 's/ *\\$$//; s/^\([a-z0-9].*==.*\)/# "\1",/p' requirements.lock; \
	echo "# ]"; echo "# ///"; } > $(VENV)/audit.py
	@$(BIN)/uv audit --preview-features audit-command --script $(VENV)/audit.py || { test $$? = 1 || \
	  echo "nothing was checked: the list of packages or https://api.osv.dev cannot be reached from here" >&2; exit 1; }

lab: | $(ENV)  ## JupyterLab on the notebooks; what they write goes to reports/<study>/interactive/
	@$(BIN)/python -m jupyterlab --notebook-dir=. notebooks

api: | $(DEV)  ## the docstrings as pages, in api/
	@$(BIN)/python -W ignore::UserWarning -m pdoc --docformat google --output-directory api lesion_utils

strip: | $(DEV)  ## outputs out of the notebooks, before a commit
	@$(BIN)/python -m nbstripout --keep-id notebooks/*.ipynb

diff-notebooks: | $(ENV)  ## changes of the notebooks since REV (default HEAD); in the browser with WEB=1
	@$(BIN)/python -m nbdime diff$(if $(WEB),-web) --ignore-outputs $(or $(REV),HEAD) notebooks

setup-git: | $(DEV)  ## readable diffs of notebooks, and no outputs committed, in this clone
	@$(BIN)/python -m nbdime config-git --enable
	@$(BIN)/python -m nbstripout --install --keep-id --attributes .gitattributes

clean:  ## remove what STUDY generated; keeps downloads and whatever is under version control
	@$(or $(wildcard $(BIN)/python),$(PYTHON)) -m lesion_utils clean $(STUDY)

# --- the environment --------------------------------------------------------------------------------------------------

env: $(ENV)  ## the environment in .venv, from the lock; every target above sees to it by itself

UV := UV_HTTP_TIMEOUT=300 $(BIN)/uv pip install --no-deps --python $(BIN)/python
# Prints a lock without what only a GPU uses.
NO_TRITON := awk '/^[^ \#]/ { out = /^triton==/ } !out'
NO_CUDA   := awk '/^[^ \#]/ { out = /^(triton|nvidia-|cuda-)/; bare = /^torch(vision)?==/ } !out && !(bare && /--hash/) { if (bare) sub(/ .$$/, ""); print }'

# Named after the locks' content: another lock is another file. A lock that is installed already costs a second.
$(ENV):
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
	  echo "Python 3.11 or newer is needed: sudo apt-get install python3 (or: brew install python)," >&2; \
	  echo "or name one that you have: make $(MAKECMDGOALS) PYTHON=python3.12" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || test -x $(BIN)/uv || { \
	  echo "Python's venv is missing: sudo apt-get install python3-venv" >&2; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@sed -n '/^uv==/,/# via/p' requirements-dev.lock > $(VENV)/uv.lock
	@test -x $(BIN)/uv || $(BIN)/python -m pip install -q --no-deps --require-hashes -r $(VENV)/uv.lock
	@test -t 2 || quiet=-q; lock=requirements.lock; size="6 GB"; \
	if test $(BUILD) = cpu; then \
	  if problem=$$(UV_HTTP_RETRIES=1 $(UV) --dry-run --torch-backend cpu -r requirements-cpu.lock 2>&1); then \
	    lock=requirements-cpu.lock; size="1.5 GB"; backend="--torch-backend cpu"; \
	  elif test "$(TORCH)" = cpu; then echo "$$problem" >&2; exit 1; \
	  else \
	    echo "torch's small build cannot be had here ($$(echo "$$problem" | sed -n 's/^ *//;2p')): the large one, without triton"; \
	    lock=$(VENV)/requirements.lock; size="5 GB"; $(NO_TRITON) requirements.lock > $$lock; \
	  fi; \
	fi; \
	echo "building the environment in $(VENV) (the first time: some minutes, about $$size)"; \
	$(UV) --compile-bytecode $$quiet $$backend -r $$lock
	@$(BIN)/uv pip install -q --python $(BIN)/python --no-deps --no-build-isolation -e .
	@$(BIN)/python -m ipykernel install --sys-prefix --name lesion-utils --display-name "lesion-utils" >/dev/null
	@rm -f $(VENV)/.installed-* && touch $@

# What tests and development need besides.
$(DEV): | $(ENV)
	@$(UV) -q -r requirements-dev.lock -r requirements-onnx.lock -r requirements-cluster.lock -r requirements-mlflow.lock
	@rm -f $(VENV)/.dev-* && touch $@

# What ONNX files need besides.
$(FOR_ONNX): | $(ENV)
	@$(UV) -q -r requirements-onnx.lock
	@rm -f $(VENV)/.onnx-* && touch $@

# What sends tasks to other machines.
$(FOR_CLUSTER): | $(ENV)
	@$(UV) -q -r requirements-cluster.lock
	@rm -f $(VENV)/.cluster-* && touch $@

# What writes to MLflow.
$(FOR_MLFLOW): | $(ENV)
	@$(UV) -q -r requirements-mlflow.lock
	@rm -f $(VENV)/.mlflow-* && touch $@

reference: | $(ENV)  ## params/README.md, the schemas for editors, codemeta.json and the Colab badge, from what they repeat
	@$(LESION) reference

box: | $(ENV)  ## the archive of embedded images, from the challenge's files in DATA_DIR
	@$(LESION) box

readme: | $(ENV)  ## the README's results from the published copies in docs/
	@$(LESION) readme

COMPILE := $(BIN)/uv pip compile -q --universal --python-version 3.11 --generate-hashes --custom-compile-command "make lock"

lock: | $(DEV)  ## the six locks from pyproject.toml
	@$(COMPILE) pyproject.toml -o requirements.lock
	@$(COMPILE) --group pyproject.toml:onnx -c requirements.lock -o requirements-onnx.lock
	@$(COMPILE) --group pyproject.toml:mlflow -c requirements.lock -c requirements-onnx.lock -o requirements-mlflow.lock
	@$(COMPILE) --group pyproject.toml:cluster -c requirements.lock -c requirements-onnx.lock -c requirements-mlflow.lock -o requirements-cluster.lock
	@$(COMPILE) --group pyproject.toml:dev -c requirements.lock $(patsubst %,-c requirements-%.lock,onnx mlflow cluster) -o requirements-dev.lock
	@$(COMPILE) --torch-backend cpu -c requirements.lock pyproject.toml -o requirements-cpu.lock 2>/dev/null || { \
	  echo "torch's small build cannot be asked for from here: requirements-cpu.lock pins torch without its hashes"; \
	  $(NO_CUDA) requirements.lock > requirements-cpu.lock; }
