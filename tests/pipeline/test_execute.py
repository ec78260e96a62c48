"""Running a step: never half done, always explained, always resumable. On a copy of the project with small steps."""

from __future__ import annotations

import io
import itertools
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import nullcontext, suppress
from pathlib import Path
from types import SimpleNamespace

import nbformat
import pytest
from filelock import FileLock, Timeout
from small_project import STEPS, clean_environment, make_project, run, write_notebook

from lesion_utils.config.load import load_study
from lesion_utils.core import console, settings
from lesion_utils.core.console import describe_event, format_clock, format_duration
from lesion_utils.core.paths import reports_root
from lesion_utils.pipeline import execute

STEP = "04_vgg19_finetune"
REPORT = Path("reports/demo")


@pytest.fixture(scope="module")
def project(tmp_path_factory) -> Path:
    """A project whose data are prepared."""
    folder = make_project(tmp_path_factory.mktemp("project"))
    done = run(folder, "run", "data")
    assert done.returncode == 0, done.stderr
    return folder


def run_code(project: Path, code: str) -> subprocess.CompletedProcess[str]:
    """Run the step with one code cell under the heading "Train"."""
    write_notebook(project, STEP, code, heading="Train")
    return run(project, "run", STEP)


def record(project: Path) -> dict:
    return json.loads((project / REPORT / "runs" / STEP / "run.json").read_text())


@pytest.mark.slow
def test_a_run_leaves_a_record_of_everything_and_nothing_of_this_machine(project):
    # A warning's text and a plot's file name are where a machine's folders get into notebooks.
    code = 'save("figures/04_vgg19_finetune_a.png", os.environ["LESION_RUN_ID"])\nprint(os.getcwd(), sys.prefix)'
    code += '\nimport warnings, tqdm.auto; warnings.warn("w")\nsave("predictions/vgg19.csv", "1")'
    code += f'\nsave("runs/{STEP}/train.jsonl", json.dumps({{"remark": "a run is trained again"}}) + "\\n")'
    done = run_code(project, code)
    assert done.returncode == 0, done.stderr
    assert re.fullmatch(rf"a run is trained again\n{STEP} +ok +\d+ s\n", done.stdout)
    run_json = record(project)
    figure = project / REPORT / "figures" / f"{STEP}_a.png"
    assert figure.read_text() == run_json["run_id"]
    assert run_json["status"] == "ok" and run_json["reasons"] and all(isinstance(r, str) for r in run_json["reasons"])
    assert [o["path"] for o in run_json["outputs"]] == [
        f"figures/{STEP}_a.png", f"html/{STEP}.html", f"notebooks/{STEP}.ipynb", "predictions/vgg19.csv",
        f"runs/{STEP}/params.json", f"runs/{STEP}/train.jsonl",
    ]  # fmt: skip
    of_the_text_1 = "6b86b273ff34fce19d6b804eff5a3f5747ada4eaa22f1d49c01e52ddb7875b4b"
    assert run_json["outputs"][3]["sha256"] == of_the_text_1
    assert run_json["inputs"].keys() == {"data/manifest.json"}
    assert run_json["seeds"] == {"data.seed": 2016, "vgg19.seeds": [1]}
    assert run_json["peak_memory_bytes"] > 30 * 2**20, "a kernel alone takes more than that"
    assert run_json["wall_seconds"] > 0.5
    texts = {path: path.read_text(errors="replace") for path in (project / REPORT).rglob("*") if path.is_file()}
    words = [str(project), sys.prefix, str(Path.home()) + "/", os.uname().nodename + " ", "ipykernel_"]
    found = [(str(path.relative_to(project)), word) for path, text in texts.items() for word in words if word in text]
    assert not found
    executed = nbformat.read(project / REPORT / "notebooks" / f"{STEP}.ipynb", as_version=4)
    assert executed.metadata.papermill.input_path == f"./{REPORT}/notebooks/{STEP}.partial.ipynb"
    assert "./notebooks <env>" in executed.cells[-1].outputs[0].text
    assert "IProgress" not in str(executed.cells[-1].outputs), "a progress bar asked for widgets on the page"
    injected = next(c for c in executed.cells if "injected-parameters" in c.metadata.get("tags", []))
    assert '"study": "demo"' in injected.source


