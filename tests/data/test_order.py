import numpy as np

from rd_hf.data.order import PlanSampler, RowOrder, StepPlan


def plan(**changes):
    settings = {
        "labelled": RowOrder(np.arange(10), seed=3, stream=0),
        "unlabelled": RowOrder(np.arange(10, 40), seed=3, stream=1),
        "labelled_size": 4,
        "unlabelled_size": 6,
    }
    return StepPlan(**(settings | changes))


def test_an_epoch_visits_every_row_once_and_the_next_one_in_another_order_and_view():
    order = RowOrder(np.arange(5, 15), seed=0, stream=0)
    first, second = order.visits(0, 10, True), order.visits(10, 20, True)
    assert sorted(v.row for v in first) == sorted(v.row for v in second) == list(range(5, 15))
    assert [v.row for v in first] != [v.row for v in second]
    assert {v.view for v in first} == {0} and {v.view for v in second} == {1}


def test_order_depends_on_seed_and_stream_alone():
    def rows(seed, stream):
        return [v.row for v in RowOrder(np.arange(30), seed, stream).visits(0, 30, True)]

    assert rows(0, 0) == rows(0, 0)
    assert rows(0, 0) != rows(1, 0) and rows(0, 0) != rows(0, 1)


def test_batches_have_labelled_rows_first_and_are_always_full():
    for step in range(7):
        batch = plan().batch(step, 0)
        assert [v.labelled for v in batch] == [True] * 4 + [False] * 6
        assert all((v.row < 10) == v.labelled for v in batch)


def test_two_processes_and_two_parts_make_up_the_batch_of_one():
    def step_rows(step, **changes):
        halves = {"labelled_size": 2, "unlabelled_size": 3}
        if "processes" in changes:
            batches = [plan(**halves, processes=2, rank=rank).batch(step, 0) for rank in range(2)]
        elif "accumulation" in changes:
            batches = [plan(**halves, accumulation=2).batch(step, part) for part in range(2)]
        else:
            batches = [plan().batch(step, 0)]
        return sorted(visit for batch in batches for visit in batch)

    for step in range(6):
        assert step_rows(step) == step_rows(step, processes=2) == step_rows(step, accumulation=2)


def test_a_sampler_that_starts_late_goes_on_where_the_whole_one_would_be():
    whole = list(PlanSampler(plan(accumulation=2), 0, 6))
    late = list(PlanSampler(plan(accumulation=2), 4, 6))
    assert len(PlanSampler(plan(accumulation=2), 4, 6)) == len(late) == 4
    assert whole[8:] == late
