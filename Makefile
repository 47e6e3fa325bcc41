# make demo        train, retrieve, generate and score the embedded study; prints its table and verdicts (about 8 minutes, 2 cores)
# make demo-full   the same with all six datasets
# make test        lint and all tests but the next two
# make test-long   a real Slurm on this machine (where it is installed), and faults: kills, full disks, damaged files
# make faults      30 rounds of kills at random moments; each must end as an undisturbed run
# make mutants     small faults put into the code: how many do the tests notice? (an hour; another call goes on)
# Each target does its own set-up in .venv. It needs Python >= 3.11, pip and make.
#
# TORCH_INDEX=URL  take torch from another package index, for example a CPU-only one (see README.md for sizes)
# CORES=N          cores for the workflow (default: all)

PYTHON ?= python3
CORES ?= all
TORCH_INDEX ?=
CONSTRAINTS := envs/constraints-cpu.txt
BIN := .venv/bin
READY := .venv/ready
SNAKEMAKE := $(BIN)/snakemake --cores $(CORES)

.PHONY: demo demo-full test test-long lint format docs bench faults mutants setup clean

setup: $(READY)

$(READY): pyproject.toml $(CONSTRAINTS)
	@$(PYTHON) -c 'import sys; sys.exit("Python >= 3.11 is needed, found " + sys.version) if sys.version_info < (3, 11) else 0'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check $(if $(TORCH_INDEX),--extra-index-url $(TORCH_INDEX)) -c $(CONSTRAINTS) torch
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c $(CONSTRAINTS) -e '.[demo,dev]'
	@touch $@

demo: $(READY)
	$(SNAKEMAKE) --quiet rules host
	@$(BIN)/retrotune tables

demo-full: $(READY)
	$(SNAKEMAKE) --quiet rules host --configfile config/config.yaml config/demo-full.yaml
	@$(BIN)/retrotune tables --configfile config/config.yaml config/demo-full.yaml

test: lint
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

test-long: $(READY)
	$(BIN)/python -m pytest -n 2 --dist loadfile tests/slurm tests/faults

lint: $(READY)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/snakefmt --check Snakefile workflow
	$(BIN)/snakemake --lint
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(READY)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .
	$(BIN)/snakefmt Snakefile workflow

docs: $(READY)
	$(BIN)/retrotune docs

bench: $(READY)
	$(BIN)/python benchmarks/demo.py
	$(BIN)/python benchmarks/convert.py
	$(BIN)/python benchmarks/retro.py
	$(BIN)/python benchmarks/planning.py

faults: $(READY)
	$(BIN)/python benchmarks/faults.py --rounds 30

mutants: $(READY)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c $(CONSTRAINTS) -e '.[mutants]'
	$(BIN)/python benchmarks/mutants.py

clean:
	rm -rf resources/demo results/demo logs/demo .snakemake
