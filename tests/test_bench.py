"""`sparsefact bench` and the session on a GPU: right results only, honest times, files that can be compared."""

from __future__ import annotations

import copy
import json
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from commands import check_refused, invoke
from emulated import install
from hypothesis import given
from hypothesis import strategies as st

from benchmarks import gpu_session, published_double_sparse
from sparsefact.bench import devices, run, timing
from sparsefact.bench.cases import Case, Way, Work, random_array
from sparsefact.bench.ceilings import ceilings, roofline
from sparsefact.bench.devices import open_device
from sparsefact.bench.environment import environment
from sparsefact.bench.published import published_double_sparse as published
from sparsefact.bench.results import differences, document, ratios, read_results, write_results
from sparsefact.bench.run import cases_of, run_case
from sparsefact.bench.timing import Clocked, in_turn
from sparsefact.errors import FormatError, StorageError

TOP = {"bandwidth": 1e10, "gemm": dict.fromkeys(("float32", "float64", "complex64", "complex128"), 1e11)}


@pytest.fixture(autouse=True)
def small(monkeypatch):
    """Ceilings and copies of a size that says nothing, quickly."""
    monkeypatch.setattr(run, "ceilings", partial(ceilings, megabytes=1, gemm=32))
    monkeypatch.setattr(devices, "COLD", 1 << 12)
    monkeypatch.setattr(timing, "_LEAST", 1e-6)


def make_case(ways, **changes):
    def prepare(device):
        return Work(list(ways), {"absent": "it is not here"})

    told = {"suite": "kernels", "name": "made", "size": 16, "dtype": "float32", "detail": ""}
    told |= {"bytes": 10_000, "flops": 10, "formula": "made up", "prepare": prepare}
    return Case(**(told | changes))


def way(name, *, error=0.0, call=lambda: 1):
    return Way(name, [call], lambda found: error, 0.5)


# the cases themselves


@pytest.mark.parametrize("dtype", ["float32", "complex128"])
@pytest.mark.parametrize("suite", ["kernels", "solvers", "product"])
def test_every_case_is_right_on_the_cpu(suite, dtype):
    device, keys = open_device("cpu"), []
    for case in cases_of([suite], [16, 32], [dtype]):
        row = run_case(case, device, TOP, repeat=1, budget=0.01)
        assert "failed" not in row and row["ok"], row
        assert row["ways"]["sparsefact"]["median"] > 0 and row["bytes"] > 0 and row["flops"] >= 0 and row["formula"]
        keys.append(row["case"])
    assert len(keys) == len(set(keys)) >= 6


@pytest.mark.parametrize("suite", ["kernels", "solvers", "product"])
def test_every_case_is_right_on_the_emulated_gpu(suite, monkeypatch):
    install(monkeypatch)
    device = open_device("cuda")
    for case in cases_of([suite], [16], ["float32"]):
        row = run_case(case, device, TOP, repeat=1, budget=0.01)
        assert "failed" not in row and row["ok"], row
        assert "sparsefact" in row["ways"]
        assert any(name.startswith(("cupy", "published")) for name in row["ways"]) or suite == "solvers"


def traffic(*arrays):
    return sum(array.nbytes for array in arrays)


@pytest.mark.parametrize("dtype", ["float32", "complex128"])
def test_bytes_are_those_of_the_arrays(dtype):
    """Each case's formula beside the arrays that it would move."""
    n = 64
    found = {case.name: case for case in [*cases_of(["kernels", "product"], [n], [dtype])]}
    x = np.zeros((n, n), dtype)
    mask, real = np.zeros((n, n), bool), np.zeros(0, dtype).real.itemsize
    assert found["k-th magnitude"].bytes == traffic(x)
    assert found["top-k mask"].bytes == traffic(x, mask)
    assert found["rank one of 2 x 2 blocks"].bytes == traffic(x) + n * n // 4 * (4 * x.itemsize + real)
    assert found["inverse"].bytes == traffic(x, x)
    assert found["ADMM step"].bytes == traffic(x, x, mask, x) + traffic(x, x, mask, x)
    from sparsefact.backends.reference import REFERENCE

    lefts, rest, *_ = REFERENCE.sweep(x[None], [(2, 2, 1, n >> k + 1) for k in range(5)])
    assert found["butterfly sweep"].bytes == traffic(x, rest, *lefts)
    chain = found["butterfly chain"]  # the last batch
    assert chain.bytes == traffic(np.zeros((n, 512), dtype), np.zeros((n, 512), dtype)) + 6 * 2 * n * x.itemsize
    assert chain.flops == 6 * 2 * (2 * n) * 512 * (4 if dtype[0] == "c" else 1)


