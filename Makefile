# The commands of the README. Everything runs in .venv, made from the pinned versions in requirements.lock.
PYTHON ?= python3
CORES ?= all
export PATH := $(CURDIR)/.venv/bin:$(PATH)

.PHONY: paper demo report test test-experts test-slow test-slurm lint bench experts lock clean

paper: .venv/installed ## the default configuration: results/figures and results/tables
	snakemake --cores $(CORES)

demo: .venv/installed ## the same figures with a small budget: results/demo
	snakemake --cores $(CORES) --configfile config/demo.yaml

report: .venv/installed ## results/report.html, one page to send, once `paper` is there
	snakemake --report results/report.html

test: .venv/installed ## all tests but those marked slow, experts or slurm
	pytest

bench: .venv/installed-bench ## speed against peers: docs/benchmarks.md (minutes, on an idle machine)
	python benchmarks/bench.py --table docs/benchmarks.md

test-experts: .venv/installed-experts ## those of the experts' training
	pytest -m experts

test-slow: .venv/installed ## those marked slow, tens of thousands of damaged files among them (half an hour)
	pytest -m 'slow and not slurm'

test-slurm: .venv/installed-slurm ## those on a Slurm of their own; before them, as root: tests/slurm/cluster.sh install
	pytest -m slurm

lint: .venv/installed ## formatting, types of mistakes, workflow practice
	ruff check .
	ruff format --check .
	mypy
	snakefmt --check workflow
	snakemake --lint

experts: .venv/installed-experts ## train the expert actors anew: results/experts (hours)
	snakemake experts --cores $(CORES)

lock: ## pin what pyproject.toml resolves to today
	rm -rf .venv
	$(PYTHON) -m venv .venv
	.venv/bin/pip install "torch==2.13.0" ".[test]"
	(head -n 1 requirements.lock; .venv/bin/pip freeze --exclude dt-transfer | sed 's/+cpu//') > requirements.lock.new
	mv requirements.lock.new requirements.lock

clean: ## the environment; results stay
	rm -rf .venv

.venv/installed: requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed; name one with PYTHON=")'
	$(PYTHON) -m venv .venv
	.venv/bin/pip install --quiet --requirement requirements.lock
	.venv/bin/pip install --quiet --no-deps --editable .
	touch $@

.venv/installed-bench: .venv/installed requirements-bench.lock
	.venv/bin/pip install --quiet --no-deps --requirement requirements-bench.lock
	touch $@

.venv/installed-experts: .venv/installed requirements-experts.lock
	.venv/bin/pip install --quiet --requirement requirements-experts.lock
	touch $@

.venv/installed-slurm: .venv/installed requirements-slurm.lock
	.venv/bin/pip install --quiet --requirement requirements-slurm.lock
	touch $@
