"""`python -m lesion_utils <verb>`: what the Makefile calls. Thin: a verb's work, and its imports, are elsewhere."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from lesion_utils.core.console import Console
from lesion_utils.core.errors import LesionError, ParamsError
from lesion_utils.core.paths import Study, data_dir, docs_root, find_study, params_root, project_root, reports_root
from lesion_utils.core.running import mark_running
from lesion_utils.core.settings import check_settings, settle_device

if TYPE_CHECKING:
    from lesion_utils.config.schema import StudyParams

#: Verbs that compute, or say what would be computed: for these the variables of the machine must be right.
_USE_MACHINE = ("run", "keys", "why", "plan", "select", "export", "predict")

#: What installs the packages that few need, by a part of their names.
_WAYS = {
    "onnx": "make export ONNX=1", "distributed": "make with CLUSTER", "dask": "make with CLUSTER",
    "mlflow": "make track TO=folder", "tensorboard": "make track TO=tensorboard",
}  # fmt: skip


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one verb.

    Returns:
        exit status: 0, 1 where something is wrong, 130 after Ctrl-C, or 141 where nobody reads any more.
    """
    options = _parse(arguments)
    try:
        if not params_root().is_dir():
            raise ParamsError(
                "the package is installed outside a checkout of its project, so there is no study",
                where=str(project_root()),
                expected="the folders params/ and notebooks/ beside lesion_utils/",
                do="clone the repository, run make env in it, then make help",
            )
        if "study" in options:
            options.study = find_study(options.study)
        if options.verb in _USE_MACHINE:
            check_settings()
            settle_device()
        status = options.act(options) or 0
        sys.stdout.flush()
        return status
    except LesionError as error:
        print(error, file=sys.stderr)
        return 1
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("lesion_utils"):
            raise
        ways = (f"{way}, which installs it" for name, way in _WAYS.items() if name in (error.name or ""))
        do = next(ways, "make env")
        print(f"the package {error.name!r} is not installed\n  do next   {do}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        what = getattr(options, "step", options.verb)
        again = f"go on with: make all STUDY={options.study.name}" if options.verb == "run" else "nothing was lost"
        print(f"\n{what} was interrupted; {again}", file=sys.stderr)
        return 130
    except BrokenPipeError:  # whoever read the output has gone, as `head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except OSError as error:  # the disk's: full, for reading only, or a file in a folder's place
        do = "free some space, correct the permissions or move away what is in the way, and type the same again"
        print(LesionError(error.strerror or str(error), where=error.filename, do=do), file=sys.stderr)
        return 1


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m lesion_utils", description="The study's verbs; `make` lists them.")
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="verb")

    def add(name: str, act: Callable[[argparse.Namespace], int | None], what: str) -> argparse.ArgumentParser:
        verb = verbs.add_parser(name, help=what, description=what)
        verb.set_defaults(act=act)
        return verb

    def add_study(verb: argparse.ArgumentParser, what: str = "folder under params/ (default: demo)") -> None:
        verb.add_argument("study", nargs="?", default="demo", help=what)

    step = add("run", run, "run one step, unless it is up to date")
    step.add_argument("step")
    hand_over = add("export", export, "write trained networks as folders that timm loads, each with a model card")
    hand_over.add_argument("--model", default="", help="network, network/regime or network/regime/seed (default: each)")
    hand_over.add_argument("--onnx", action="store_true", help="write model.onnx as well, checked on real images")
    hand_over.add_argument("--push", default="", help="repository on the hub that the network goes to: user/name")
    show = add("track", track, "write trainings and results to MLflow or TensorBoard")
    show.add_argument("--to", required=True, help="a folder, the address of MLflow's server, or tensorboard")
    for verb in (
        step,
        hand_over,
        show,
        add("keys", write_keys, "write what each step depends on, for make"),
        add("why", tell_why, "say what would run, and why"),
        add("plan", tell_plan, "say how long it takes"),
        add("doctor", examine, "say what is missing"),
        add("verify", verify, "check every file of the report against its record, and of its published copy"),
        add("clean", clean, "remove what was generated"),
        add("select", select, "compare settings on the training images"),
        add("publish", publish, "copy a finished report to docs/"),
        add("paper", write_paper, "write what a manuscript takes from a report, as LaTeX"),
    ):
        add_study(verb)
    score = add("predict", predict, "score a folder of photographs with a trained network")
    add_study(score, "whose network, unless --model is a path")
    score.add_argument("--images", default="", help="folder of JPEG or PNG files")
    score.add_argument("--model", default="", help="network[/regime[/seed]], an exported folder, model.onnx or best.pt")
    labels = "CSV file with the columns image and label: what the scores are worth"
    score.add_argument("--labels", default="", help=labels)
    score.add_argument("--out", default="", help="where the scores go (default: predictions/<name of the folder>)")
    new = add("study", copy_study, "copy a study and set values in its files")
    new.add_argument("--from", dest="source", default="demo", help="the study that is copied (default: demo)")
    new.add_argument("--name", default="", help="of the new study")
    new.add_argument("--set", default="", help="values: 'resnet50.seeds=[1,2] data.title=\"Two seeds\"'")
    both = add("compare", compare, "compare two reports, number by number")
    both.add_argument("a", help="folder of a report")
    both.add_argument("b", help="folder of another")
    both.add_argument("--outputs", action="store_true", help="compare the notebooks' outputs as well")
    add("readme", write_readme, "write the README's results from the published copies")
    add("box", write_box, "write the archive of embedded images from the challenge's files in DATA_DIR")
    add("reference", write_reference, "write params/README.md and the schemas")
    return parser.parse_args(arguments)


