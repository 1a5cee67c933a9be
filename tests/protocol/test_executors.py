"""A pool of processes computes what one process computes; whatever ends, nothing is left running and nothing lost."""

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from forgetting import methods
from forgetting.protocol import Processes, Store, sweep
from forgetting.protocol.executors import Deaths
from tests.protocol import tiny

ROOT = Path(__file__).parents[2]
GRID = [tiny.recipe(methods.get("ewc", strength=0.5)), tiny.recipe(methods.get("l2sp+cosine"), pretrained=True)]

INTERRUPTED = """
import signal
import sys
from forgetting.protocol import Processes, sweep
from tests.protocol import tiny
if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell ignores it for what runs in its background
    sweep([tiny.recipe(epochs=100_000)], range(2), store=sys.argv[1], executor=Processes(2),
          observe=lambda event: print(event["event"], flush=True))
"""

UNGUARDED = """
from forgetting.protocol import Processes, sweep
from tests.protocol import tiny
sweep([tiny.recipe()], range(2), store="store", executor=Processes(2))
"""


def die():
    os.kill(os.getpid(), signal.SIGKILL)


def dying_once(sequence):
    """A network whose process is killed when it is made the first time in a folder."""
    mark = Path("mark")
    if not mark.exists():
        mark.touch()
        die()
    return tiny.network(sequence)


def always_dying(sequence):
    die()


def failing(sequence):
    raise LookupError("no network today")


class Unsendable(Exception):
    """Made of two things, told as one: it cannot be made again from what it says."""

    def __init__(self, one, other):
        super().__init__(f"{one} and {other}")


def unsendable(sequence):
    raise Unsendable("this", "that")


def telling_threads(sequence):
    raise LookupError(f"{torch.get_num_threads()} threads")


def figures(results):
    return [result.figures() for result in results]


@pytest.fixture(autouse=True)
def workers():
    """This test's own processes, of which none is left afterwards, whatever it does."""
    others = set(multiprocessing.active_children())

    def own():
        return [process for process in multiprocessing.active_children() if process not in others]

    yield own
    assert own() == []


@pytest.mark.slow
def test_a_pool_computes_what_one_process_computes(tmp_path):
    events = []
    pooled = sweep(GRID, range(2), store=tmp_path / "pool", executor=Processes(2), observe=events.append)
    alone = sweep(GRID, range(2), store=tmp_path / "alone")
    assert figures(pooled.results) == figures(alone.results)
    journals = [sorted((entry["run"], entry["task"]) for entry in Store(tmp_path / name).journal())
                for name in ("pool", "alone")]
    assert journals[0] == journals[1]
    assert sorted(event["number"] for event in events if event["event"] == "result") == list(range(4))
    seeds = {(event["number"], event["seed"]) for event in events if event["event"] == "task"}
    assert seeds == {(0, 0), (1, 1), (2, 0), (3, 1)}


