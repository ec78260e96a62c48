"""The report's index page: everything a co-author needs, in one file that asks nothing of the network."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lesion_utils.config.schema import StudyParams
from lesion_utils.core.console import format_duration
from lesion_utils.core.events import OnEvent
from lesion_utils.core.files import dump_json, write_if_changed
from lesion_utils.core.names import find_architecture, name_data_set
from lesion_utils.core.paths import Study
from lesion_utils.provenance.verify import Finding, describe_verdict, verify_study
from lesion_utils.report.content import Figure, Report, scores_images
from lesion_utils.report.explore import write_explorer
from lesion_utils.report.pages import describe_value, format_bytes, format_date, name_credit, render_page

#: The step that the results come from.
COMPARISON = "05_comparison"
#: How the settings were chosen; reports of earlier versions have it as Markdown alone.
SELECTION_PAGES = ("html/selection.html", "selection.md")
PROMISES = {
    "exact": "On a processor of the same family, model and stepping, with the same number of threads and the same lock "
    "file, predictions and metrics are identical byte for byte.",
    "device": "On a GPU of the same model with the same lock file, predictions are identical, except for operations "
    "that are listed under Environment.",
    "fast": "On any machine, the numbers lie within the stated intervals; `make compare` checks this.",
}
REFERENCES = {
    "isic2016": "Gutman D, Codella NCF, Celebi E, et al. Skin lesion analysis toward melanoma detection: a challenge "
    "at ISBI 2016. arXiv:1605.01397, 2016.",
    "resnet50": "He K, Zhang X, Ren S, Sun J. Deep residual learning for image recognition. CVPR 2016, 770–778.",
    "vgg19": "Simonyan K, Zisserman A. Very deep convolutional networks for large-scale image recognition. ICLR 2015.",
    "timm": "Wightman R. PyTorch image models (timm). 2019. doi:10.5281/zenodo.4414861.",
}


def build_site(
    study: Study,
    params: StudyParams,
    *,
    on_event: OnEvent = lambda event: None,
    folder: Path | None = None,
    photographs: bool = True,
    scores: bool = True,
) -> Path:
    """Write a report's `index.html` and, if scores may be shown, its `explore.html`.

    Args:
        on_event: called when the check of all files begins.
        folder: where the page goes; the report's own folder by default.
        photographs: whether the page may show images of the data set.
        scores: whether it may show scores of single images.

    Returns:
        the page's path.
    """
    report = Report(study.report_dir)
    on_event({"stage": "checking every file", "done": 0, "total": 0})
    findings = verify_study(study, skip=("index",))
    content = _collect(report, params, findings)
    tables = [path.name for path in report.tables if scores or not scores_images(path)]
    content |= {"report": report, "photographs": photographs, "scores": scores, "tables": tables}
    explorer = write_explorer(study, params, folder or study.report_dir, photographs=photographs) if scores else None
    content["explorer"] = explorer.name if explorer else None
    page = render_page("report.html.j2", **content)
    path = (folder or study.report_dir) / "index.html"
    write_if_changed(path, page)
    return path


def _collect(report: Report, params: StudyParams, findings: list[Finding]) -> dict[str, Any]:
    """What the template shows of a report, beside the report itself."""
    runs = {step: run for step, run in report.runs.items() if step != "index"}
    verdict = describe_verdict(findings)
    commit, dirty = _name_commit(runs)
    title = params.data.title
    cited = {find_architecture(network.backbone) for network in params.networks.values()}
    cited |= {"timm", *(["isic2016"] if params.data.is_challenge else [])}
    date = max((run.get("ended") or "" for run in runs.values()), default="")
    citation = f"{title}. Report of the study “{report.study}”, commit {commit[:10]}{dirty}, {format_date(date)}."
    return {
        "credit": name_credit(params.data.source),
        "title": title,
        "remarks": params.data.remarks,
        "facts": _list_facts(report, runs, verdict, date),
        "steps": [_describe_step(report, step, run) for step, run in runs.items()],
        "documents": sorted(path.name for path in report.folder.glob("*.md")),
        "selection": next((name for name in SELECTION_PAGES if (report.folder / name).is_file()), None),
        "again": name_command(report),
        "data": _list_data(report),
        "environment": _list_environment(runs),
        "packages": _last(runs, "packages") or {},
        "parameters": dump_json(params.hide_places().model_dump(mode="json")),
        "verdict": verdict,
        "findings": [f for f in findings if f.state != "unchanged"],
        "commands": _list_commands(report, commit),
        "promise": PROMISES.get((_last(runs, "determinism") or {}).get("level", ""), ""),
        "citation": citation,
        "references": [text for key, text in REFERENCES.items() if key in cited],
    }


def _last(runs: dict[str, dict[str, Any]], key: str) -> Any:
    """The value that tells most: of a step that trains where there is one, otherwise the latest."""
    ranked = sorted(runs, key=lambda step: bool(runs[step].get("weights")))
    return next((runs[step][key] for step in reversed(ranked) if runs[step].get(key)), None)


def _name_commit(runs: dict[str, dict[str, Any]]) -> tuple[str, str]:
    commits = list(dict.fromkeys(run["commit"] for run in runs.values() if run.get("commit")))
    dirty = " with uncommitted changes" if any(run.get("dirty_hash") for run in runs.values()) else ""
    return (commits[-1] if commits else "unknown"), dirty


def _list_facts(
    report: Report, runs: dict[str, dict[str, Any]], verdict: dict[str, str], date: str
) -> list[tuple[str, str, str, str]]:
    """The header's card: name, value, what more there is, and tone of each fact."""
    commit, dirty = _name_commit(runs)
    older = len({run.get("commit") for run in runs.values()}) - 1
    others = f", {older} other commit{'s' * (older > 1)} in earlier steps" if older > 0 else ""
    determinism = _last(runs, "determinism") or {}
    content = report.manifest.get("content") or "unknown"
    return [
        ("Verified", verdict["headline"], verdict["files"], verdict["tone"]),
        ("Data", _name_data(report), f"content {content[:12]}", ""),
        ("Weights", _name_weights(runs), "", ""),
        ("Commit", commit[:10], (dirty + others).strip(", "), ""),
        ("Date", format_date(date), f"{format_duration(report.seconds)} of computing", ""),
        ("Device", *_name_device(runs), ""),
        ("Determinism", determinism.get("level") or "unknown", _name_warned(determinism), ""),
        ("Seeds", _name_seeds(runs), "", ""),
    ]


