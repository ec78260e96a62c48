"""`python -m lesion_utils <verb>`: what the Makefile calls. Thin: a verb's work, and its imports, are elsewhere."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from lesion_utils.core.errors import LesionError
from lesion_utils.core.paths import Study, docs_root, project_root, reports_root


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one verb.

    Returns:
        exit status: 0, 1 where something is wrong, 130 after Ctrl-C, or 141 where nobody reads any more.
    """
    options = _parse(arguments)
    _choose_cuda_device()
    try:
        status = options.act(options) or 0
        sys.stdout.flush()
        return status
    except LesionError as error:
        print(error, file=sys.stderr)
        return 1
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("lesion_utils"):
            raise
        ways = {"onnx": "make export ONNX=1", "distributed": "make with CLUSTER", "dask": "make with CLUSTER"}
        ways |= {"mlflow": "make track TO=folder"}
        do = next((f"{way}, which installs it" for name, way in ways.items() if name in (error.name or "")), "make env")
        print(f"the package {error.name!r} is not installed\n  do next   {do}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        what = getattr(options, "step", options.verb)
        again = f"go on with: make all STUDY={options.study}" if options.verb == "run" else "nothing was lost"
        print(f"\n{what} was interrupted; {again}", file=sys.stderr)
        return 130
    except BrokenPipeError:  # whoever read the output has gone, as `head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except OSError as error:  # the disk's: full, for reading only, or a file in a folder's place
        do = "free some space, correct the permissions or move away what is in the way, and type the same again"
        print(LesionError(error.strerror or str(error), where=error.filename, do=do), file=sys.stderr)
        return 1


def _choose_cuda_device() -> None:
    """Of `DEVICE=cuda:1`, CUDA is told the number, and sees no other device; to all else it is `cuda`."""
    device, _, number = os.environ.get("DEVICE", "").partition(":")
    if device == "cuda" and number.isdigit():
        seen = dict(enumerate(filter(None, os.environ.get("CUDA_VISIBLE_DEVICES", "").split(","))))
        os.environ |= {"DEVICE": device, "CUDA_VISIBLE_DEVICES": seen.get(int(number), number)}


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m lesion_utils", description="The study's verbs; `make` lists them.")
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="verb")

    def add(name: str, act: Callable[[argparse.Namespace], int | None], what: str) -> argparse.ArgumentParser:
        verb = verbs.add_parser(name, help=what, description=what)
        verb.set_defaults(act=act)
        return verb

    step = add("run", run, "run one step, unless it is up to date")
    step.add_argument("step")
    for verb in (
        add("keys", write_keys, "write what each step depends on, for make"),
        step,
        add("why", tell_why, "say what would run, and why"),
        add("plan", tell_plan, "say how long it takes"),
        add("doctor", examine, "say what is missing"),
        add("verify", verify, "check every file of the report against its record, and of its published copy"),
        add("clean", clean, "remove what was generated"),
        add("select", select, "compare settings on the training images"),
        add("publish", publish, "copy a finished report to docs/"),
        add("paper", write_paper, "write what a manuscript takes from a report, as LaTeX"),
    ):
        verb.add_argument("study", nargs="?", default="demo", help="folder under params/ (default: demo)")
    add("readme", write_readme, "write the README's results from the published copies")
    add("box", write_box, "write the archive of embedded images from the challenge's files in DATA_DIR")
    add(
        "reference",
        write_reference,
        "write params/README.md, schemas, codemeta.json and the Colab badge",
    )
    both = add("compare", compare, "compare two reports, number by number")
    both.add_argument("a", type=Path, help="folder of a report")
    both.add_argument("b", type=Path, help="folder of another")
    both.add_argument("--outputs", action="store_true", help="compare the notebooks' outputs as well")
    hand_over = add("export", export, "write trained networks as folders that timm loads, each with a model card")
    hand_over.add_argument("study", nargs="?", default="demo", help="folder under params/ (default: demo)")
    hand_over.add_argument("--model", default="", help="network, network/regime or network/regime/seed (default: each)")
    hand_over.add_argument("--onnx", action="store_true", help="write model.onnx as well, checked on real images")
    hand_over.add_argument("--push", default="", help="repository on the hub that the network goes to: user/name")
    show = add("track", track, "write trainings and results to MLflow")
    show.add_argument("study", nargs="?", default="demo", help="folder under params/ (default: demo)")
    show.add_argument("--to", required=True, help="a folder, or the address of MLflow's server")
    score = add("predict", predict, "score a folder of photographs with a trained network")
    score.add_argument("study", nargs="?", default="demo", help="whose network, unless --model is a path")
    score.add_argument("--images", default="", help="folder of JPEG or PNG files")
    score.add_argument("--model", default="", help="network[/regime[/seed]], an exported folder, model.onnx or best.pt")
    labels = "CSV file with the columns image and label: what the scores are worth"
    score.add_argument("--labels", default="", help=labels)
    score.add_argument("--out", default="", help="where the scores go (default: predictions/<name of the folder>)")
    return parser.parse_args(arguments)


def write_readme(options: argparse.Namespace) -> None:
    from lesion_utils.report.readme import update_readme

    update_readme(project_root() / "README.md")


def write_reference(options: argparse.Namespace) -> None:
    from lesion_utils.config.reference import write_reference
    from lesion_utils.report.colab import write_badge
    from lesion_utils.report.crate import write_codemeta

    write_reference()
    write_codemeta()
    write_badge()


