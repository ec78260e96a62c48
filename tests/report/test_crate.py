"""What other programs read: the crate names every file of a published report, and who made it from what."""

from __future__ import annotations

import json

import pytest
from rocrate.rocrate import ROCrate
from small_project import STEPS

from lesion_utils.core.files import digest_file
from lesion_utils.provenance.verify import SUMS, verify_copy
from lesion_utils.report.crate import CRATE, PROFILE
from lesion_utils.report.publish import publish_study


@pytest.fixture
def copy(study, params):
    return publish_study(study, params)


def read_graph(folder) -> dict[str, dict]:
    return {entity["@id"]: entity for entity in json.loads((folder / CRATE).read_text())["@graph"]}


def test_every_file_of_a_copy_is_in_the_crate_with_its_hash(copy):
    files = {name: entity for name, entity in read_graph(copy).items() if entity["@type"] == "File"}
    there = {path.relative_to(copy).as_posix() for path in copy.rglob("*") if path.is_file()}
    assert set(files) == there - {CRATE, SUMS}
    assert all(digest_file(copy / name) == entity["sha256"] for name, entity in files.items())
    assert all(finding.is_clean for finding in verify_copy(copy)), "the crate itself is listed"


def test_each_step_is_an_action_that_says_what_it_read_and_made(copy):
    graph = read_graph(copy)
    assert graph["./"]["conformsTo"] == {"@id": PROFILE}
    actions = [graph[mention["@id"]] for mention in graph["./"]["mentions"]]
    assert [action["instrument"]["@id"] for action in actions] == [f"#software-{step}" for step in STEPS]
    trained = actions[list(STEPS).index("03_resnet50_finetune")]
    assert {"@id": "predictions/resnet50.csv"} in trained["result"]
    assert graph[trained["instrument"]["@id"]]["version"]
    assert trained["startTime"] <= trained["endTime"] <= graph["./"]["datePublished"]


def test_the_crate_is_whole_and_reads_back(copy):
    """Whatever an entity points to inside the crate is there, and the library reads what it wrote."""
    graph = read_graph(copy)
    values = (value for entity in graph.values() for value in entity.values())
    links = [
        link["@id"] for value in values for link in (value if isinstance(value, list) else [value]) if "@id" in link
    ]
    outside = {link for link in links if link not in graph}
    assert all(link.startswith("https://") for link in outside), outside
    assert len(ROCrate(copy).root_dataset["mentions"]) == len(STEPS)


def test_the_same_report_gives_the_same_crate(copy, study, params):
    before = (copy / CRATE).read_bytes()
    assert (publish_study(study, params) / CRATE).read_bytes() == before