def _read_params(study: Study) -> StudyParams:
    from lesion_utils.config.load import load_study

    return load_study(study.params_dir)


def write_readme(options: argparse.Namespace) -> None:
    from lesion_utils.report.readme import update_readme

    update_readme(project_root() / "README.md")


def write_reference(options: argparse.Namespace) -> None:
    from lesion_utils.config.reference import write_reference

    write_reference()


def write_box(options: argparse.Namespace) -> None:
    from lesion_utils.data import box, make_box

    sha256 = make_box.make_box(data_dir(), box.BOX)
    state = "as before" if sha256 == box.SHA256 else "other bytes: put this hash into lesion_utils/data/box.py"
    print(f"box  lesion_utils/data/{box.BOX.name}  {box.BOX.stat().st_size:,} bytes  SHA-256 {sha256}  ({state})")


def write_keys(options: argparse.Namespace) -> None:
    from lesion_utils.pipeline import graph

    graph.write_keys(options.study, _read_params(options.study))


def run(options: argparse.Namespace) -> None:
    from lesion_utils.pipeline.execute import run_step

    workers = os.environ.get("JOBS") or os.environ.get("CLUSTER")
    run_step(options.step, options.study, console=Console(), train_ahead=_train_ahead if workers else None)


def _train_ahead(study: Study, params: StudyParams, network: str, console: Console) -> None:
    from lesion_utils.extras.ahead import train_study

    train_study(study, params, network, console=console)


def tell_why(options: argparse.Namespace) -> None:
    from lesion_utils.pipeline import graph

    print(graph.tell_why(options.study, _read_params(options.study)))


def tell_plan(options: argparse.Namespace) -> None:
    from lesion_utils.pipeline import graph

    print(graph.tell_plan(options.study, _read_params(options.study)))


def copy_study(options: argparse.Namespace) -> None:
    from lesion_utils.extras.new_study import copy_study

    if not options.name:
        raise ParamsError("the new study's name is missing", do='make study FROM=demo NAME=mine [SET="file.key=value"]')
    print(copy_study(options.source, options.name, options.set))


def examine(options: argparse.Namespace) -> int:
    from lesion_utils.pipeline.doctor import examine_study

    states = []
    for finding in examine_study(options.study):
        print(finding, flush=True)
        states.append(finding.state)
    return int("wrong" in states)