def write_box(options: argparse.Namespace) -> None:
    from lesion_utils.core.paths import data_dir
    from lesion_utils.data import box, make_box

    sha256 = make_box.make_box(data_dir(), box.BOX)
    state = "as before" if sha256 == box.SHA256 else "other bytes: put this hash into lesion_utils/data/box.py"
    print(f"box  lesion_utils/data/{box.BOX.name}  {box.BOX.stat().st_size:,} bytes  SHA-256 {sha256}  ({state})")


def write_keys(options: argparse.Namespace) -> None:
    from lesion_utils.config.load import load_study
    from lesion_utils.pipeline import graph

    study = Study(options.study)
    graph.write_keys(study, load_study(study.params_dir))


def run(options: argparse.Namespace) -> None:
    from lesion_utils.core.console import Console
    from lesion_utils.pipeline.execute import run_step

    run_step(options.step, options.study, console=Console())


def tell_why(options: argparse.Namespace) -> None:
    from lesion_utils.config.load import load_study
    from lesion_utils.pipeline import graph

    study = Study(options.study)
    print(graph.tell_why(study, load_study(study.params_dir)))


def tell_plan(options: argparse.Namespace) -> None:
    from lesion_utils.config.load import load_study
    from lesion_utils.pipeline import graph

    study = Study(options.study)
    print(graph.tell_plan(study, load_study(study.params_dir)))


def examine(options: argparse.Namespace) -> int:
    from lesion_utils.pipeline.doctor import examine_study

    findings = examine_study(Study(options.study))
    print("\n".join(map(str, findings)))
    return int(any(finding.state == "wrong" for finding in findings))


def select(options: argparse.Namespace) -> None:
    from lesion_utils.config.load import load_study
    from lesion_utils.core.console import Console, describe_event
    from lesion_utils.training.select import list_trainings, select_settings

    study, console = Study(options.study), Console()
    params = load_study(study.params_dir)
    with console.show_step("select", lambda: ""):
        if os.environ.get("JOBS") or os.environ.get("CLUSTER"):
            from lesion_utils.training.ahead import train_ahead

            for failed, error in train_ahead(list_trainings(study, params), console=console).items():
                console.report(f"{failed}: {error}")
        select_settings(
            study, params, on_event=lambda e: console.show_count(f"{e['candidate']}: {describe_event(e)}", 0, 0)
        )
    console.report(f"reports/{study.name}/selection.md")


def verify(options: argparse.Namespace) -> int:
    from lesion_utils.provenance import verify

    study, copy = Study(options.study), docs_root() / options.study
    paper, name = study.report_dir / "paper", study.name
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
    from lesion_utils.report import compare

    comparison = compare.compare_reports(options.a, options.b)
    print(compare.describe_comparison(comparison, outputs=options.outputs))
    page = reports_root() / f"compare_{options.a.name}_{options.b.name}.html"
    print(f"page  {compare.write_comparison(comparison, page, outputs=options.outputs)}")


def publish(options: argparse.Namespace) -> None:
    from lesion_utils.config.load import load_study
    from lesion_utils.report import publish

    study = Study(options.study)
    folder = publish.publish_study(study, load_study(study.params_dir)).relative_to(project_root())
    write_readme(options)
    print(f"{folder}/index.html\nnext: git add docs README.md, and commit it")


def write_paper(options: argparse.Namespace) -> None:
    from lesion_utils.config.load import load_study
    from lesion_utils.report.paper import write_paper

    study = Study(options.study)
    print(write_paper(study, load_study(study.params_dir)))


def clean(options: argparse.Namespace) -> None:
    from lesion_utils.pipeline.clean import clean_study

    for folder in clean_study(Study(options.study)):
        print(f"removed {folder}")


def export(options: argparse.Namespace) -> None:
    from lesion_utils.core.console import Console
    from lesion_utils.release.export import export_study

    console = Console()
    with console.show_step("export", lambda: ""):
        what = {"onnx": options.onnx, "push": options.push}
        folders = export_study(Study(options.study), options.model, **what, on_progress=console.show_count)
    print("\n".join(f"model  {folder}" for folder in folders))


def track(options: argparse.Namespace) -> None:
    from lesion_utils.release.track import track_study

    print(track_study(Study(options.study), options.to))


def predict(options: argparse.Namespace) -> None:
    from lesion_utils.config.load import load_study
    from lesion_utils.core.console import Console
    from lesion_utils.release import judge
    from lesion_utils.release import predict as scoring

    console, folder = Console(), scoring.find_folder(options.images)
    params = load_study(Study(options.study).params_dir)
    out = Path(options.out) if options.out else project_root() / "predictions" / folder.resolve().name
    with console.show_step("predict", lambda: ""):
        network, about = scoring.open_model(options.model, Study(options.study))
        scored = scoring.score_folder(folder, network, on_progress=console.show_count)
        scores = scoring.write_scores(scored, out)
        sheet = scoring.write_contact_sheet(scored, network, about, out)
    print(scoring.describe_problems(scored), end="", file=sys.stderr)
    print(f"{scoring.describe_scores(scored, about)}\nscores  {scores}\nsheet   {sheet}")
    if options.labels:
        threshold = judge.find_threshold(network, about)
        judged = judge.judge_folder(scored, options.labels, params.comparison, threshold=threshold)
        print(f"measures {judge.write_measures(judged, out)}\n{judge.describe_judged(judged)}")
