#!/usr/bin/env bash
# Runs once in the environment that Snakemake made of dt.yaml (--software-deployment-method conda).
set -euo pipefail
python -m pip install -r requirements.lock
python -m pip install --no-deps --editable .