def test_published_is_the_transcription_of_the_benchmarks():
    matrix = random_array((24, 36), "float64")

    def top(x, k):
        return published_double_sparse.top_mask(x, k)

    for x in (matrix, matrix.T, matrix[:, :24]):
        for found, expected in zip(
            published(np, x, 0.4, 6, top), published_double_sparse.factorize(x, 0.4, 6), strict=True
        ):
            np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-14)


# what happens to a case that is wrong, fails, or lacks something


def test_what_is_wrong_is_not_timed():
    row = run_case(make_case([way("sparsefact"), way("other", error=0.6), way("odd", error=np.nan)]), *cpu())
    assert not row["ok"] and row["left_out"] == {"absent": "it is not here"}
    assert row["ways"]["sparsefact"]["ok"] and row["ways"]["sparsefact"]["roofline_share"] > 0
    for name in ("other", "odd"):
        assert not row["ways"][name]["ok"] and "median" not in row["ways"][name]


def cpu():
    return open_device("cpu"), TOP


def broken():
    raise RuntimeError("it\nbroke")


def test_a_peer_that_fails_is_left_out_and_ours_is_a_failure():
    row = run_case(make_case([way("sparsefact"), way("other", call=broken)]), *cpu())
    assert row["ok"] and row["left_out"]["other"] == "RuntimeError: it broke"
    row = run_case(make_case([way("sparsefact", call=broken)]), *cpu())
    assert not row["ok"] and row["failed"] == "RuntimeError: it broke" and row["ways"] == {}


def test_a_wrong_case_ends_with_exit_code_one(monkeypatch, tmp_path):
    cases = [make_case([way("sparsefact", error=2.0)]), make_case([way("sparsefact", call=broken)], name="second")]
    monkeypatch.setitem(run.SUITES, "kernels", lambda size, dtype: iter(cases))
    done = invoke("bench", "--suite", "kernels", "--sizes", "16", "-o", tmp_path / "r.json")
    assert done.exit_code == 1
    assert "WRONG" in done.stdout and "2 cases, 2 of them wrong" in done.stdout and "wrote" in done.stdout
    assert "failed: kernels/second/16/float32 on cpu: RuntimeError: it broke" in done.stdout
    assert not any(row["ok"] for row in read_results(tmp_path / "r.json")["rows"])


# the clock


@given(st.integers(1, 5), st.lists(st.integers(1, 3), min_size=1, max_size=4), st.integers(0, 3))
def test_ways_take_turns(rounds, copies, seed):
    """Each way once in every round, on one copy after the other, with the device idle before and after."""
    told = []
    clocked = {
        name: Clocked(
            [partial(told.append, (name, copy)) for copy in range(count)],
            partial(told.append, "before"),
            partial(told.append, "idle"),
        )
        for name, count in zip("abcd", copies, strict=False)
    }
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(timing, "_LEAST", 0.0)
        found = in_turn(clocked, dict.fromkeys(clocked, 1.0), rounds, seed=seed)
    told = told[-4 * rounds * len(copies) :]  # after getting ready
    assert told[::4] == ["before"] * (rounds * len(copies)) and set(told[1::4] + told[3::4]) == {"idle"}
    for turn in range(rounds):
        calls = told[2 + 4 * turn * len(copies) : 4 * (turn + 1) * len(copies) : 4]
        assert sorted(calls) == [(name, turn % count) for name, count in zip("abcd", copies, strict=False)]
    for times in found.values():
        assert (times.first, times.repeats, len(times.seconds)) == (1.0, 1, rounds) and min(times.seconds) >= 0


def test_the_order_is_shuffled(monkeypatch):
    monkeypatch.setattr(timing, "_LEAST", 0.0)
    told = []
    clocked = {name: Clocked([partial(told.append, name)], lambda: None, lambda: None) for name in "abc"}
    in_turn(clocked, dict.fromkeys("abc", 1.0), 3)
    told = told[-9:]
    assert [sorted(told[k : k + 3]) for k in (0, 3, 6)] == [["a", "b", "c"]] * 3
    assert len({tuple(told[k : k + 3]) for k in (0, 3, 6)}) > 1


