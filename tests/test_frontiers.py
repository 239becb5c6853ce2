"""Frontiers: hand-made runs whose best, passings and answers can be worked out with a pencil."""

import math
from typing import Any

import numpy as np
import pytest

from mlx_gpt.reporting.courses import Course, Lead, Track, courses, leads, meeting
from mlx_gpt.reporting.figures import Frame
from mlx_gpt.reporting.frontier_figures import _beside, _overlap
from mlx_gpt.reporting.frontier_section import NO_CURVE, frontier_markdown, section
from mlx_gpt.reporting.frontier_words import passed, passings, reached, short_answer
from mlx_gpt.reporting.frontiers import frontiers, labels, marks, pareto, told_apart
from mlx_gpt.reporting.markdown import _table

SIZES = np.full(4, 250)  # bytes of what is resampled
Looks = list[tuple[float, float]]


def course(run: str, *seeds: Looks, whole: bool = False) -> Course:
    tracks = tuple(Track(*np.array(looks, np.float64).T) for looks in seeds)
    return Course(run, tracks, whole)


def ladder(*told: tuple[int, str, dict[str, Any]]) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Rows of a table and their runs: of each its stage, its run's name, and what is not as usual: the bits per byte of
    the held-out text, parameters, bytes on disk, tokens scored a second (of 1,000 in 1,000 bytes), looks (seconds, bits)
    at ten tokens a second, and whether it learns by gradients."""
    league, runs = [], []
    for stage, run, more in told:
        each = {"bits": 2.0, "parameters": 1e3, "disk": 1e4, "speed": 1e3, "looks": [], "gradients": True, **more}
        row = {"run": run, "runs": [run], "stage": stage, "name": run.partition("-")[2], "bits_per_byte": each["bits"]}
        row |= {"margin": 0.1, "seed_spread": None, "parameters": each["parameters"], "tokens": 1_000, "bytes": 1_000}
        league.append(row | {"tokens_per_second": each["speed"]})
        curve = {"train": [[1.0, 1.0, 5.0]] if each["gradients"] else []}
        curve["valid"] = [[10.0 * place, float(place), bits] for place, bits in each["looks"]]
        nats = (each["bits"] * math.log(2) * SIZES).tolist()
        known = {"run": run, "bytes_on_disk": each["disk"], "counted": not each["gradients"]}
        runs.append(known | {"curve": curve, "score": {"nats": nats}})
    return league, runs


FALLING: Looks = [(1, 4.0), (100, 2.0)]  # 4 - log10 t
COUNTED = {"gradients": False, "looks": [(0.5, 2.5)], "speed": 1e6}


# what was reached by when


def test_between_two_looks_a_course_is_straight_over_the_logarithm() -> None:
    one = course("a", FALLING)
    assert one.mean(np.array([1.0, 10.0, 100.0])).tolist() == pytest.approx([4, 3, 2])
    assert np.isnan(one.mean(np.array([0.9]))[0]) and one.mean(np.array([1e4]))[0] == 2
    assert one.end == 100 and course("b", [(1, 4.0)], whole=True).end == math.inf


def test_a_look_that_is_not_better_leaves_what_was_best() -> None:
    league, runs = ladder((5, "05-a", {"looks": [(1, 3.0), (10, 2.0), (100, 2.5)]}))
    assert courses(league, runs, "seconds")[0].tracks[0].bits.tolist() == [3, 2, 2]
    assert courses(league, runs, "tokens")[0].tracks[0].places.tolist() == [10, 100, 1000]


def test_two_courses_pass_where_their_lines_cut() -> None:
    flat = course("b", [(1, 3.0), (100, 2.5)])  # 3 - log10(t) / 4, equal to 4 - log10 t at log10 t = 4 / 3
    met = meeting(course("a", FALLING), flat)
    assert met is not None and met.ahead == "a"
    assert met.passings == [(pytest.approx(10 ** (4 / 3)), "a")]
    back = meeting(course("a", FALLING), course("b", [(1, 5.0), (10, 2.0), (100, 2.0)]))
    # 5 - 3 log10 t until 2 at 10 s: passes at log10 t = 1 / 2; equal again at 100 s, where nobody is ahead
    assert back is not None and back.passings == [(pytest.approx(10**0.5), "b")] and back.ahead == "b"


def test_all_passings_are_told_and_the_last_decides() -> None:
    steps = course("b", [(1, 4.5), (10, 2.5), (100, 2.4)])  # 0.5 above, 0.5 below, 0.4 above
    met = meeting(course("a", FALLING), steps)
    # linear in log10 t: from +0.5 to -0.5 in one decade, cut at 1/2; from -0.5 to +0.4 in the next, cut at 5/9
    assert met is not None and met.passings == [
        (pytest.approx(10**0.5), "b"),
        (pytest.approx(10 ** (1 + 5 / 9)), "a"),
    ]
    assert met.ahead == "a"


def test_a_touch_is_no_passing() -> None:
    met = meeting(course("a", FALLING), course("b", [(1, 5.0), (10, 3.0), (100, 3.0)]))
    assert met is not None and met.ahead == "a" and met.passings == []
    equal = meeting(course("a", FALLING), course("b", FALLING))
    assert equal is not None and equal.ahead is None and equal.passings == []


def test_who_were_equal_for_a_while_pass_at_its_end() -> None:
    one = course("a", [(1, 3.0), (10, 2.0), (100, 2.0), (1000, 1.0)])
    other = course("b", [(1, 2.5), (10, 2.0), (100, 2.0), (1000, 1.5)])
    met = meeting(one, other)
    assert met is not None and met.passings == [(pytest.approx(100), "a")]


def test_nothing_is_said_beyond_what_was_trained() -> None:
    later, counted = course("b", [(200, 3.0), (300, 1.0)]), course("c", [(0.5, 2.5)], whole=True)
    assert meeting(course("a", FALLING), later) is None
    assert meeting(course("a", FALLING), course("d", [(0.1, 3.0), (0.5, 2.5)])) is None
    met = meeting(course("a", FALLING), counted)  # what was counted stays as it is: 4 - log10 t = 2.5
    assert met is not None and met.passings == [(pytest.approx(10**1.5), "a")]
    both = meeting(course("e", [(0.1, 3.0)], whole=True), counted)
    assert both is not None and both.ahead == "c" and both.passings == []


def test_a_run_that_went_on_without_its_log_was_not_learnt_at_once() -> None:
    league, runs = ladder((4, "04-c", COUNTED), (9, "09-a", {"looks": [(50, 2.0)]}))
    runs[1]["curve"]["train"] = []  # one look and no training, as a curve of counting has it
    counted, resumed = courses(league, runs, "seconds")
    assert counted.whole and not resumed.whole and resumed.end == 50


def test_the_lead_goes_from_one_to_another() -> None:
    found = [course("a", FALLING), course("c", [(0.5, 2.5)], whole=True), course("e", [(0.1, 3.0)], whole=True)]
    assert leads(found) == [
        Lead("e", 0.1, 0.5),
        Lead("c", 0.5, pytest.approx(10**1.5)),
        Lead("a", pytest.approx(10**1.5), None),
    ]
    assert leads([]) == [] and leads(found[:1]) == [Lead("a", 1.0, None)]


def test_the_lead_is_that_of_a_dense_grid() -> None:
    chance = np.random.default_rng(0)
    for _ in range(30):
        found = []
        for number in range(int(chance.integers(1, 7))):
            looks = [
                list(zip(np.unique(chance.integers(1, 500, 5)), np.sort(chance.uniform(1, 5, 5))[::-1], strict=False))
                for _ in range(int(chance.integers(1, 4)))
            ]
            found.append(course(str(number), *looks, whole=chance.random() < 0.2))
        told = leads(found)
        places = np.exp(chance.uniform(math.log(told[0].first), math.log(600), 200))
        bits = np.stack([np.nan_to_num(each.mean(places), nan=np.inf) for each in found])
        for place, here in zip(places, bits.T, strict=True):
            run = [each.run for each in told if each.first <= place][-1]
            assert here[int(run)] == pytest.approx(here.min(), abs=1e-9)


def test_seeds_count_once_all_were_looked_at_and_until_one_ends() -> None:
    both = course("a", FALLING, [(10, 3.0), (1000, 1.0)])
    assert (both.first, both.last) == (10, 100) and np.isnan(both.mean(np.array([9.0]))[0])
    met = meeting(both, course("c", [(0.5, 2.9)], whole=True))
    assert met is not None and met.passings == [(pytest.approx(10**1.1), "a")]
    assert both.done == 1000 and both.mean(np.array([both.done]))[0] == 1.5
    apart = course("d", [(1, 3.0), (5, 2.0)], [(10, 3.0), (20, 1.0)])
    assert (apart.first, apart.last, apart.mean(np.array([10.0]))[0]) == (10, 10, 2.5)


def test_seeds_are_a_mean_with_its_spread_and_a_range_of_passings() -> None:
    league, runs = ladder((4, "04-c", COUNTED), (11, "11-a", {"looks": FALLING}))
    _, more = ladder((11, "11-b", {"looks": [(1, 4.4), (100, 2.4)]}))
    league[1]["runs"] = ["11-a", "11-b"]
    told = frontiers(league, runs + more, SIZES)["learning"]["seconds"]
    at_ten = told["reached"]["11-a"][1]  # 3.0 and 3.4
    assert at_ten["bits_per_byte"] == pytest.approx(3.2) and at_ten["spread"] == pytest.approx(0.2 * 2**0.5)
    (met,) = told["meetings"]
    assert met["passings"] == [{"at": pytest.approx(10**1.7), "by": "11-a"}]
    assert met["range"] == {"low": pytest.approx(10**1.5), "high": pytest.approx(10**1.9), "pairs": 2, "of": 2}


# what it costs


def test_a_point_is_beaten_by_the_best_that_costs_no_more() -> None:
    given = {"a": (1, 5.0), "b": (2, 3.0), "c": (3, 4.0), "d": (3, 3.5), "e": (4, 3.0), "f": (4, 2.0), "g": (1, 5.0)}
    points = [{"run": run, "cost": cost, "bits_per_byte": bits} for run, (cost, bits) in given.items()]
    told = {each["run"]: each["beaten_by"] for each in pareto(points)}
    # e needs as much as b and costs more, and f is better for the same; a and g are equal: neither is beaten
    assert told == {"a": None, "g": None, "b": None, "c": "b", "d": "b", "e": "f", "f": None}


def test_the_frontier_is_what_no_other_point_dominates() -> None:
    chance = np.random.default_rng(1)
    for _ in range(50):
        drawn = chance.integers(0, 6, (8, 2)).tolist()
        points = [{"run": str(at), "cost": cost, "bits_per_byte": bits} for at, (cost, bits) in enumerate(drawn)]
        for each in pareto(points):
            x, y = each["cost"], each["bits_per_byte"]
            assert (each["beaten_by"] is None) == (not any(a <= x and b <= y and (a < x or b < y) for a, b in drawn))


def test_marks_are_round_and_the_last_holds_all() -> None:
    assert marks(2_048, 4_145_421) == [1e4, 1e5, 1e6, 1e7]
    assert marks(204_800, 1_835_008) == [5e5, 1e6, 2e6]
    assert marks(1_000, 1_000) == [1_000]


def test_the_answers_follow_from_the_figures() -> None:
    quick = {"bits": 2.5, "disk": 9e5, "parameters": 100.0, **COUNTED}
    near = {"bits": 2.015, "disk": 3e6, "parameters": 1e4, "speed": 5e4, "looks": [(5, 3.0), (50, 2.2)]}
    best = {"bits": 2.0, "disk": 5e6, "parameters": 1e5, "speed": 100.0, "looks": FALLING}
    told = frontiers(*ladder((4, "04-quick", quick), (9, "09-near", near), (11, "11-best", best)), SIZES)
    asked = {each["asked"]: each for each in told["answers"]}
    # 09 at 10 s: 3 - 0.8 log10 2 = 2.759; both stand at their ends, 2.2 and 2.0, after 10 minutes; 2.5 counts at 1 min
    # no more, for 09 is at 2.2 then and 11 at 4 - log10 60 = 2.222
    names = {said: each["run"] for said, each in asked.items()}
    assert [names[f"within {time} of training"] for time in ("1 s", "10 s", "1 min", "10 min")] == [
        "04-quick",
        "04-quick",
        "09-near",
        "11-best",
    ]
    behind = asked["within 1 min of training"]["next"]
    assert behind == {"run": "11-best", "more": pytest.approx(0.0218, abs=1e-4), "margin": None, "p": None}
    assert [names[f"under {size} on disk"] for size in ("1 MB", "4 MB", "16 MB")] == ["04-quick", "09-near", "11-best"]
    assert asked["under 16 MB on disk"]["next"]["more"] == pytest.approx(0.015)
    assert asked["under 16 MB on disk"]["next"]["margin"] == pytest.approx(0, abs=1e-9)  # alike in every part
    assert names["fastest within 1 % of the best"] == "09-near"  # 2.015 is no more than 2.02
    assert {each["split"] for each in told["answers"] if each["axis"] in ("seconds", "tokens")} == {"validation"}
    assert {each["split"] for each in told["answers"] if each["axis"] not in ("seconds", "tokens")} == {"held-out"}
    assert short_answer(told) == [
        "Within 1 s to 10 s of training: 4 quick; within 1 min of training: 9 near; within 10 min of training: 11 best.",
        "Under 1 MB on disk: 4 quick; under 4 MB on disk: 9 near; under 16 MB on disk: 11 best.",
        "Fastest within 1 % of the best: 9 near.",
    ]


def test_what_the_text_cannot_tell_apart_is_said() -> None:
    league, runs = ladder((4, "04-a", {"bits": 2.0}), (5, "05-b", {"bits": 2.01}))
    runs[1]["score"]["nats"] = (np.array([2.5, 1.5, 2.6, 1.44]) * math.log(2) * SIZES).tolist()
    (line,) = [line for line in short_answer(frontiers(league, runs, SIZES)) if "on disk" in line]
    assert line == "Under 1 MB to 16 MB on disk: 4 a (not told apart from 5 b)."


def test_what_seeds_cannot_tell_apart_is_said_though_the_text_could() -> None:
    """The means of seeds are 2.0 and 2.1 in every part of the text, but the seeds of one are 0.6 apart."""
    rows = [(4, "04-a", {"bits": 2.0}), (5, "05-b", {"bits": 1.8}), (5, "05-b-1", {"bits": 2.4})]
    league, runs = ladder(*rows)
    league = [league[0], league[1] | {"runs": ["05-b", "05-b-1"], "bits_per_byte": 2.1, "seed_spread": 0.42}]
    (line,) = [line for line in short_answer(frontiers(league, runs, SIZES)) if "on disk" in line]
    assert line == "Under 1 MB to 16 MB on disk: 4 a (not told apart from 5 b)."
    runs[1]["score"], runs[2]["score"] = ({"nats": (bits * math.log(2) * SIZES).tolist()} for bits in (2.0999, 2.1001))
    (line,) = [line for line in short_answer(frontiers(league, runs, SIZES)) if "on disk" in line]
    assert line == "Under 1 MB to 16 MB on disk: 4 a."


@pytest.mark.parametrize(
    ("apart", "said"),
    [
        (0.6, "Within 1 s of training: 4 a; within 10 s to 10 min of training: 4 a (not told apart from 5 b)."),
        (0.002, "Within 1 s to 10 min of training: 4 a."),
    ],
)
def test_what_seeds_cannot_tell_apart_on_the_way_is_said(apart: float, said: str) -> None:
    """By counting 2.0; by two seeds 2.1 in the end, so far apart or nearly alike, and both 3.0 after a second."""
    seeds = {"05-b": 2.1 - apart / 2, "05-b-1": 2.1 + apart / 2}
    rows = [(5, run, {"looks": [(1, 3.0), (500, bits)]}) for run, bits in seeds.items()]
    league, runs = ladder((4, "04-a", {"gradients": False, "looks": [(0.5, 2.0)]}), *rows)
    league = [league[0], league[1] | {"runs": [*seeds]}]
    assert short_answer(frontiers(league, runs, SIZES))[0] == said


# what is shown


def told_of(*given: tuple[int, str, dict[str, Any]]) -> dict[str, Any]:
    league, runs = ladder(*given)
    return {"league": league, "runs": runs, "frontiers": frontiers(league, runs, SIZES)}


def shown(told: dict[str, Any]) -> str:
    return section(told, lambda draw: draw(760) + draw(328)) + "\n".join(frontier_markdown(told, _table))


def test_passings_stand_in_the_row_of_who_is_ahead() -> None:
    far = {"looks": [(1e4, 1.0), (1e5, 0.5)]}
    told = told_of((4, "04-c", COUNTED), (9, "09-a", {"looks": FALLING}), (11, "11-far", far))
    rows = [[cell.text for cell in row] for row in passings(told["frontiers"], "seconds").rows]
    assert rows == [["4 c", "", "", ""], ["9 a", "31.6 s", "", "–"], ["11 far", "✓", "–", ""]]
    assert passed(told["frontiers"], "seconds") == ["9 a passes 4 c at 31.6 s"]
    assert passed(told["frontiers"], "tokens") == ["9 a passes 4 c at 316 tokens"]
    assert shown(told).count("picked on the text it is judged on") == 2  # on both pages
    assert "9 a passes 4 c at 31.6 s" in shown(told) and "validation text" in shown(told)


def test_what_was_not_looked_at_is_empty_and_what_ended_is_marked() -> None:
    told = told_of((4, "04-c", COUNTED), (9, "09-a", {"looks": [(5, 3.0), (50, 2.0)]}))
    rows = [[cell.text for cell in row] for row in reached(told["frontiers"], "seconds").rows]
    # at 10 s: 3 - log10 2
    assert rows[0] == ["4 c", "2.5000", "2.5000", "2.5000", "2.5000", "from 0.5 s to 15.8 s"]
    assert rows[1] == ["9 a", "", "2.6990", "2.0000 °", "2.0000 °", "from 15.8 s"]


@pytest.mark.parametrize(
    "given",
    [
        [(9, "09-a", {"looks": FALLING})],
        [(9, "09-a", {"looks": [(3, 2.0)]})],
        [(1, "01-a", COUNTED)],
        [(9, "09-a", {})],
        [(9, "09-a", {}), (11, "11-b", {"looks": FALLING})],
        [(9, "09-a", {"bits": math.inf, "looks": FALLING}), (11, "11-b", {"bits": None})],
        [(9, "09-a", {"parameters": None, "speed": 0.0})],
    ],
    ids=["one run", "one look", "one that counts", "no curve", "one without a curve", "impossible", "no figures"],
)
def test_few_runs_are_shown_as_well(given: list[Any]) -> None:
    for _, _, more in given:
        if "bits" in more and more["bits"] is None:
            more["bits"] = math.inf
    league, runs = ladder(*given)
    for row, run in zip(league, runs, strict=True):
        if row["bits_per_byte"] == math.inf:
            row |= {"bits_per_byte": None, "margin": None}
            run["score"]["nats"] = [None] * len(SIZES)
    told = {"league": league, "runs": runs, "frontiers": frontiers(league, runs, SIZES)}
    text = shown(told)
    assert "nan" not in text and "inf" not in text and "None" not in text
    assert (NO_CURVE in text) == (not any(run["curve"]["valid"] for run in runs))
    for row in league:
        assert labels(league)[row["run"]] in text


def test_quantised_copies_go_by_their_own_names_and_sizes() -> None:
    small = {"bits": 2.1, "disk": 6e5}
    told = told_of((11, "11-m2", {"disk": 4e6, "looks": FALLING}), (11, "11-four-bits", small))
    assert told["frontiers"]["labels"] == {"11-m2": "11 m2", "11-four-bits": "11 four-bits"}
    assert told["frontiers"]["learning"]["seconds"]["without"] == ["11-four-bits"]
    assert "Under 1 MB on disk: 11 four-bits; under 4 MB to 16 MB on disk: 11 m2." in shown(told)
    assert "Without a learning curve: 11 four-bits." in shown(told)


def test_runs_of_one_stage_are_told_apart() -> None:
    league, runs = ladder((9, "09-gpt", {}), (11, "11-0", {}), (11, "11-1", {}), (11, "11-four-bits", {}))
    league[1]["name"] = league[2]["name"] = league[3]["name"] = "m2-gpt"
    told = told_apart({"league": league, "runs": runs, "frontiers": {"labels": labels(league)}})
    names = ["gpt", "m2-gpt", "11-1", "four-bits"]
    assert [row["name"] for row in told["league"]] == [run["name"] for run in told["runs"]] == names


def test_names_of_close_points_do_not_lie_upon_each_other() -> None:
    frame = Frame(760, (1.0, 100.0), (1.0, 2.0), 10, logarithmic=True)
    places = [(300 + 3.0 * at, 200 + 2.0 * at) for at in range(9)]
    taken = [(x - 5, y - 5, x + 5, y + 5) for x, y in places]
    for place in places:
        _beside(place, "9 simple-gpt", True, taken, frame)
    names = taken[len(places) :]
    assert all(_overlap(one, other) == 0 for one in names for other in taken if one is not other)