def test_a_killed_worker_is_replaced_and_its_run_taken_up_again(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    recipe = tiny.recipe(network=dying_once)
    with pytest.warns(UserWarning, match="finetune, seed 0 was ended by signal 9; the run is taken up again"):
        (first, _), _ = sweep([recipe], range(2), store=tmp_path / "pool", executor=Processes(1))
    assert first.figures() == sweep([recipe], [0], store=tmp_path / "alone").results[0].figures()


def test_a_worker_killed_in_the_middle_of_a_run(tmp_path, workers):
    def observe(event):
        if event["event"] == "task" and event["number"] == 1 and not killed:
            killed.extend(workers())
            for process in killed:
                process.kill()

    killed, events = [], []
    with pytest.warns(UserWarning, match="seed 1 was ended by signal 9; the run is taken up again after its last"):
        sweep(GRID[:1], [0, 1], store=tmp_path, executor=Processes(2), observe=lambda e: events.append(e) or observe(e))
    assert len(killed) == 2
    counted = [(entry["run"], entry["task"]) for entry in Store(tmp_path).journal()]
    assert len(counted) == len(set(counted)) == 6
    assert {event["number"] for event in events if event["event"] == "result"} == {0, 1}


@pytest.mark.filterwarnings("ignore:the process that worked on")
def test_a_run_that_always_ends_its_process_is_given_up(tmp_path):
    recipes = [GRID[0], tiny.recipe(network=always_dying)]
    with pytest.raises(RuntimeError, match="seed 0 was ended by signal 9, 3 times in a row without finishing"):
        sweep(recipes, [0], store=tmp_path, executor=Processes(1))
    assert len(Store(tmp_path).results()) == 1


def test_deaths_are_counted_since_the_last_task():
    from forgetting.protocol.executors import Job

    deaths, job = Deaths(), Job(0, GRID[0], 0)
    for _ in range(3):
        for _ in range(Deaths.LIMIT - 1):
            with pytest.warns(UserWarning, match="taken up again"):
                deaths.one_more(job, "was lost")
        deaths.learned(job)
    with pytest.warns(UserWarning, match="taken up again"):
        deaths.one_more(job, "was lost")


@pytest.mark.parametrize(("network", "kind", "words"), [
    (failing, LookupError, "no network today"), (unsendable, RuntimeError, "Unsendable: this and that"),
    (telling_threads, LookupError, "1 threads"),
])
def test_an_error_passes_with_where_it_came_from(tmp_path, network, kind, words):
    with pytest.raises(kind, match=words) as caught:
        sweep([tiny.recipe(network=network), GRID[0]], [0], store=tmp_path, executor=Processes(2))
    assert f"in {network.__name__}" in str(caught.value.__cause__)


@pytest.mark.filterwarnings("ignore:L2SP in mode='loss' will diverge")
def test_what_diverges_is_told_apart(tmp_path):
    wild = tiny.recipe(methods.get("l2sp", strength=1e6, mode="loss"), network=tiny.plain_network, epochs=5)
    results, diverged = sweep([wild, GRID[0]], [0], store=tmp_path, executor=Processes(2))
    assert [result.method for result in results] == ["ewc"]
    assert [(recipe is wild, seed) for recipe, seed, _ in diverged] == [(True, 0)]


def test_more_threads(tmp_path):
    with pytest.raises(LookupError, match="2 threads"):
        sweep([tiny.recipe(network=telling_threads)], [0], store=tmp_path, executor=Processes(1, threads=2))


def test_a_recipe_that_cannot_be_sent_is_refused_before_anything_runs(tmp_path):
    with pytest.raises(TypeError, match="recipe of ewc, seed 0 cannot be sent to another process .*executor=None"):
        sweep([GRID[0], tiny.recipe(tiny.ewc())], [0], store=tmp_path, executor=Processes(1))
    assert not (tmp_path / "runs").exists()


def test_a_method_of_a_file_is_sent(tmp_path):
    own = methods.load(str(ROOT / "docs" / "examples" / "my_regularizer.py") + ":MyRegularizer", strength=0.5)
    (result,), _ = sweep([tiny.recipe(own)], [0], store=tmp_path, executor=Processes(1))
    assert result.figures() == sweep([tiny.recipe(own)], [0], store=tmp_path / "alone").results[0].figures()


def test_numbers_that_are_none():
    with pytest.raises(ValueError, match="workers=0: expected a whole number of at least 1"):
        Processes(0)
    with pytest.raises(ValueError, match="threads=1.5: expected"):
        Processes(1, threads=1.5)


def test_an_observer_that_raises_leaves_nothing_running(tmp_path):
    def observe(event):
        raise KeyError("stop")

    with pytest.raises(KeyError, match="stop"):
        sweep([tiny.recipe(epochs=100_000)], range(2), store=tmp_path, executor=Processes(2), observe=observe)


def started(code, *arguments, folder=ROOT):
    """A program with a process group of its own, and the standard error of all."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen([sys.executable, "-c", code, *map(str, arguments)], cwd=folder, env=environment, text=True,
                            stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True)


def all_gone(group):
    """Whether a process group has no process any longer, after a moment."""
    for _ in range(200):
        try:
            os.killpg(group, 0)
        except ProcessLookupError:
            return True
        time.sleep(0.05)
    os.killpg(group, signal.SIGKILL)
    return False


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_an_interruption_leaves_nothing_running(tmp_path, number):
    process = started(INTERRUPTED, tmp_path)
    while process.stdout.readline() != "step\n":
        assert process.poll() is None, process.stderr.read()
    if number == signal.SIGINT:
        os.killpg(process.pid, number)  # as Ctrl-C does
    else:
        process.send_signal(number)
    _, errors = process.communicate(timeout=60)
    assert all_gone(process.pid)
    if number == signal.SIGINT:
        assert errors.count("Traceback") == errors.count("KeyboardInterrupt\n") == 1, errors


@pytest.mark.slow
def test_a_script_without_a_guard_is_told_so(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(UNGUARDED)
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, script], cwd=tmp_path, env=environment, capture_output=True, text=True,
                          check=False, timeout=120)
    assert done.returncode == 1
    assert 'a script that starts processes needs: if __name__ == "__main__":' in done.stderr
