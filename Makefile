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
-include $(wildcard local.mk)

# Refuses what cannot be meant, and sets KEYS (the folder of keys) and ENV, DEV, EXTRAS (what is installed in VENV).
include tools/check.mk

# A script in bin/ names its Python in a first line that not every folder's name fits into: python -m has none.
RUN    := $(VENV)/bin/python -m
LESION := $(RUN) lesion_utils
PYTEST := OMP_NUM_THREADS=1 $(RUN) pytest

# Every other YAML file of a study describes a further network, which runs through the notebook of the first.
FURTHER   := $(filter-out data augmentation comparison selection resnet50 vgg19,$(patsubst params/$(STUDY)/%.yaml,%,$(wildcard params/$(STUDY)/*.yaml)))
TRAINED   := 03_resnet50_finetune 04_vgg19_finetune $(FURTHER:%=network_%)
NOTEBOOKS := 01_eda 02_augmentation_preview $(TRAINED) 05_comparison
STEPS     := data $(NOTEBOOKS) index
EXECUTED  := $(NOTEBOOKS:%=$(KEYS)/%.done.json)

#:Usage: make <what> [STUDY=demo] [DATA_DIR=folder] [WEIGHTS_DIR=folder] [DEVICE=cpu|cuda|cuda:1|mps] [THREADS=n]
#:       [TORCH=cpu|gpu|cu126] [JOBS=n: workers here] [CLUSTER=tcp://host:port|slurm|pbs|lsf: workers elsewhere, docs/guide/cluster.md]
help:  ## this page
	@sed -n 's/^#: \{0,1\}//p; s/^\([a-z][a-z-]*\):.*  ## \(.*\)/  \1@\2/p' Makefile | awk -F@ 'NF == 2 { printf "%-18s%s\n", $$1, $$2; next } 1'
	@printf '  %-15s %s\n' '<notebook>' $(call quote,one notebook and what it needs: $(NOTEBOOKS))
	@echo $(call quote,Studies: $(notdir $(patsubst %/data.yaml,%,$(wildcard params/*/data.yaml))))

#:The study
all: $(KEYS)/index.done.json  ## the whole study: data, notebooks, report; only what changed runs
data: $(KEYS)/data.done.json  ## fetch the images if need be, verify, split and decode them
report: all  ## the same as all: the index page needs every step
$(NOTEBOOKS): %: $(KEYS)/%.done.json
select: $(KEYS)/data.done.json | $(if $(CLUSTER),$(EXTRAS))  ## settings compared on the training images, before a study fixes its own
	@$(LESION) select "$$STUDY"

# Only what is typed here names it: WSL has a variable NAME, the machine's.
study: | $(ENV)  ## a study's files copied to params/NAME: NAME=mine [FROM=demo] [SET="resnet50.seeds=[1,2] data.folds=5"]
	@$(LESION) study --from="$${FROM:-demo}" --name=$(if $(filter override,$(origin NAME)),"$$NAME") --set=$(if $(filter override,$(origin SET)),"$$SET")

# One call writes every key. A pattern with several targets is one rule, in every release of make.
$(foreach step,$(STEPS),%/keys/$(step).json): FORCE | $(ENV)
	@$(LESION) keys "$$STUDY"
$(STEPS:%=$(KEYS)/%.done.json): $(KEYS)/%.done.json: $(KEYS)/%.json | $(if $(CLUSTER),$(EXTRAS))
	@$(LESION) run $(call quote,$*) "$$STUDY"
$(EXECUTED): $(KEYS)/data.done.json
$(KEYS)/05_comparison.done.json: $(patsubst %,$(KEYS)/%.done.json,01_eda $(TRAINED))
$(KEYS)/index.done.json: $(EXECUTED)

#:Questions and checks
why: | $(ENV)  ## a sentence per step: would it run, and why
	@$(LESION) why "$$STUDY"
plan: | $(ENV)  ## time and memory of each step, from earlier runs
	@$(LESION) plan "$$STUDY"
doctor: | $(ENV)  ## what is missing, and what to do about it
	@$(LESION) doctor "$$STUDY"
verify: | $(ENV)  ## every file of the report, its copy in docs/ and its paper, against its record; runs nothing again
	@$(LESION) verify "$$STUDY"
compare: | $(ENV)  ## two reports, number by number: A=reports/x B=reports/y [OUTPUTS=1]
	@$(LESION) compare $(if $(OUTPUTS),--outputs) -- "$$A" "$$B"
clean:  ## remove what STUDY generated; keeps downloads and whatever is under version control
	@if test -x $(VENV)/bin/python; then $(LESION) clean "$$STUDY"; else "$$PYTHON" -m lesion_utils clean "$$STUDY"; fi

#:What comes of a report
publish: | $(ENV)  ## a finished report copied to docs/<study>/, which is committed and served
	@$(LESION) publish "$$STUDY"