def _name_data(report: Report) -> str:
    return ": ".join(filter(None, [name_data_set(report.manifest.get("source")), report.manifest.get("summary")]))


def _name_weights(runs: dict[str, dict[str, Any]]) -> str:
    """What each network started from."""
    names = []
    for run in runs.values():
        if weights := run.get("weights"):
            digest = f" ({weights['sha256'][:12]})" if weights.get("sha256") else ""
            names.append("random" if weights["name"] == "none" else f"{weights['name']}{digest}")
    return ", ".join(dict.fromkeys(names)) or "none"


def _name_device(runs: dict[str, dict[str, Any]]) -> tuple[str, str]:
    """The device's name, and what else was recorded about it."""
    device = dict(_last(runs, "device") or {})
    name = device.pop("name", "unknown")
    return name, describe_value(device)


def _name_seeds(runs: dict[str, dict[str, Any]]) -> str:
    seeds = {name: seed for run in runs.values() for name, seed in (run.get("seeds") or {}).items()}
    return "; ".join(f"{name.rpartition('.')[0]} {describe_value(seed)}" for name, seed in seeds.items())


def _name_warned(determinism: dict[str, Any]) -> str:
    warned = determinism.get("warned_ops") or []
    return f"not deterministic: {', '.join(warned)}" if warned else "every operation deterministic"


def name_command(report: Report) -> str:
    """The command that makes what a copy of a study's report lacks."""
    data = "DATA_DIR=/path/to/the/images " if report.manifest.get("source", "isic2016") == "isic2016" else ""
    return f"{data}make all STUDY={report.study}"


def _choose_figure(report: Report, step: str) -> Figure | None:
    """The one figure of a step that the page shows: its ROC curves, or else its first chart, or else its first."""
    own = [figure for figure in report.figures if figure.step == step]
    return min(own, key=lambda figure: (figure.name != "roc", figure.shows_images), default=None)


def _describe_step(report: Report, step: str, run: dict[str, Any]) -> dict[str, Any]:
    """A step as the page shows it: how it ended, one figure, and links to the files that are there."""
    logs = sorted(p.name for p in (report.folder / "runs" / step).glob("*.jsonl"))
    targets = {
        "page": f"html/{step}.html",
        "with code": f"html/{step}.html#code",
        "metrics": f"metrics/{step}.json",
        "params": f"runs/{step}/params.json",
        "run.json": f"runs/{step}/run.json",
        **{"log" if len(logs) == 1 else name: f"runs/{step}/{name}" for name in logs},
    }
    links = {k: v for k, v in targets.items() if (report.folder / v.partition("#")[0]).is_file()}
    return {
        "name": step,
        "title": run.get("title") or step,
        "page": links.get("page"),
        "figure": _choose_figure(report, step),
        "figures": sum(figure.step == step for figure in report.figures),
        "status": run.get("status", "unknown"),
        "seconds": report.count_seconds(step),
        "memory": run.get("peak_memory_bytes"),
        "links": links,
    }


def _list_data(report: Report) -> list[tuple[str, str]]:
    """The manifest's own facts, without its list of every image."""
    small = {k: v for k, v in report.manifest.items() if k != "images" and len(describe_value(v)) < 400}
    return [(key.replace("_", " ").capitalize(), describe_value(value)) for key, value in small.items()]


def _list_environment(runs: dict[str, dict[str, Any]]) -> list[tuple[str, str]]:
    packages = _last(runs, "packages") or {}
    main = {name: packages[name] for name in ("python", "torch", "torchvision", "timm", "numpy") if name in packages}
    peak = max((run.get("peak_memory_bytes") or 0 for run in runs.values()), default=0)
    return [
        ("Device", ", ".join(_name_device(runs))),
        ("Determinism", describe_value(_last(runs, "determinism"))),
        ("Software", describe_value(main)),
        ("Lock", _last(runs, "lock_hash") or "unknown"),
        ("Most memory", format_bytes(peak or None)),
    ]


def _list_commands(report: Report, commit: str) -> str:
    commands = [
        (f"git checkout {commit}", "the code that made this page"),
        (name_command(report), "what is missing or has changed runs, nothing else"),
        (f"make verify STUDY={report.study}", "every file against its record"),
        (f"make compare A=reports/{report.study} B=path/of/another/report", "number by number"),
    ]
    return "\n".join(f"{what:<62} # {why}" for what, why in commands)
