"""The benchmark beside the peers: what it runs, what it believes, what it remembers, and what it says of it."""

from __future__ import annotations

import json
from collections import Counter

import numpy as np
import pytest
import scipy.sparse
from click.testing import CliRunner

from benchmarks import published_admm, published_obs
from benchmarks.peers import __main__ as command
from benchmarks.peers import contest, layers, page, registry
from benchmarks.peers.case import Attempt, Case, Verdict, Way, Wrong, check_claim, factors_error
from benchmarks.peers.cell import measure
from benchmarks.peers.compare import beside_peers, between, regressions, standing
from benchmarks.peers.contest import Cell, Rules, execute, missing, plan, run, table, together
from benchmarks.peers.families import one_matrix, regression, two_factors
from benchmarks.peers.journal import Journal, Stale
from benchmarks.peers.layers import Layers
from benchmarks.published_double_sparse import top_mask

A = np.diag([3.0, 4.0])


def way(library="numpy", name="", solve=lambda: A, claims=lambda found: None, needs=()):
    def prepare(problem):
        return Attempt(solve, lambda found: [scipy.sparse.csr_array(found)], claims)

    return Way(library, name, prepare, needs)


def case(*ways, family="diagonal", size="small", exact=0.0):
    return Case(family, size, "", "", lambda layers: A, lambda matrix, found: factors_error(matrix, found), ways, exact)


def row(median, error=0.1, status="ok"):
    if status != "ok":
        return {"status": status, "reason": "so it is"}
    return {
        "status": "ok",
        "error": error,
        "median": median,
        "quartiles": [0.9 * median, 1.1 * median],
        "warm": True,
    } | {
        "seconds": [median],
        "first": median,
        "peak_bytes": 10,
        "wall": 1.0,
    }


def document(**ways):
    named = {name.replace("_", " "): found for name, found in ways.items()}
    return {"cases": [{"case": "diagonal/small", "exact": 1e-6, "ways": named}]}


def told(made, solve=lambda: A, **options):
    made = case(way(solve=solve, **options)) if made is None else made
    return measure(made, made.ways[0], Layers(None), budget=0.01, rounds=3)


def test_errors_are_computed_by_the_judge():
    found = told(None, lambda: np.diag([3.0, 0.0]))
    assert found["status"] == "ok" and found["error"] == pytest.approx(4 / 5) and found["nonzeros"] == 1
    assert found["quartiles"][0] <= found["median"] <= found["quartiles"][1] and len(found["seconds"]) == 3


def test_a_claim_that_is_not_true_is_an_error_and_one_that_is_passes():
    lied = told(None, lambda: np.diag([3.0, 0.0]), claims=lambda found: 0.5)
    assert lied == {"status": "wrong", "reason": "it claims the error 0.5, which is 0.8"}
    assert told(None, lambda: np.diag([3.0, 0.0]), claims=lambda found: 0.8001)["status"] == "ok"


def test_a_claim_below_rounding_is_no_lie():
    exact = case(way(), exact=1e-6)
    check_claim(exact, Verdict(3e-8), 1e-9)
    with pytest.raises(Wrong, match="claims"):
        check_claim(exact, Verdict(1e-3), 1e-9)
    with pytest.raises(Wrong, match="nan"):
        check_claim(exact, Verdict(float("nan")), None)


def test_a_way_that_raises_is_recorded_with_what_it_said():
    def fail():
        raise ZeroDivisionError("no\nmore")

    assert told(None, fail) == {"status": "failed", "reason": "ZeroDivisionError: no"}


def test_what_breaks_the_constraint_is_wrong():
    full, diagonal = scipy.sparse.csr_array(np.ones((2, 2))), scipy.sparse.csr_array(np.eye(2, dtype=bool))
    with pytest.raises(Wrong, match="2 entries outside"):
        factors_error(A, [full, diagonal.astype(float)], masks=[diagonal, diagonal])
    with pytest.raises(Wrong, match="6 nonzeros where 5"):
        factors_error(A, [full, diagonal.astype(float)], budget=5)
    with pytest.raises(Wrong, match="for a matrix of shape"):
        factors_error(A, [full[:1]])
    given = regression.Regression(np.eye(4), np.ones((4, 4)), 1, 2)
    with pytest.raises(Wrong, match="2 nonzeros where 1"):
        regression.judge(given, np.diag([1.0, 0, 0, 1]))
    assert regression.judge(given, np.kron([[1.0, 0], [0, 0]], np.ones((2, 2)))).error == pytest.approx(np.sqrt(3) / 2)


