"""A small report tree with made-up contents, for the tests of the pages, of verify and of compare.

Every number in it is a fixture: it has the shape of a real report and none of its truth.
"""

from __future__ import annotations

import base64
import hashlib
import io
import json
import shutil
import tempfile
from functools import cache
from pathlib import Path

import nbformat
import numpy as np
import pytest
from matplotlib.figure import Figure
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output
from PIL import Image
from small_project import STEPS

from lesion_utils.config.load import load_study
from lesion_utils.config.schema import StudyParams
from lesion_utils.core import paths
from lesion_utils.core.files import digest_file, dump_json
from lesion_utils.core.paths import Study
from lesion_utils.core.run_files import write_done
from lesion_utils.core.seal import seal_record
from lesion_utils.pipeline.graph import mark_done
from lesion_utils.provenance import steps
from lesion_utils.report.index import build_site
from lesion_utils.report.notebook_pages import write_notebook_page

ROOT = Path(__file__).resolve().parent.parent

HOSTILE = "<script>alert('caption')</script> & \"quotes\""
SUMMARY = "fixture: 180 images (120 training, 60 test)"
TITLES = {
    "01_eda": "What is in the data",
    "02_augmentation_preview": "What augmentation does to an image",
    "03_resnet50_finetune": "ResNet50, three regimes",
    "04_vgg19_finetune": "VGG19, three regimes",
    "05_comparison": "The two networks compared",
}


@cache
def _build_once() -> tempfile.TemporaryDirectory:
    """A project with two finished reports, made once per run of the tests."""
    folder = tempfile.TemporaryDirectory(prefix="fake-report-")
    with pytest.MonkeyPatch.context() as monkeypatch:
        make_fake_project(Path(folder.name), monkeypatch, studies=("demo", "other"))
        for i, name in enumerate(("demo", "other")):
            write_fake_report(Study(name), seed=i, shift=0.02 * i)
            write_index(Study(name))
    return folder


