"""Imported by copies of the workflow's programs: counts the units of work they do, and kills where it is told to.

In the folder KILLS, `done/{job}` gets a byte for each unit of work, `starts/{job}` one for each process, and a file
`plan/{job}/{units}-{kind}` asks for a kill once so many units are done. Every kill leaves a file in `killed`.
"""

import os
import re
import signal
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

KILLS = Path(os.environ.get("KILLS", ""))
SNAKEMAKE = int(os.environ.get("DT_SNAKEMAKE_PID", "0"))
STEPS_BETWEEN_RECORDS = 5  # in the place of seconds, so that what a kill costs does not depend on the machine


def arm() -> None:
    """To be called once all of `dt` that the program uses is imported."""
    import dt.files

    script = Path(sys.argv[0]).stem
    job = script + "".join(f" {given}" for given in _identity())
    _add_byte("starts", job)
    owner, unit = _unit(script)
    _after_each_call(owner, unit, lambda: (_add_byte("done", job), _kill_if_planned(job)))
    if (owner, unit) != (dt.files, "sync"):
        _after_each_call(dt.files, "sync", lambda: _kill_if_planned(job))


def _identity() -> list[str]:
    return [
        re.sub(r"\W+", "-", sys.argv[place + 1]).strip("-")
        for place, option in enumerate(sys.argv)
        if option in ("--run", "--environment", "--dataset")
    ]


def _unit(script: str) -> tuple[Any, str]:
    """The function of which one call is one unit of work."""
    if script == "train":
        from dt.checkpoint import Checkpoint
        from dt.optimiser import Optimiser

        def due(checkpoint: Checkpoint) -> bool:
            due.calls += 1
            return checkpoint.stopping or due.calls % STEPS_BETWEEN_RECORDS == 0

        due.calls = 0
        Checkpoint.due = due
        return Optimiser, "step"
    if script == "evaluate":
        import dt.evaluation

        return dt.evaluation, "roll_out"
    if script == "datasets":
        from dt.actors import Actor

        return Actor, "act"
    import dt.files

    return dt.files, "sync"  # between the writing of a file and its renaming


def _after_each_call(owner: Any, name: str, then: Any) -> None:
    original = getattr(owner, name)

    def wrapped(*given: Any, **named: Any) -> Any:
        result = original(*given, **named)
        then()
        return result

    setattr(owner, name, wrapped)


def _add_byte(kind: str, job: str) -> None:
    with (KILLS / kind / job).open("ab") as file:
        file.write(b".")


def _kill_if_planned(job: str) -> None:
    done = KILLS / "done" / job
    for plan in (KILLS / "plan" / job).glob("*-*"):
        units, kind = plan.name.split("-")
        if done.exists() and done.stat().st_size >= int(units) and _runs(SNAKEMAKE):
            plan.rename(KILLS / "killed" / f"{job} {plan.name}")
            _kill(kind)
            return


def _kill(kind: str) -> None:
    if kind != "job":
        with suppress(ProcessLookupError):
            os.kill(SNAKEMAKE, signal.SIGKILL)
        while _runs(SNAKEMAKE):
            time.sleep(0.01)
    if kind in ("job", "both"):
        os.kill(os.getpid(), signal.SIGKILL)
    if kind == "asked":  # run on, but no further than the next Snakemake lets it
        asked, before = threading.Event(), signal.getsignal(signal.SIGTERM)
        signal.signal(signal.SIGTERM, lambda *_: asked.set())
        while not asked.wait(0.05):
            pass
        (KILLS / "asked" / str(os.getpid())).touch()
        signal.signal(signal.SIGTERM, before)
        os.kill(os.getpid(), signal.SIGTERM)


def _runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True
