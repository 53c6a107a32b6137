#!/usr/bin/env bash
# Runs once in the environment that Snakemake made of experts.yaml (--software-deployment-method conda).
set -euo pipefail
python -m pip install -r requirements.lock
python -m pip install -r requirements-experts.lock
python -m pip install --no-deps --editable .