@pytest.mark.slow
def test_a_failed_cell_is_explained_and_its_notebook_kept(project):
    old = project / REPORT / "figures" / f"{STEP}_old.png"  # of the last success
    old.parent.mkdir(exist_ok=True)
    old.write_text("old")
    done = run_code(project, 'save("figures/04_vgg19_finetune_new.png", "new")\nprint(1/0)')
    assert done.returncode == 1
    lines = done.stderr.splitlines()
    assert re.fullmatch(rf'{STEP} failed in cell 4 "Train" after 00:00:\d\d', lines[0])
    assert lines[1] == "  ZeroDivisionError: division by zero"
    assert f"  notebook  reports/demo/notebooks/{STEP}.partial.ipynb" in lines
    assert lines[-1] == "  resume with: make all STUDY=demo"
    partial = nbformat.read(project / REPORT / "notebooks" / f"{STEP}.partial.ipynb", as_version=4)
    assert any("ZeroDivisionError" in str(cell.get("outputs")) for cell in partial.cells)
    assert record(project)["status"] == "failed"
    assert old.is_file(), "the last success stays readable"
    assert f"{STEP} runs because it failed" in run(project, "why").stdout
    # ... and when it succeeds again, neither the partial copy nor the figure that nobody draws now are left.
    assert run_code(project, 'save("predictions/vgg19.csv", "2")').returncode == 0
    assert not (project / REPORT / "notebooks" / f"{STEP}.partial.ipynb").exists()
    assert not list((project / REPORT / "figures").glob(f"{STEP}_*"))


@pytest.mark.slow
@pytest.mark.fault("kills", "a step that fails after an earlier success", "`make verify` knows the earlier files")
def test_the_record_of_a_failed_step_accounts_for_the_files_of_its_last_success(project):
    good = 'save("predictions/vgg19.csv", "2")\nsave("figures/04_vgg19_finetune_a.png", "a")'
    assert run_code(project, good).returncode == 0
    before = record(project)
    for bad in (f"{good}\n1/0", "1/0", f"os.kill({os.getpid()}, 0); save('predictions/vgg19.csv', '3'); 1/0"):
        assert run_code(project, bad).returncode == 1
        after = record(project)
        assert after["status"] == "failed" and after["inputs"] == before["inputs"], bad
        own = [output for output in after["outputs"] if not output["path"].startswith("runs/")]
        assert own == [output for output in before["outputs"] if not output["path"].startswith("runs/")]
        assert after["notebook"] == before["notebook"]
        said = run(project, "verify", "demo").stdout
        assert re.search(rf"failed +runs/{STEP}/run.json", said), said
        mine = [line for line in said.splitlines() if "04_vgg19" in line or "vgg19.csv" in line]
        assert not any("not recorded" in line or "changed by hand" in line for line in mine), said
    assert run_code(project, good).returncode == 0
    assert "04_vgg19" not in run(project, "verify", "demo").stdout


@pytest.mark.slow
def test_an_error_of_the_package_is_shown_whole(project):
    code = "from lesion_utils.core.errors import DataError"
    done = run_code(project, f"{code}\nraise DataError('w', where='x', do='do this')")
    assert "\n  x: w\n    do next   do this\n" in done.stderr


#: What Python, NumPy and torch themselves say where there is no more.
LIMIT = "import resource; resource.setrlimit(resource.RLIMIT_AS, (1 << 33, 1 << 33))"


@pytest.mark.slow
@pytest.mark.parametrize(
    "code",
    [
        'raise RuntimeError("CUDA out of memory. Tried to allocate 20.00 MiB")',
        "import signal\nos.kill(os.getpid(), signal.SIGKILL)",
        pytest.param(f"{LIMIT}\nbytearray(1 << 34)", marks=pytest.mark.long),
        pytest.param(f"{LIMIT}\nimport numpy\nnumpy.ones(1 << 31)", marks=pytest.mark.long),
        pytest.param(f"import torch\n{LIMIT}\ntorch.ones(1 << 32)", marks=pytest.mark.long),
    ],
)
@pytest.mark.fault("training", "no memory left: an error, or the kernel is killed", "said, with the batch size to try")
def test_when_memory_runs_out_the_message_says_what_to_lower(project, code):
    done = run_code(project, code)
    assert done.returncode == 1
    assert done.stderr.startswith(f'{STEP} failed in cell 4 "Train" after ')
    size = load_study(project / "params" / "demo").vgg19.batch_size // 2
    assert f"try batch_size: {size} with accumulation: 2 in params/demo/vgg19.yaml" in done.stderr