def test_slow_ways_are_measured_less_and_short_ones_repeated(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(timing.time, "perf_counter", lambda: now[0])
    monkeypatch.setattr(timing, "_LEAST", 4e-3)

    def spend(seconds):
        now[0] += seconds

    clocked = {
        name: Clocked([partial(spend, seconds)], lambda: None, lambda: None)
        for name, seconds in (("slow", 3.0), ("short", 1e-3), ("tiny", 1e-9))
    }
    found = in_turn(clocked, {"slow": 3.0, "short": 1e-3, "tiny": 1e-9}, 9, budget=10.0)
    assert {name: (times.repeats, len(times.seconds)) for name, times in found.items()} == {
        "slow": (1, 3),
        "short": (4, 9),
        "tiny": (200, 9),
    }
    assert found["short"].summary()["median"] == pytest.approx(1e-3)
    assert found["tiny"].summary()["quartiles"] == pytest.approx([1e-9, 1e-9])


@given(st.integers(1, 10**9), st.integers(0, 10**12))
def test_roofline_is_the_slower_of_memory_and_arithmetic(nbytes, flops):
    seconds, bound = roofline(TOP, "float32", nbytes, flops)
    assert seconds == max(nbytes / 1e10, flops / 1e11)
    assert bound == ("memory" if nbytes / 1e10 >= flops / 1e11 else "arithmetic")


def test_ceilings_are_measured_for_each_type():
    found = ceilings(open_device("cpu"), ["float32", "complex64"], megabytes=1, gemm=64)
    assert set(found["gemm"]) == {"float32", "complex64"} and min(found["gemm"].values()) > 0
    assert found["bandwidth"] == max(found["copy"], found["add"]) > 0


def test_copies_are_cold_but_few(monkeypatch):
    device = open_device("cpu")
    for cold, count in ((1, 1), (3 * 4096, 3), (1 << 30, 8)):
        monkeypatch.setattr(devices, "COLD", cold)
        found = device.copies(np.ones((32, 32), np.float32))
        assert len(found) == count and len({x.ctypes.data for x in found}) == count


# result files


def measured(tmp_path, name="a.json", **changes):
    path = tmp_path / name
    row = run_case(make_case([way("sparsefact"), way("other")]), *cpu(), repeat=3)
    told = {"devices": {"cpu": {"device": "cpu", "ceilings": TOP}}, "rows": [row]}
    write_results(path, document(told, environment()) | changes)
    return path


def test_results_survive_the_file(tmp_path):
    content = read_results(measured(tmp_path))
    assert content["environment"]["packages"]["numpy"] == np.__version__
    assert ratios(content, content) == [
        {"case": "kernels/made/16/float32", "device": "cpu", "way": name, "first": median, "second": median}
        | {"ratio": 1.0, "clear": False}
        for name, median in ((name, told["median"]) for name, told in content["rows"][0]["ways"].items())
    ]
    assert differences(content, content) == []


def test_compare_shows_ratios_and_differences(tmp_path):
    first = measured(tmp_path)
    content = read_results(first)
    for told in content["rows"][0]["ways"].values():
        told["median"] /= 4
        told["quartiles"] = [x / 4 for x in told["quartiles"]]
    content["environment"]["packages"]["numpy"] = "9.9"
    content["environment"]["cpu"] = "another"
    second = tmp_path / "b.json"
    write_results(second, content)
    done = invoke("bench", "compare", first, second)
    assert done.exit_code == 0, done.output
    assert "differs: packages numpy" in done.stdout and "/ 9.9" in done.stdout and "differs: cpu" in done.stdout
    assert "4.00" in done.stdout
    as_json = json.loads(invoke("bench", "compare", first, second, "--json").stdout)
    assert [row["ratio"] for row in as_json["ratios"]] == pytest.approx([4.0, 4.0])


def spoiled(content, path, value):
    content = copy.deepcopy(content)
    *parents, last = path
    inner = content
    for part in parents:
        inner = inner[part]
    inner[last] = value
    return content


@pytest.mark.parametrize(
    ("path", "value", "words"),
    [
        (["kind"], "something else", "not a result file"),
        (["version"], 2, "version 2"),
        (["rows"], {}, "lacks its rows"),
        (["rows", 0], 3, "a row of this result file"),
        (["rows", 0, "ways"], [], "a row of this result file"),
        (["rows", 0, "case"], None, "a row of this result file"),
        (["rows", 0, "ways", "sparsefact", "median"], "fast", "a row of this result file"),
        (["rows", 0, "ways", "sparsefact", "median"], 0, "a row of this result file"),
        (["rows", 0, "ways", "sparsefact", "quartiles"], [1], "a row of this result file"),
        (["environment"], None, "lacks its rows, devices or environment"),
    ],
)
def test_files_of_another_kind_are_refused(tmp_path, path, value, words):
    good = measured(tmp_path)
    bad = tmp_path / "bad.json"
    bad.write_text(json.dumps(spoiled(read_results(good), path, value)))
    with pytest.raises(FormatError, match=words):
        read_results(bad)
    check_refused(invoke("bench", "compare", good, bad), "bad.json")


@pytest.mark.parametrize("raw", [b"", b"{", b"[1, 2]", b"\xff\xfe", b"[" * 100_000, b"null"])
def test_corrupt_files_are_refused(tmp_path, raw):
    bad = tmp_path / "bad.json"
    bad.write_bytes(raw)
    check_refused(invoke("bench", "compare", bad, bad), "bad.json")


def test_files_that_are_not_there_are_refused(tmp_path):
    good = measured(tmp_path)
    check_refused(invoke("bench", "compare", good, tmp_path / "none.json"), "none.json", "No such file")
    check_refused(invoke("bench", "compare", tmp_path, good), "directory")
    other = read_results(good)
    other["rows"][0]["case"] = "another"
    write_results(tmp_path / "other.json", other)
    check_refused(invoke("bench", "compare", good, tmp_path / "other.json"), "no case in common")


# the command


def test_bench_measures_writes_and_draws(tmp_path):
    arguments = ["--suite", "product", "--sizes", "32,16", "--repeat", "1"]
    output, figure = tmp_path / "r.json", tmp_path / "r.svg"
    done = invoke("bench", *arguments, "-o", output, "--figure", figure)
    assert done.exit_code == 0, done.output
    assert "all results right" in done.stdout and "cpu: at most" in done.stdout and "scipy CSR" in done.stdout
    assert "product/butterfly chain/16/float32/batch 32 on cpu: sparsefact" in done.stderr
    content = read_results(output)
    assert {row["size"] for row in content["rows"]} == {16, 32} and content["environment"]["python"]
    text = figure.read_text(encoding="utf-8")
    assert text.startswith("<?xml") and "</svg>" in text
    assert sorted(path.name for path in tmp_path.iterdir()) == ["r.json", "r.svg"]


def test_json_is_one_document(monkeypatch):
    monkeypatch.setitem(run.SUITES, "kernels", lambda size, dtype: iter([make_case([way("sparsefact")])]))
    done = invoke("bench", "--suite", "kernels", "--sizes", "16", "--json")
    assert done.exit_code == 0
    assert json.loads(done.stdout)["rows"][0]["case"] == "kernels/made/16/float32"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--suite", "kernels,speed"), ("--suite 'speed' is not known", "kernels, solvers, product")),
        (("--suite", ","), ("names nothing",)),
        (("--dtype", "float16"), ("--dtype 'float16' is not known",)),
        (("--sizes", "100"), ("--sizes '100' is not allowed", "powers of two")),
        (("--sizes", "8"), ("--sizes '8' is not allowed",)),
        (("--sizes", "65536"), ("--sizes '65536' is not allowed",)),
        (("--sizes", "-16"), ("--sizes '-16' is not allowed",)),
        (("--sizes", "many"), ("--sizes 'many' is not allowed",)),
        (("--device", "tpu"), ("device='tpu' is not known",)),
        (("--repeat", "0"), ("--repeat",)),
        (("--figure", "picture.bmp"), (".svg, .png or .pdf",)),
        (("-o", "missing/r.json"), ("the directory", "does not exist")),
        (("--figure", "missing/r.svg"), ("the directory", "does not exist")),
        (("nonsense",), ("nonsense",)),
        (("compare", "one.json"), ("SECOND",)),
    ],
)
def test_bad_usage(arguments, words, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    check_refused(invoke("bench", *arguments), *words)
    assert list(tmp_path.iterdir()) == []


def test_a_device_that_is_not_here_is_refused(monkeypatch):
    install(monkeypatch)
    check_refused(invoke("bench", "--device", "cpu,cuda:7"), "device='cuda:7' does not exist")


@pytest.mark.skipif(devices.installed("cupy"), reason="there may be a GPU here")
def test_without_a_gpu_nothing_is_measured(tmp_path):
    done = invoke("bench", "--device", "cpu,cuda", "-o", tmp_path / "r.json")
    check_refused(done, "device='cuda:0' needs the package cupy")
    assert list(tmp_path.iterdir()) == []


def test_what_is_rounded_to_tf32_is_held_to_its_own_ceiling():
    plain, rounded = way("sparsefact"), Way("rounded", [lambda: 1], lambda found: 0.0, 0.5, tf32=True)
    top = TOP | {"gemm": TOP["gemm"] | {"tf32": 8e11}}
    row = run_case(make_case([plain, rounded], bytes=1, flops=10**6), open_device("cpu"), top)
    for name, ceiling in (("sparsefact", 1e11), ("rounded", 8e11)):
        told = row["ways"][name]
        assert told["roofline_share"] == pytest.approx(1e6 / ceiling / told["median"])


def test_a_figure_needs_matplotlib(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    check_refused(invoke("bench", "--figure", tmp_path / "r.svg"), "needs matplotlib", "sparsefact[report]")


# the session on a GPU


def session(tmp_path, *arguments):
    return CliRunner().invoke(gpu_session.main, ["--out", str(tmp_path / "out"), *arguments])


def test_the_rehearsal_goes_through_everything(tmp_path):
    done = session(tmp_path, "--budget", "3600", "--dry-run")
    assert done.exit_code == 0, done.output
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert {told["status"] for told in summary["steps"]} == {"done"}
    names = [told["step"] for told in summary["steps"]]
    assert names[:4] == ["environment", "ceilings", "compile", "tests"] and len(names) == len(set(names)) > 40
    goals = ("hierarchical", "butterfly sweep", "butterfly chain", "double sparse", "k-th magnitude")
    found = [name for name in names if "on cuda" in name][: len(goals)]
    assert all(goal in name for goal, name in zip(goals, found, strict=True))
    for number, told in enumerate(summary["steps"]):
        (file,) = (tmp_path / "out").glob(f"{number:03d}-*.json")
        assert json.loads(file.read_text())["step"] == told["step"]
    tests = summary["steps"][3]["result"]
    assert tests["code"] == 0 and tests["counts"]["passed"] >= 1
    compiled = summary["steps"][2]["result"]
    assert set(compiled["entries"]) == set(compiled["committed"]["registers"])
    hierarchical = summary["goals"]["solvers/hierarchical/16/float32 on cuda"]
    assert hierarchical["times_the_bytes_floor"] > 0 and hierarchical["cpu_over_ours"] > 0
    results = read_results(tmp_path / "out" / "results.json")
    assert len(results["rows"]) == len(names) - 4 and all(row["ok"] for row in results["rows"])


def test_a_session_goes_on_after_a_failure_and_stops_when_the_time_is_up(tmp_path, monkeypatch):
    def late(session):
        session.deadline = 0.0
        return {}

    made = [("good", lambda s: {"x": 1}), ("bad", lambda s: broken()), ("wrong", lambda s: {"ok": False})]
    made += [("last", late), ("never", lambda s: {"x": 2})]
    monkeypatch.setattr(gpu_session, "steps", lambda session: iter(made))
    done = session(tmp_path, "--budget", "100", "--dry-run")
    assert done.exit_code == 1 and "5 steps, 2 failed" in done.output
    steps = json.loads((tmp_path / "out" / "summary.json").read_text())["steps"]
    assert [told["status"] for told in steps] == ["done", "failed", "failed", "done", "no time left"]
    assert "RuntimeError" in steps[1]["failed"] and "broken" in steps[1]["traceback"]
    assert not list((tmp_path / "out").glob("004-*"))


@pytest.mark.skipif(devices.installed("cupy"), reason="there may be a GPU here")
def test_a_session_needs_a_gpu(tmp_path):
    done = session(tmp_path, "--budget", "5")
    assert done.exit_code == 1 and "device='cuda:0' needs the package cupy" in done.output


def test_a_result_file_is_written_whole(tmp_path):
    path = measured(tmp_path)
    before = path.read_bytes()
    with pytest.raises(TypeError):
        write_results(path, {"a": object()})
    with pytest.raises(StorageError):
        write_results(Path(tmp_path, "none", "r.json"), {})
    assert path.read_bytes() == before and [p.name for p in tmp_path.iterdir()] == ["a.json"]
