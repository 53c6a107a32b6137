"""What every program in workflow/scripts shares: logging, and a sentence instead of a traceback."""

from __future__ import annotations

import argparse
import io
import json
import logging
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from dt.files import failure
from dt.runs import ExpectedError, Run, StoppedError

NO_MEMORY = ("can't allocate memory", "out of memory", "bad_alloc")  # in a RuntimeError of PyTorch's
INTERRUPTED = 130  # 128 and the number of SIGINT


def parser(description: str | None) -> argparse.ArgumentParser:
    write_what_can_be_written()
    result = argparse.ArgumentParser(description=description)
    result.add_argument("--settings", type=json.loads, required=True, help="the rule's part of the configuration, JSON")
    result.add_argument("--provenance", type=Path, help="JSON file that will say how the results came to be")
    return result


def run_argument(text: str) -> Run:
    """`["finetune", "hopper", "walker2d", "unfreeze1", 0]`."""
    return Run(*json.loads(text))


def write_what_can_be_written() -> None:
    """Let stdout show `?` for what its encoding lacks: where it is ASCII, a `±` would end the program."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")


def main(program: Callable[[], None]) -> None:
    """Run a program; expected errors end it with one line on stderr and exit code 1, and so does SIGTERM.

    Ctrl-C does too, with the exit code that shells expect then.
    """
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S", stream=sys.stderr)
    logging.getLogger("OpenGL").setLevel(logging.WARNING)  # it tells of an accelerator that it lacks
    signal.signal(signal.SIGTERM, _stop)
    try:
        program()
    except (ExpectedError, SafetensorError) as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        print("error: stopped by Ctrl-C", file=sys.stderr)
        sys.exit(INTERRUPTED)
    except OSError as error:
        sys.exit(f"error: {failure(error)}")
    except (MemoryError, RuntimeError) as error:
        if isinstance(error, MemoryError) or any(text in str(error) for text in NO_MEMORY):
            sys.exit(f"error: out of memory: {_first_line(error)}; give the job more, or run fewer at once (--cores)")
        raise


def _stop(*_: Any) -> None:
    """Whatever is half written is removed on the way out."""
    raise StoppedError("stopped by SIGTERM")


def _first_line(error: Exception) -> str:
    return (str(error) or type(error).__name__).splitlines()[0]