def copy_fake_project(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project of the test's own with the reports of `demo` and `other` in it."""
    shutil.copytree(_build_once().name, folder, dirs_exist_ok=True)
    use_project(folder, monkeypatch)
    return folder


def use_project(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the package take `folder` for the project."""
    for module in (paths, steps):
        monkeypatch.setattr(module, "project_root", lambda: folder)
    monkeypatch.delenv("REPORTS_DIR", raising=False)


def make_fake_project(folder: Path, monkeypatch, *, studies: tuple[str, ...] = ("demo",)) -> Path:
    """A project of its own for a test: the demo's parameters under each study's name, and five small notebooks."""
    for study in studies:
        shutil.copytree(ROOT / "params" / "demo", folder / "params" / study)
    code = new_code_cell("from lesion_utils import paths", id="setup")
    for step, title in TITLES.items():
        notebook = new_notebook(cells=[new_markdown_cell(f"# {title}", id="title"), code])
        _write(folder / "notebooks" / f"{step}.ipynb", nbformat.writes(notebook))
    use_project(folder, monkeypatch)
    return folder


def write_fake_report(study: Study, *, seed: int = 0, shift: float = 0.0) -> Path:
    """Write a whole report but its index, with records that agree with the project as it is.

    Args:
        study: of the project that `make_fake_project` made.
        seed: of the figures' contents.
        shift: added to every headline value and interval.
    """
    rng, folder, params = np.random.default_rng(seed), study.report_dir, load_study(study.params_dir)
    write_record(study, "data", [_write_manifest(folder)], params=params)
    for number, (step, title) in enumerate(TITLES.items(), start=1):
        paths = [*_write_figures(folder, step, rng), _write_notebook(folder, step, title, rng)]
        if step == "05_comparison":
            paths += _write_metrics(folder, shift)
        else:
            paths.append(_write(folder / "metrics" / f"{step}.json", json.dumps({"images": 180})))
        if network := STEPS[step].network:
            paths.append(_write_predictions(folder, network, rng))
            write_run(study, step)
        page = folder / "html" / f"{step}.html"
        paths.append(write_notebook_page(folder / "notebooks" / f"{step}.ipynb", page, study=study.name))
        write_record(study, step, paths, number=number, params=params)
    return folder


def write_run(study: Study, step: str, name: str = "finetune-seed1-0123") -> Path:
    """Write the folder of a finished training run."""
    folder = study.runs / step / name
    history = '{"seconds": 30.5, "seconds_validation": 2}\n'
    for file, text in {"best.pt": "weights", "history.jsonl": history, "predictions.csv": "scores"}.items():
        _write(folder / file, text)
    write_done(folder, {"network": STEPS[step].network})
    return folder


def edit_json(path: Path, **changes) -> None:
    """Change entries of a JSON file."""
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def write_index(study: Study) -> Path:
    """Make the index page and its record, as the last step of a run does."""
    params = load_study(study.params_dir)
    page = build_site(study, params)
    write_record(study, "index", [page, page.with_name("explore.html")], number=6, params=params)
    return page


def write_record(
    study: Study, step: str, files: list[Path], *, number: int = 0, params: StudyParams | None = None
) -> Path:
    """Write `runs/<step>/run.json`: the present key of the step, the hashes of `files`, of its logs and its runs."""
    if step not in ("data", "index"):
        about = params or load_study(study.params_dir)
        used = {name: getattr(about, name).model_dump(mode="json") for name in STEPS[step].uses}
        files = [*files, _write(study.runs / step / "params.json", dump_json({"study": study.name, **used}))]
        files = [*files, _write(study.runs / step / "train.jsonl", '{"epoch": 1}\n')]
    key = steps.compute_key(STEPS[step], params or load_study(study.params_dir))
    network = STEPS[step].network
    data = {"source": "isic2016", "content_hash": "cc" * 32, "description": SUMMARY}
    record = {
        "schema_version": 1, "run_id": f"{step}-0123abcd", "step": step, "study": study.name,
        "title": (TITLES | {"data": "The data", "index": "The report"}).get(step), "status": "ok",
        "started": f"2026-03-01T10:{number:02d}:00Z", "ended": f"2026-03-01T10:{number:02d}:42Z",
        "wall_seconds": 42.25 + 1000 * number, "peak_memory_bytes": 1_500_000_000,
        "commit": "0123456789abcdef0123456789abcdef01234567", "dirty_hash": None, **key, "data": data,
        "packages": {"python": "3.11.2", **steps.read_versions()}, "lock_hash": "dd" * 32,
        "device": {"type": "cpu", "name": "Fixture CPU", "threads": 2},
        "determinism": {"level": "exact" if network else None, "warned_ops": []},
        "seeds": {"data.seed": 2016} | ({f"{network}.seeds": [0, 1]} if network else {}),
        "inputs": steps.hash_inputs(study, STEPS[step]),
        "outputs": [_describe(study.report_dir, path) for path in sorted(set(files))],
        "runs": {path.parent.name: digest_file(path) for path in (study.runs / step).glob("*/DONE")},
    }  # fmt: skip
    mark_done(study, STEPS[step], key, record["inputs"], started=1.0)
    return _write(study.runs / step / "run.json", dump_json(seal_record(record)))


def _describe(folder: Path, path: Path) -> dict:
    body = path.read_bytes()
    name = path.relative_to(folder).as_posix()
    return {"path": name, "sha256": hashlib.sha256(body).hexdigest(), "bytes": len(body)}


def _write_manifest(folder: Path) -> Path:
    subsets = {"train": {"benign": 97, "malignant": 23}, "test": {"benign": 48, "malignant": 12}}
    manifest = {"source": "isic2016", "content": "cc" * 32, "summary": SUMMARY, "subsets": subsets}
    return _write(folder / "data" / "manifest.json", json.dumps(manifest | {"images": {"ISIC_0000000": "ee" * 32}}))


def _write_figures(folder: Path, step: str, rng: np.random.Generator) -> list[Path]:
    paths, hostile = [], f" {HOSTILE}" if step == "01_eda" else ""
    for place, name in enumerate(("curve", "examples") if step.startswith(("01", "02")) else ("curve",)):
        figure = Figure(figsize=(3.5, 2.4), dpi=100)
        axes = figure.subplots()
        axes.plot(rng.normal(size=30).cumsum())
        axes.set(xlabel="epoch", ylabel="fixture", title="fixture")
        base = folder / "figures" / f"{step}_{name}"
        base.parent.mkdir(parents=True, exist_ok=True)
        for ending in (".png", ".svg"):
            figure.savefig(base.with_suffix(ending), metadata={"Date": None} if ending == ".svg" else None)
        sidecar = {
            "step": step, "name": name, "place": place, "shows_images": name == "examples",
            "caption": f"A random walk of thirty steps, standing in for a figure of {step}.{hostile}",
            "alt": f"Line chart of a random walk, a fixture for {step}.{hostile}", "run_id": f"{step}-0123abcd",
        }  # fmt: skip
        paths += [base.with_suffix(".png"), base.with_suffix(".svg")]
        paths.append(_write(base.with_suffix(".json"), json.dumps(sidecar)))
    return paths


def _write_notebook(folder: Path, step: str, title: str, rng: np.random.Generator) -> Path:
    picture = io.BytesIO()  # that is no figure's
    Image.fromarray(rng.integers(0, 256, (60, 80, 3), np.uint8)).save(picture, "PNG")
    image = base64.b64encode(picture.getvalue()).decode()
    table = (
        "<table><thead><tr><th>model</th><th>AP</th></tr></thead><tbody><tr><td>a</td><td>0.5</td></tr></tbody></table>"
    )
    outputs = [
        new_output("stream", name="stdout", text="epoch 1  <b>not bold</b>\n"),
        new_output("display_data", {"image/png": image, "text/plain": "<Figure>"}),
        new_output("execute_result", {"text/html": table, "text/plain": "table"}, execution_count=1),
    ]
    code = "study.save_figure(fig, 'curve', 'A caption')\nprint('<b>not bold</b>')"
    cells = [
        new_markdown_cell(f"# {title}\n\nThe question, in one paragraph.", id="title"),
        new_code_cell("params = '../params/demo'", id="params", metadata={"tags": ["parameters"]}),
        new_markdown_cell("## Curves\n\nWhat to look for.", id="text"),
        new_code_cell(code, id="figure", execution_count=1, outputs=outputs),
        new_markdown_cell("## Summary\n\nNumbers with intervals.", id="summary"),
    ]
    notebook = new_notebook(cells=cells, metadata={"language_info": {"name": "python"}})
    return _write(folder / "notebooks" / f"{step}.ipynb", nbformat.writes(notebook) + "\n")


def _write_metrics(folder: Path, shift: float) -> list[Path]:
    rows = [("ResNet50, fine-tuned", 0.61), ("VGG19, fine-tuned", 0.64), ("VGG19 minus ResNet50", 0.03)]
    headline = [
        {"label": label, "metric": "AUC", "value": v, "low": v - 0.08, "high": v + 0.07, "n": 60}
        for label, v in ((label, value + shift) for label, value in rows)
    ]
    sentence = "VGG19 is 0.03 ahead of ResNet50 in AUC (95 % interval −0.05 to 0.10): a fixture's sentence."
    metrics = {"headline": headline, "sentences": [sentence]}
    table = "model,regime,auc,low,high\nresnet50,finetune,0.61,0.53,0.68\nvgg19,finetune,0.64,0.56,0.71\n"
    return [
        _write(folder / "metrics" / "05_comparison.json", json.dumps(metrics)),
        _write(folder / "metrics" / "05_comparison_results.csv", table),
    ]


def _write_predictions(folder: Path, network: str, rng: np.random.Generator) -> Path:
    lines = ["image_id,split,model,regime,seed,target,logit,probability"]
    for i, logit in enumerate(rng.normal(size=60)):
        scores = f"{int(i % 5 == 0)},{logit:.9g},{1 / (1 + np.exp(-logit)):.9g}"
        lines.append(f"ISIC_{i:07d},test,{network},finetune,0,{scores}")
    return _write(folder / "predictions" / f"{network}.csv", "\n".join(lines) + "\n")


def _write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path
