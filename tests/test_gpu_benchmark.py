"""`benchmarks/gpu.py` runs, here on the CPU: it waits for its first GPU and must not rot until then."""

from __future__ import annotations

import json

from benchmarks import gpu


def test_every_part_reports_or_says_what_it_lacks(monkeypatch, capsys):
    monkeypatch.setenv("DEVICE", "cpu")
    assert gpu.main(["--tiny"]) == 0
    told = {line["part"]: line for line in map(json.loads, capsys.readouterr().out.splitlines())}
    assert list(told) == list(gpu.PARTS)
    for part in ("smoke", "determinism", "resume", "traps", "sharing"):
        assert told[part]["ok"], told[part]
    assert len(told["smoke"]["runs"]) == 6 and told["sharing"]["same"]
    assert told["traps"]["names_have_threads"], "on a CPU the numbers depend on them"
    speeds = {"fixed", "training", "loader", "timm"}
    assert all(speeds <= row.keys() for row in told["speed"]["images_per_s"].values())
    lacking = {part for part, line in told.items() if line.get("skipped")}
    assert lacking == {"facts", "traps", "memory"}, "each names what only a GPU shows"
