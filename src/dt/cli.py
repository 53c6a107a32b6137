"""What every program in workflow/scripts shares: logging, and a sentence instead of a traceback."""

from __future__ import annotations

import argparse
import json
import logging
import sys
from collections.abc import Callable
from pathlib import Path

from safetensors import SafetensorError

from dt.runs import ExpectedError, Run


def parser(description: str | None) -> argparse.ArgumentParser:
    result = argparse.ArgumentParser(description=description)
    result.add_argument("--settings", type=json.loads, required=True, help="the rule's part of the configuration, JSON")
    result.add_argument("--provenance", type=Path, help="JSON file that will say how the results came to be")
    return result


def run_argument(text: str) -> Run:
    """`["finetune", "hopper", "walker2d", "unfreeze1", 0]`."""
    return Run(*json.loads(text))


def main(program: Callable[[], None]) -> None:
    """Run a program; expected errors end it with one line on stderr and exit code 1."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S", stream=sys.stderr)
    try:
        program()
    except (ExpectedError, OSError, SafetensorError) as error:
        sys.exit(f"error: {error}")