def test_the_order_is_one_shuffle_by_the_seed_of_every_cell():
    cases = [case(way(name=str(i)), way("sparsefact"), family=f) for f in "ab" for i in range(3)]
    cells = plan(cases, (), 2, seed=1)
    keys = [cell.key for cell in cells]
    assert (
        keys == [cell.key for cell in plan(cases, (), 2, seed=1)] != [cell.key for cell in plan(cases, (), 2, seed=2)]
    )
    assert Counter(keys) == Counter(f"{c.key} | {w.title} | {turn}" for c in cases for w in c.ways for turn in (0, 1))
    assert keys != sorted(keys)
    assert {cell.way.library for cell in plan(cases, ("sparsefact",), 1, seed=1)} == {"sparsefact"}


def test_an_interrupted_run_goes_on_where_it_was(tmp_path):
    cells = plan([case(*(way(name=str(i)) for i in range(5)))], (), 1, seed=0)
    done = []

    def until(stop):
        def one(cell):
            if len(done) == stop:
                raise KeyboardInterrupt
            done.append(cell.key)
            return row(1.0)

        return one

    path = tmp_path / "journal.json"
    with pytest.raises(KeyboardInterrupt):
        run(cells, Journal(path, {"commit": "a"}), until(2), lambda line: None)
    assert len(json.loads(path.read_text())["rows"]) == 2
    journal = Journal(path, {"commit": "a"})
    run(cells, journal, until(99), lambda line: None)
    assert done == [cell.key for cell in cells] and set(journal.rows) == set(done)


@pytest.mark.parametrize("whose", [{"commit": "b", "peers": {}}, {"commit": "a", "peers": {"torch": "2"}}])
def test_a_journal_of_other_sources_or_versions_is_refused_and_can_be_begun_anew(tmp_path, whose):
    path = tmp_path / "journal.json"
    Journal(path, {"commit": "a", "peers": {}}).add("cell", row(1.0))
    with pytest.raises(Stale, match=r"with other (commit|peers); measure anew with --fresh"):
        Journal(path, whose)
    assert Journal(path, whose, fresh=True).rows == {}
    assert list(Journal(path, {"commit": "a", "peers": {}}).rows) == ["cell"]


def test_what_is_no_journal_is_refused(tmp_path):
    path = tmp_path / "journal.json"
    path.write_text("[1, 2")
    with pytest.raises(Stale, match="no journal"):
        Journal(path, {})


def test_a_peer_that_is_not_installed_is_said_to_be_missing():
    absent = way("nobody", needs=("numpy", "no_such_module_here"))
    assert missing(absent) == ["no_such_module_here"]
    found = execute(Cell(case(absent), absent), Rules())
    assert found == {"status": "not installed", "reason": "needs no_such_module_here"}
    (only,) = table([case(absent)], [Cell(case(absent), absent)], {"diagonal/small | nobody | 0": found})
    assert only["ways"]["nobody"]["status"] == "not installed"
    assert any("not installed, needs no_such_module_here" in line for line in beside_peers({"cases": [only]}))


@pytest.mark.parametrize(
    ("script", "status", "reason"),
    [
        ("exec sleep 60", "limit", "more than 0.2 s"),
        ("kill -KILL $$", "failed", "the process was ended by SIGKILL"),
        ("echo first >&2; echo last >&2; exit 3", "failed", "last"),
        ("exit 3", "failed", "the process ended with code 3"),
    ],
)
def test_a_process_that_hangs_or_dies_is_recorded(monkeypatch, tmp_path, script, status, reason):
    python = tmp_path / "python"
    python.write_text(f"#!/bin/sh\n{script}\n")
    python.chmod(0o755)
    monkeypatch.setattr(contest.sys, "executable", str(python))
    found = execute(Cell(case(way("nobody")), way("nobody")), Rules(limit=0.2 if status == "limit" else 30))
    assert (found["status"], found["reason"]) == (status, reason)


def test_a_cell_runs_in_a_process_of_its_own():
    found, peer = registry.find("regression/small", "numpy: hard thresholding, 300 steps, and refit")
    measured = execute(Cell(found, peer), Rules(budget=0.01, rounds=3, threads=1, layers=None))
    assert measured["status"] == "ok", measured
    given = found.make(Layers(None))
    again = found.judge(given, peer.prepare(given).solve())
    assert measured["error"] == pytest.approx(again.error, rel=1e-6) and measured["nonzeros"] <= given.count
    assert measured["wall"] > measured["median"] > 0


def test_turns_are_put_together_and_a_failure_is_not_hidden():
    both = together([row(1.0, 0.1), row(3.0, 0.2)])
    assert both["seconds"] == [1.0, 3.0] and both["median"] == 2.0 and both["error"] == 0.2 and both["wall"] == 2.0
    assert together([row(1.0), row(1.0, status="failed")]) == {
        "status": "failed",
        "reason": "so it is",
        "wall": 1.0,
    }