def start_run(project: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "lesion_utils", "run", STEP],
        cwd=project,
        env=clean_environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        # Where these tests run in the background, they were started with Ctrl-C ignored.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )


def start(project: Path, code: str) -> subprocess.Popen[str]:
    """Start the step, and return when its cell has begun."""
    begun = project / REPORT / "predictions" / "begun"
    begun.unlink(missing_ok=True)
    write_notebook(project, STEP, f'save("predictions/begun", str(os.getpid()))\n{code}')
    process = start_run(project)
    wait_for(lambda: process.poll() is not None or (begun.is_file() and begun.read_text()), "it did not begin")
    assert process.poll() is None, process.communicate()
    return process


def wait_for(condition: Callable[[], object], otherwise: str) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline, otherwise
        time.sleep(0.05)


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc").is_dir(), reason="needs /proc")
@pytest.mark.parametrize(
    ("number", "group"),
    [(signal.SIGINT, False), (signal.SIGTERM, False), (signal.SIGTERM, True), (signal.SIGKILL, False)],
)
@pytest.mark.fault("kills", "the runner or its group, by KILL, TERM or INT", "no kernel is left; the step runs again")
def test_a_stopped_run_is_not_taken_for_done(project, tmp_path, number, group):
    own = shutil.copytree(project, tmp_path / "own")  # what the run before has left must not matter
    process = start(own, "time.sleep(120)")
    kernel = int((own / REPORT / "predictions" / "begun").read_text())
    for _ in range(2 if number == signal.SIGTERM else 1):  # asked to end, and again while it ends
        os.killpg(process.pid, number) if group else process.send_signal(number)
        time.sleep(0.05)
    out, err = process.communicate(timeout=60)
    killed = number == signal.SIGKILL
    assert process.returncode == (-9 if killed else 130) and out == ""
    assert killed or err.strip() == f"{STEP} was interrupted; go on with: make all STUDY=demo"
    wait_for(lambda: not is_alive(kernel), "the kernel outlived its run")
    assert not (own / REPORT / "keys" / f"{STEP}.done.json").exists()
    assert (own / REPORT / "notebooks" / f"{STEP}.partial.ipynb").is_file()
    assert f"{STEP} runs because it was {'killed' if killed else 'interrupted'}" in run(own, "why").stdout


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc").is_dir(), reason="needs /proc")
@pytest.mark.fault("kills", "the runner, by TERM, while its kernel starts", "no kernel is left, and none complains")
def test_a_kernel_that_was_only_starting_ends_with_its_run(project, tmp_path):
    own = shutil.copytree(project, tmp_path / "own")
    at_start = "import os, sys, time\nif 'ipykernel_launcher' in sys.orig_argv:\n    "
    (own / "sitecustomize.py").write_text(f"{at_start}open('starts', 'w').write(str(os.getpid()))\n    time.sleep(3)\n")
    process = start_run(own)
    starts = own / "notebooks" / "starts"
    wait_for(lambda: starts.is_file() and starts.read_text(), "its kernel did not start")
    process.terminate()
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (130, "")
    assert err.strip() == f"{STEP} was interrupted; go on with: make all STUDY=demo"
    assert not is_alive(int(starts.read_text()))


@pytest.mark.slow
@pytest.mark.fault("kills", "the kernel alone, by INT, in a cell or between two", "goes on")
def test_an_interrupt_of_the_kernel_alone_is_ignored(project):
    """Between two cells, ipykernel would lose the request, and the run would wait for its answer for ever."""
    done = run_code(project, "os.kill(os.getpid(), 2); time.sleep(0.5)\nsave('predictions/vgg19.csv', '4')")
    assert done.returncode == 0, done.stderr
    assert (project / REPORT / "predictions" / "vgg19.csv").read_text() == "4"


