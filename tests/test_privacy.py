"""What a published study of own images gives away: no folder, user, host, patient or file name, in any of its files."""

from __future__ import annotations

import base64
import html
import io
import json
import platform
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote

import pandas as pd
import pytest
from challenge import read_dataset
from PIL import Image
from real_project import make_real_project, replace
from small_project import ROOT, make, run

from lesion_utils.data import box
from lesion_utils.data.challenge import FOLDERS
from lesion_utils.report.notebook_pages import HIDDEN

pytestmark = pytest.mark.slow

USER, FOLDER, CLINIC_FILE = "jane.q.roe", "Dermatology Patients 2024", "list of dr roe.csv"
SURNAMES = ("Abernathy", "Bergström", "Castellanos", "Dvořáková", "Eriksdóttir", "O'Flaherty", "Grünwald", "Hämäläinen")
#: How a machine's own folders begin, and what must not follow a name that ends in one.
ABSOLUTE = re.compile(r"(?<![\w.:/-])/(?:home|root|tmp|media|mnt|Users|var)/[\w.]")


def name_patient(number: int) -> str:
    return f"{SURNAMES[number % len(SURNAMES)]}, patient {number % 24}"


@pytest.fixture(scope="module")
def project(tmp_path_factory) -> Iterator[Path]:
    """A project in a person's folder with a study of own photographs, named after patients, and an external set."""
    home = tmp_path_factory.mktemp("home") / USER
    folder = make_real_project(home / "lesion study", "demo")
    images, study = home / FOLDER / "photographs", folder / "params" / "mine"
    table = read_dataset(box.open_box(), None).groupby(["split", "target"]).head(20)
    rows: dict[str, list[str]] = {"own": ["image,label,patient,site"], "external": ["image,label,site"]}
    for number, row in enumerate(table.itertuples()):
        name, kind = f"{SURNAMES[number % 8]} {1900 + number} arm", "external" if number % 5 == 0 else "own"
        (images / kind).mkdir(parents=True, exist_ok=True)
        with box.open_box().joinpath(f"{FOLDERS[row.split]}/{row.image_id}.webp").open("rb") as file:
            Image.open(file).resize((96, 72)).save(images / kind / f"{name}.png")
        rows[kind].append(f'{name}.png,{row.target},"{name_patient(number)}",S{number % 2}')
    rows["external"] = [re.sub(r',".*?"', "", line) for line in rows["external"]]
    for kind, lines in rows.items():
        (images / f"{kind} {CLINIC_FILE}").write_text("\n".join(lines), encoding="utf-8")
    shutil.copy(ROOT / "README.md", folder)
    shutil.copytree(folder / "params" / "demo", study)
    (study / "mobilenet.yaml").unlink()
    replace(study / "data.yaml", {"source: embedded": "source: folder"})
    with (study / "data.yaml").open("a", encoding="utf-8") as file:
        places = {kind: [f'"{images / kind}"', f'"{images / f"{kind} {CLINIC_FILE}"}"'] for kind in rows}
        file.write(f"images: {places['own'][0]}\nlabels: {places['own'][1]}\n")
        file.write(f"external:\n  S: {{images: {places['external'][0]}, labels: {places['external'][1]}}}\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("USER", USER)
        patch.setenv("LOGNAME", USER)
        done = make(folder, "all", "STUDY=mine")
        assert done.returncode == 0, done.stdout + done.stderr
        yield folder


@pytest.fixture(scope="module", params=[True, False], ids=["photographs", "no photographs"])
def copy(project, request) -> Path:
    """The study's published copy."""
    path = project / "params" / "mine" / "data.yaml"
    text = path.read_text(encoding="utf-8")
    allowed = "true" if request.param else "false"
    path.write_text(re.sub("publish_photographs: .*", f"publish_photographs: {allowed}", text), encoding="utf-8")
    done = run(project, "publish", "mine")
    assert done.returncode == 0, done.stdout + done.stderr
    return project / "docs" / "mine"


def read_everything(raw: bytes) -> Iterator[str]:
    """All texts in a file: as it is, unescaped, inside pictures, and inside what it holds in base64."""
    text = raw.decode("utf-8", "replace")
    yield from (
        text,
        html.unescape(text),
        unquote(text),
        re.sub(r"\\u(\w{4})", lambda code: chr(int(code[1], 16)), text),
    )
    for encoded in re.findall(r"base64,\s*([A-Za-z0-9+/=\s]{20,})", text):
        yield from read_everything(base64.b64decode(encoded))
    try:
        with Image.open(io.BytesIO(raw)) as image:
            yield str(image.info)
    except OSError:
        pass


def test_a_copy_names_no_folder_user_host_patient_or_file(copy, project):
    terms = [USER, FOLDER, "photographs/own", CLINIC_FILE, "lesion study", *SURNAMES]
    terms += [name for name in (platform.node(),) if len(name) > 3]
    spelled = {term: {term, term.replace(" ", "_"), json.dumps(term)[1:-1], html.escape(term)} for term in terms}
    found = [
        f"{path.relative_to(copy)}: {term}"
        for path in sorted(path for path in copy.parent.rglob("*") if path.is_file())
        for text in read_everything(path.read_bytes())
        for term, ways in spelled.items()
        if any(way in text or way in path.name for way in ways)
    ]
    found += [
        f"{path.relative_to(copy)}: {match[0]}"
        for path in sorted(copy.rglob("*.*"))
        if path.suffix in (".json", ".html", ".csv", ".md")
        for match in ABSOLUTE.finditer(re.sub(r"base64,[\w+/=]+", "", path.read_text(encoding="utf-8")))
    ]
    assert found == []
    names = (project / "reports" / "mine" / "data" / "images.csv").read_text(encoding="utf-8")
    assert all(surname in names for surname in SURNAMES), "the report itself has them"


def test_its_images_have_the_same_numbers_in_every_file_and_no_scores(copy, project):
    split = pd.read_csv(copy / "data" / "split.csv")
    assert split["image_id"].tolist() == [f"image_{n:04d}" for n in range(1, len(split) + 1)]
    manifest = json.loads((copy / "data" / "manifest.json").read_text())
    assert list(manifest["images"]) == split["image_id"].tolist()
    key = pd.read_csv(project / "reports" / "mine" / "data" / "images.csv")
    assert (
        key["file"].is_unique and key["file"].str.contains("arm.png").all() and not key["file"].is_monotonic_increasing
    )
    assert key["image_id"].tolist() == split["image_id"].tolist(), "the report's own table says which is which"
    assert not list(copy.glob("predictions/*")) and not list(copy.glob("metrics/*entry*"))
    for path in copy.rglob("*.csv"):
        assert not {"probability", "logit"} & set(pd.read_csv(path).columns) or "image" not in path.read_text(), (
            path.name
        )
    assert (project / "reports" / "mine" / "predictions" / "resnet50.csv").is_file()
    for page in ("03_resnet50_finetune", "04_vgg19_finetune"):  # whose photographs have their scores in them
        assert HIDDEN in (copy / "html" / f"{page}.html").read_text(encoding="utf-8"), page