def select(options: argparse.Namespace) -> None:
    from lesion_utils.extras.select import select_settings

    study, console, params = options.study, Console(), _read_params(options.study)
    with mark_running(study, "select"), console.show_step("select"):
        select_settings(study, params, console=console)
    console.report(f"reports/{study.name}/html/selection.html")


def verify(options: argparse.Namespace) -> int:
    from lesion_utils.provenance import verify

    study, name = options.study, options.study.name
    copy, paper = docs_root() / name, study.report_dir / "paper"
    checked = []
    if copy.is_dir():
        checked.append((f"docs/{name}", verify.verify_copy(copy), f"make publish STUDY={name}"))
    if study.report_dir.is_dir() or not checked:
        do = f"make why STUDY={name}, then make all STUDY={name}"
        checked.append((f"reports/{name}", verify.verify_study(study), do))
    if paper.is_dir():
        checked.append((f"reports/{name}/paper", verify.verify_paper(paper), f"make paper STUDY={name}"))
    for folder, findings, do in checked:
        print(verify.describe_findings(findings, folder=folder, do=do))
    return int(not all(finding.is_clean for _, findings, _ in checked for finding in findings))


def compare(options: argparse.Namespace) -> None:
    from lesion_utils.extras import compare

    if not (options.a and options.b):
        raise ParamsError("two reports are needed", do="make compare A=reports/x B=reports/y")
    a, b = Path(options.a), Path(options.b)
    comparison = compare.compare_reports(a, b)
    print(compare.describe_comparison(comparison, outputs=options.outputs))
    table = reports_root() / f"compare_{a.name}_{b.name}.csv"
    print(f"table  {compare.write_comparison(comparison, table)}")


def publish(options: argparse.Namespace) -> None:
    from lesion_utils.report.publish import publish_study

    folder = publish_study(options.study, _read_params(options.study)).relative_to(project_root())
    write_readme(options)
    print(f"{folder}/index.html\nnext: git add docs README.md, and commit it")


def write_paper(options: argparse.Namespace) -> None:
    from lesion_utils.extras.paper import write_paper

    print(write_paper(options.study, _read_params(options.study)))


def clean(options: argparse.Namespace) -> None:
    from lesion_utils.pipeline.clean import clean_study

    for folder in clean_study(options.study):
        print(f"removed {folder}")


def export(options: argparse.Namespace) -> None:
    from lesion_utils.extras.export import export_study

    console, what = Console(), {"onnx": options.onnx, "push": options.push}
    with console.show_step("export"):
        folders = export_study(options.study, options.model, **what, on_event=console.show)
    print("\n".join(f"model  {folder}" for folder in folders))


def track(options: argparse.Namespace) -> None:
    from lesion_utils.extras.track import track_study

    if not options.to:
        raise ParamsError(
            "the place is missing", do="make track TO=mlflow, TO=http://localhost:5000, or TO=tensorboard"
        )
    print(track_study(options.study, options.to))


def predict(options: argparse.Namespace) -> None:
    from lesion_utils.core.files import write_atomic
    from lesion_utils.data.tables import dump_csv
    from lesion_utils.extras import judge
    from lesion_utils.extras import predict as scoring

    console, folder, params = Console(), scoring.find_folder(options.images), _read_params(options.study)
    out = Path(options.out) if options.out else project_root() / "predictions" / folder.resolve().name
    with console.show_step("predict"):
        network, about = scoring.open_model(options.model, options.study)
        scored = scoring.score_folder(folder, network, on_event=console.show)
        scores = scoring.write_scores(scored, out)
        sheet = scoring.write_contact_sheet(scored, network, about, out)
    print(scoring.describe_problems(scored), end="", file=sys.stderr)
    print(f"{scoring.describe_scores(scored, about)}\nscores  {scores}\nsheet   {sheet}")
    if options.labels:
        threshold = judge.find_threshold(network, about)
        measures, matched = judge.judge_folder(
            scored, options.labels, params.comparison, threshold=threshold, rules=params.data
        )
        write_atomic(out / "measures.csv", dump_csv(measures))
        print(f"measures {out / 'measures.csv'}\n{matched}; {judge.describe_measures(measures, threshold=threshold)}")