@pytest.mark.slow
@pytest.mark.fault("together", "two runs of one step", "the work is done once")
def test_two_runs_of_a_step_at_once_do_the_work_once(project):
    code = 'save("predictions/vgg19.csv", "3"); time.sleep(2)'
    first = start(project, code)
    second = run(project, "run", STEP)
    assert first.wait() == 0
    assert second.stdout == f"{STEP}        up to date\n"


# --- the parts --------------------------------------------------------------------------------------------------------


@pytest.mark.fault("kills", "a step that fails after an earlier success", "the earlier files return")
def test_earlier_outputs_return_when_a_run_fails(study):
    step = STEPS["01_eda"]
    names = ("01_eda_old", "01_eda_both", "02_augmentation_preview_a")
    old, both, other = (study.figures / f"{name}.png" for name in names)
    new = study.figures / "01_eda_new.png"
    old.parent.mkdir(parents=True)
    for path in (old, both, other):
        path.write_text("before")
    with pytest.raises(RuntimeError), execute.set_aside(study, step):
        assert not old.exists()
        both.write_text("after")
        new.write_text("after")
        raise RuntimeError
    assert (old.read_text(), both.read_text(), other.read_text()) == ("before", "before", "before")
    assert not new.exists()
    with execute.set_aside(study, step):
        both.write_text("again")
    assert (old.exists(), both.read_text(), other.read_text()) == (False, "again", "before")


@pytest.mark.parametrize("step", [STEPS["01_eda"], STEPS["data"]], ids=lambda step: step.name)
@pytest.mark.fault("kills", "a step that had overwritten earlier files", "the earlier files return, each as it was")
def test_what_a_killed_run_had_overwritten_returns_however_often_it_is_killed(study, monkeypatch, step):
    """Killed at each file that set_aside and the return of the files touch; then a run that fails."""
    folder = study.metrics if step.is_notebook else study.data
    paths = [folder / f"{step.name}_{number}.csv" for number in range(3)]
    folder.mkdir(parents=True)
    replace, moves = Path.replace, itertools.count()

    def kill_at(number: int):
        def maybe(self, target):
            if next(moves) == number:
                raise SystemExit("killed")
            return replace(self, target)

        return maybe

    for number in range(8):
        for path in paths:
            path.write_text("before")
        with monkeypatch.context() as patch:
            moves = itertools.count()
            patch.setattr(Path, "replace", kill_at(number))
            with suppress(SystemExit, RuntimeError), execute.set_aside(study, step):
                for path in (*paths[1:], folder / f"{step.name}_new.csv"):
                    path.write_text("after")
                raise RuntimeError
        with suppress(RuntimeError), execute.set_aside(study, step):
            raise RuntimeError
        assert {path.name: path.read_text() for path in folder.iterdir()} == {path.name: "before" for path in paths}


@pytest.mark.fault("together", "a YAML file that is edited while a step runs", "the step is stale, and says so")
def test_what_changes_while_a_step_runs_makes_it_stale(study, params, monkeypatch):
    """Data of one's own, weights on this disk and parameters count as they were when the step began."""
    before = {name: name for name in ("params", "code", "notebook", "data")}
    after = before | {"weights": {"state": "other"}, "params": "edited"}
    keys = iter([before | {"weights": {"state": "local"}}, after])
    marked, said = {}, []
    monkeypatch.setattr(execute.steps, "compute_key", lambda *_: next(keys))
    monkeypatch.setattr(
        execute, "_make_step", lambda *_, reasons, **__: said.extend(map(execute._record_reason, reasons))
    )
    reason = execute.steps.Reason("params", "params data.images /home/me/a -> /home/me/b")
    monkeypatch.setattr(execute.graph, "list_reasons", lambda *_: [reason])
    monkeypatch.setattr(execute.graph, "mark_done", lambda _, __, key, *___, **____: marked.update(key))
    console = SimpleNamespace(report=said.append, show_count=lambda *_: None)
    execute.run_step("01_eda", study, console=console)
    assert marked == before | {"weights": {"state": "local"}}
    assert said[0] == "params data.images", "a record tells no folder"
    what = "params, weights changed while it ran: the next make all runs it again"
    assert said[1:] == [f"{'01_eda':<24} {what}"]