@pytest.mark.parametrize(
    ("ours", "verdict", "time", "error"),
    [
        (row(1.0, 0.10), "first", None, 0.5),
        (row(4.0, 0.20), "slower", 2.0, 1.0),
        (row(1.0, 0.30), "less accurate", 1.0, 1.5),
        (row(3.0, 0.201), "slower", 1.5, 1.005),
    ],
)
def test_ours_is_compared_with_the_fastest_as_accurate_and_with_the_most_accurate(ours, verdict, time, error):
    found = standing(
        document(sparsefact=ours, good=row(2.0, 0.2), fast=row(1.0, 0.3), broken=row(0, status="wrong"))["cases"][0]
    )
    assert (found.verdict, found.accurate) == (verdict, "good")
    assert found.time == (time and pytest.approx(time)) and found.error == pytest.approx(error)


def test_rounding_errors_are_equal():
    found = standing(document(sparsefact=row(1.0, 3e-7), other=row(2.0, 1e-9))["cases"][0])
    assert (found.verdict, found.error, found.fastest) == ("first", 1.0, "other")


def test_regressions_are_found_and_noise_is_not():
    before = document(sparsefact=row(1.0, 0.1), peer=row(1.0))
    assert regressions(before, document(sparsefact=row(1.04, 0.1))) == []
    assert regressions(before, document(sparsefact=row(1.15, 0.1))) == []  # the quartiles meet
    assert regressions(before, document(sparsefact=row(1.5, 0.1))) == ["diagonal/small: 1.50 times the time"]
    assert regressions(before, document(sparsefact=row(1.0, 0.11))) == ["diagonal/small: error 0.11 after 0.1"]
    assert regressions(before, document(sparsefact=row(0, status="failed"))) == ["diagonal/small: failed, so it is"]
    lines = list(between(before, document(sparsefact=row(1.5), peer=row(1.2))))
    assert "time 1.500" in lines[0] and "1.200" in lines[1] and lines[2] == "regressions:"


def test_compare_reads_result_files(tmp_path):
    file = tmp_path / "a.json"
    file.write_text(json.dumps({"benchmark": "peers", "results": document(sparsefact=row(1.0), peer=row(2.0))}))
    shown = CliRunner().invoke(command.app, ["compare", str(file)])
    assert shown.exit_code == 0 and "time 0.500 of peer" in shown.output and "(first)" in shown.output
    file.write_text(json.dumps({"benchmark": "als", "results": {}}))
    assert "no result of this benchmark" in CliRunner().invoke(command.app, ["compare", str(file)]).output


@pytest.mark.parametrize("option", [["--case", "no/such"], ["--only", "sparsefact,nobody"]])
def test_unknown_cases_and_libraries_are_refused(option):
    refused = CliRunner().invoke(command.app, ["run", *option])
    assert refused.exit_code == 2 and "there are" in refused.output


def test_every_family_has_three_sizes_ours_first_and_peers():
    sizes = Counter(each.family for each in registry.CASES)
    assert set(sizes.values()) == {3}
    for each in registry.CASES:
        titles = [found.title for found in each.ways]
        assert titles[0] == "sparsefact" and len(titles) == len(set(titles)) > 2
    assert {"lazylinop", "pyfaust", "published", "scikit-learn", "scipy"} <= set(registry.LIBRARIES)


@pytest.mark.parametrize("prepare", [found.prepare for found in one_matrix.cases()[0].ways[1:]])
def test_transcribed_pruning_keeps_the_budget_and_beats_the_magnitude(prepare):
    rng = np.random.default_rng(0)
    X = rng.standard_normal((200, 48)) @ (np.eye(48) + 0.4 * rng.standard_normal((48, 48)))
    given = two_factors.Weighted(rng.standard_normal((32, 48)).astype(np.float32), (X.T @ X).astype(np.float32), 0.4)
    attempt = prepare(given)
    found = two_factors.judge(given, attempt.read(attempt.solve()))
    pruned = scipy.sparse.csr_array(given.matrix * top_mask(given.matrix, given.budget))
    plainest = two_factors.judge(given, [pruned])
    assert 0.39 * given.matrix.size < found.nonzeros <= given.budget
    assert found.error < plainest.error


@pytest.fixture
def results(monkeypatch):
    def put(found, **changed):
        said = {"title": "two by two", "family": "butterfly", "measure": "error"}
        found = {
            "quick": False,
            "load_average": [0.1],
            "threads": None,
            "versions": {"torch": "2"},
            "layers": {"source": "here"},
        } | {"cases": [each | said for each in found["cases"]]}
        found |= changed
        machine = {"cpu": "CPU", "cores": 2, "packages": {"numpy": "2", "scipy": "1"}}
        monkeypatch.setattr(page, "load", lambda name: {"environment": machine, "results": found})

    return put


