"""Film an episode of the best fine-tuned policy of one target."""

from pathlib import Path

from dt.cli import main, parser
from dt.evaluation import evaluate
from dt.films import Film
from dt.machine import use_one_thread
from dt.metrics import best_arm
from dt.policy import load_policy
from dt.provenance import describe, record
from dt.runs import Run


def films() -> None:
    arguments = parser(__doc__)
    arguments.add_argument("--target", required=True, help="environment")
    arguments.add_argument("--results", type=Path, required=True, help="folder in which tables and policies lie")
    arguments.add_argument("--film", type=Path, required=True, help=".gif to write")
    given = arguments.parse_args()
    use_one_thread()
    summary = given.results / "tables/summary.csv"
    source, strategy = best_arm(summary, given.target)
    run = Run("finetune", source, given.target, strategy, given.settings["seed"])
    path = given.results / "policies" / run.path / "policy.safetensors"
    description = describe(Path(__file__), given, [summary, path], shown=run.path)
    policy = load_policy(path, given.target)
    film = Film(policy.task, given.film)
    evaluate(policy, 1, given.settings.get("target_return"), seed=0, first=film)
    film.save()
    record(given.provenance, description, [given.film])


if __name__ == "__main__":
    main(films)