paper: | $(ENV)  ## numbers, tables, figures, methods and checklists of a finished report as LaTeX
	@$(LESION) paper "$$STUDY"
readme: | $(ENV)  ## the README's results from the published copies in docs/
	@$(LESION) readme
archive:  ## lesion-utils-<version>.zip of what is committed, for Zenodo: code, parameters, published reports
	@name=lesion-utils-$$(sed -n 's/^__version__ = "\(.*\)"/\1/p' lesion_utils/__init__.py) && git archive --format=zip --prefix=$$name/ -o $$name.zip HEAD && echo $$name.zip
	@git diff --quiet HEAD || echo "without what is not committed" >&2
track: | $(EXTRAS)  ## learning curves, parameters and results to MLflow (TO=folder or TO=http://server) or TO=tensorboard, again and again
	@$(LESION) track --to="$$TO" "$$STUDY"

#:Using a trained network
export: | $(ENV) $(if $(ONNX),$(EXTRAS))  ## networks as folders with a model card [MODEL=network/regime/seed] [ONNX=1] [PUSH=user/name]
	@$(LESION) export --model="$$MODEL" --push="$$PUSH" $(if $(ONNX),--onnx) "$$STUDY"
predict: | $(ENV) $(if $(filter %.onnx,$(value MODEL)),$(EXTRAS))  ## scores and a contact sheet of a folder of photographs: IMAGES=folder MODEL=network [LABELS=file] [OUT=folder]
	@$(LESION) predict --images="$$IMAGES" --labels="$$LABELS" --model="$$MODEL" --out="$$OUT" "$$STUDY"

#:Working on it
lab: $(KEYS)/data.done.json  ## JupyterLab on the project; what notebooks write there goes to reports/<study>/interactive/
	@$(RUN) jupyterlab --ServerApp.root_dir=. notebooks/01_eda.ipynb
test: | $(DEV)  ## the tests, the same that continuous integration runs
	@$(PYTEST) -n 2 --dist loadfile --no-loadscope-reorder
test-fast: | $(DEV)  ## the tests of the edit loop: no notebook, no browser, no long training
	@$(PYTEST) -n 2 --dist loadfile -m "not slow and not long"
test-long: | $(DEV)  ## what takes minutes: every regime of both networks with weights from a hub on loopback (7 GB of memory), compiling
	@$(PYTEST) -m "long and not fault"
# --fault-table needs its "=", and the order of the files stays: the longest has few tests, and would come last.
test-faults: | $(DEV)  ## everything that machines and people do to a study, and the table of it in docs/reliability.md
	@$(PYTEST) -n 2 --dist loadfile --no-loadscope-reorder -m fault --fault-table=docs/reliability.md
lint: | $(DEV)  ## style, order of imports, dependencies and types of the code
	@$(RUN) ruff check
	@$(VENV)/bin/python -c 'from importlinter.cli import lint_imports_command as lint; lint()' --no-logo
	@$(RUN) deptry . && $(RUN) mypy
audit: | $(ENV)  ## known vulnerabilities of every package in requirements/run.lock, by uv from osv.dev
	@sh tools/environment.sh audit
api: | $(DEV)  ## the docstrings as pages, in api/
	@$(RUN) pdoc --docformat google --output-directory api lesion_utils
strip: | $(DEV)  ## outputs out of the notebooks, before a commit
	@$(RUN) nbstripout --keep-id notebooks/*.ipynb
diff-notebooks: | $(ENV)  ## changes of the notebooks since REV (default HEAD); in the browser with WEB=1
	@rev=$$(git rev-parse --verify "$${REV:-HEAD}^{commit}") && $(RUN) nbdime diff$(if $(WEB),-web) --ignore-outputs "$$rev" notebooks
setup-git: | $(DEV)  ## readable diffs of notebooks, and no outputs committed, in this clone
	@$(RUN) nbdime config-git --enable && $(RUN) nbstripout --install --keep-id --attributes .gitattributes
reference: | $(ENV)  ## params/README.md and the schemas for editors, from what they repeat
	@$(LESION) reference
box: | $(ENV)  ## the archive of embedded images, from the challenge's files in DATA_DIR
	@$(LESION) box

#:The environment
env: $(ENV)  ## the environment in .venv, from the lock; every target above sees to it by itself
lock: | $(DEV)  ## the four locks from pyproject.toml
	@sh tools/environment.sh lock
# Named after the locks' content: another lock is another file. A lock that is installed already costs a second.
$(ENV):
	@sh tools/environment.sh run
$(DEV): | $(ENV)
	@sh tools/environment.sh dev
$(EXTRAS): | $(ENV)
	@sh tools/environment.sh extras

.DEFAULT:
	@sh tools/unknown.sh $(call quote,$@)
.PHONY: FORCE $(NOTEBOOKS) $(shell sed -n 's/^\([a-z][a-z-]*\):.*  ## .*/\1/p' Makefile)