@pytest.mark.parametrize(("step", "told"), [("03_resnet50_finetune", True), ("01_eda", False)])
def test_an_old_driver_is_said_before_training_starts(study, monkeypatch, step, told):
    monkeypatch.delenv("DEVICE", raising=False)
    monkeypatch.setattr(execute, "explain_old_driver", lambda: "the NVIDIA driver 470 is too old")
    monkeypatch.setattr(execute, "take_turns", lambda *_, **__: nullcontext())
    monkeypatch.setattr(execute.graph, "mark_done", lambda *_, **__: None)
    said: list[str] = []
    monkeypatch.setattr(execute, "_make_step", lambda *_, **__: said.append("the step runs"))
    execute.run_step(step, study, console=SimpleNamespace(report=said.append))
    sentence = f"{step:<24} the NVIDIA driver 470 is too old; computing on the CPU instead"
    assert said[:2] == ([sentence, "the step runs"] if told else ["the step runs"])


@pytest.mark.parametrize(
    ("asked", "device"), [("cpu", "cpu"), ("CUDA", "cuda0"), ("cuda:1", "cuda1"), ("auto", "cuda0")]
)
def test_each_device_has_its_lock(monkeypatch, asked, device):
    monkeypatch.setenv("DEVICE", asked)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(settings, "explain_no_cuda", lambda number=0: None)
    assert settings.guess_device() == device
    settings.settle_device()  # which the command line calls first
    assert settings.guess_device() == device


@pytest.mark.parametrize(
    ("step", "name"), [("03_resnet50_finetune", "cpu"), ("04_vgg19_finetune", "cpu"), ("01_eda", "01_eda")]
)
def test_a_step_that_trains_holds_its_device_and_any_other_only_itself(study, monkeypatch, step, name):
    monkeypatch.setenv("DEVICE", "cpu")
    with execute.take_turns(STEPS[step], console=execute.Console(io.StringIO())):
        locks = {
            held: FileLock(reports_root() / f".{held}.lock") for held in ("cpu", "01_eda", "02_augmentation_preview")
        }
        with pytest.raises(Timeout):
            locks.pop(name).acquire(timeout=0)
        for lock in locks.values():
            with lock.acquire(timeout=0):
                pass


def test_a_file_gets_the_time_of_a_step_that_says_nothing_new(monkeypatch):
    monkeypatch.setattr(console, "FILE_INTERVAL", 0.01)
    out, looks, twice = io.StringIO(), itertools.count(), threading.Event()

    def read_status() -> str:
        if next(looks) == 2:
            twice.set()
        return "still the same"

    with console.Console(out).show_step(STEP, read_status):
        assert twice.wait(60)
    assert out.getvalue().startswith(2 * f"{STEP:<24} 00:00:00  still the same\n")


def test_progress_in_words():
    event = {"regime": "finetune", "seed": 3, "epoch": 2, "epochs": 9, "loss": 0.5312, "images_per_s": 41.4}
    event |= {"val_ap": 0.4123, "val_auc": 0.7008, "seconds_left": 70}
    expected = "fine-tuned, seed 3: 1 min 10 s left, epoch 2 of 9, validation AP 0.412, AUC 0.701, loss 0.531, "
    assert describe_event(event) == f"{expected}41 images/s"
    stage = {"regime": "finetune", "seed": 3, "stage": "final scores", "done": 320, "total": 1559}
    assert describe_event(stage) == "fine-tuned, seed 3: final scores, 320 of 1,559"
    del stage["seed"]
    assert describe_event({**stage, "regime": "classifiers"}) == "classifiers: final scores, 320 of 1,559"
    assert describe_event({**stage, "candidate": "lr 0.1"}) == "lr 0.1: fine-tuned: final scores, 320 of 1,559"
    assert describe_event({"stage": "decode", "done": 3, "total": 9}) == "decode, 3 of 9"
    assert describe_event({"stage": "checking every file", "done": 0, "total": 0}) == "checking every file"


@pytest.mark.parametrize(
    ("seconds", "clock", "words"),
    [(59.4, "00:00:59", "59 s"), (102, "00:01:42", "1 min 42 s"), (7500, "02:05:00", "2 h 05 min")],
)
def test_times_in_words(seconds, clock, words):
    assert (format_clock(seconds), format_duration(seconds)) == (clock, words)