def test_the_page_says_where_a_peer_is_better(results):
    results(document(sparsefact=row(3.0, 0.2), other=row(2.0, 0.2)))
    assert "ours is first in 0" in page.lost() and "other takes 2 s, ours 1.50 times as long" in page.lost()
    results(document(sparsefact=row(3.0, 0.3), other=row(2.0, 0.2)))
    assert "other has the lower error; ours is 1.500 times as large, in 1.5 times its time" in page.lost()
    results(document(sparsefact=row(0, status="wrong"), other=row(2.0, 0.2)))
    assert "ours wrong, so it is" in page.lost() and "**wrong**: so it is" in page.peers()
    results(document(sparsefact=row(1.0, 0.1), other=row(2.0, 0.2), absent=row(0, status="not installed")))
    assert "Of 1 cases, ours is first in 1" in page.lost() and "| none | - | other | 0.500 | first |" in page.peers()
    assert "| absent | not installed: so it is |" in page.ways() and "1 s (once), 0.1, 0.0 MB" in page.ways()


def test_the_page_says_that_the_numbers_are_few_or_the_machine_had_other_work(results):
    results(document(sparsefact=row(1.0)))
    assert all("**" not in make().replace("**sparsefact**", "") for make in (page.peers, page.lost, page.ways))
    results(document(sparsefact=row(1.0)), quick=True, load_average=[7.2, 0.0, 0.0])
    for make in (page.peers, page.lost, page.ways):
        assert "A small part only" in make() and "had other work** (load average 7)" in make()


def test_ratios_of_other_result_files_are_ours_over_theirs(monkeypatch):
    peer = {"error": 0.02}
    rows = [{"ours": [{"times_faster": 4.0, "error": 0.01}], "peers": [peer]}, {"ours": [{}], "peers": []}]
    (found,) = page.CONTESTS["butterfly"]({"square dyadic": rows, "other chains": []})
    assert (found.times, found.errors) == ([0.25], [0.5])
    seconds = {"ours": 1.0, "copy": 0.1, "dense NumPy": 4.0, "scipy CSR": 2.0}
    row = {"seconds": seconds}
    found = list(page.CONTESTS["products"]({"butterfly": [row], "dft": [], "pairs": []}))
    assert found[0].times == [0.5] and page._range([0.5, 2.0, 0.9]) == ("2 of 3", "0.9 (0.5 to 2)")
    assert page._range([0.5, 1.0005, 1.2], 1e-3) == ("1 of 3, equal in 1", "1 (0.5 to 1.2)")


def test_layers_are_those_of_the_file_and_drawn_ones_have_the_same_shapes(monkeypatch, tmp_path):
    drawn = dict(layers.SHAPES)
    monkeypatch.setattr(layers, "SHAPES", {name: (m // 32, n // 32) for name, (m, n) in drawn.items()})
    monkeypatch.setattr(layers.importlib.util, "find_spec", lambda name: None)
    whence = layers.collect(None, tmp_path / "layers.safetensors")
    assert whence["source"].startswith("drawn") and layers.collect(None, tmp_path / "layers.safetensors") == whence
    found = Layers(tmp_path / "layers.safetensors")
    for name, (m, n) in drawn.items():
        gram = found.gram(name)
        assert found[name].shape == (m // 32, n // 32) and gram.shape == (n // 32, n // 32)
        assert found[name].dtype == gram.dtype == np.float32
        assert np.linalg.eigvalsh(gram.astype(float)).min() > 0
    assert np.array_equal(found["q384"], layers.drawn()["q384"])


def on_support(matrix, gram, mask):
    """The best matrix on a mask for a Gram matrix with the damping of both transcriptions, row by row."""
    damped = gram + 0.01 * gram.diagonal().mean() * np.eye(len(gram))
    found = np.zeros_like(matrix)
    for i, kept in enumerate(mask):
        found[i, kept] = np.linalg.solve(damped[np.ix_(kept, kept)], (damped @ matrix[i])[kept])
    return found


def test_transcriptions_end_at_the_optimum_on_their_support_where_they_can_reach_it():
    rng = np.random.default_rng(0)
    X = rng.standard_normal((60, 12)) @ (np.eye(12) + 0.5 * rng.standard_normal((12, 12)))
    gram, matrix = X.T @ X, rng.standard_normal((5, 12))
    many = published_admm.prune(matrix, gram, 0.5, iterations=3000)
    assert np.count_nonzero(many) == 30
    np.testing.assert_allclose(many, on_support(matrix, gram, many != 0), atol=1e-8)
    # what is dropped can only be made up for in later columns, so the first ones are those to drop
    matrix[:, :6] *= 1e-3
    step = published_obs.prune(matrix, gram, 0.5)
    assert np.array_equal(np.flatnonzero(step.any(axis=0)), np.arange(6, 12))
    np.testing.assert_allclose(step, on_support(matrix, gram, step != 0), atol=1e-12)
