"""The fair queue: who is next, and who is refused."""

import random
from collections import Counter
from itertools import permutations

import msgspec
import pytest

from gateway.priority import line
from gateway.priority.fair_queue import FairQueue
from gateway.priority.types import Bounds, Outlook, Policy, QueueFull, charge
from tests.gateway.priority.asking import BOUNDS, POLICY, a_queue, an_ask, many, served, taken


def test_output_token_weighs_twice_an_input_token() -> None:
    assert charge(10, 5) == 20


@pytest.mark.parametrize("wrong", [{"weight": 0}, {"weight": 1_001}, {"charge": -1}, {"charge": 1 << 31}])
def test_ask_that_means_nothing_is_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="mean nothing"):
        an_ask("r", **wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize("floor", [0, 10_000])
def test_floor_that_leaves_nothing_to_a_group_is_refused(floor: int) -> None:
    with pytest.raises(ValueError, match="without any share"):
        Policy(floor, BOUNDS, BOUNDS, BOUNDS)


def test_open_gets_its_floor_and_priority_the_rest() -> None:
    queue = a_queue(*many(900, "priority", "investor"), *many(900, "open", "public"))
    groups = Counter(ask.group for ask in served(queue, 1_000))
    assert (groups["priority"], groups["open"]) == (700, 300)


def test_lone_group_gets_all_and_owes_nothing_afterwards() -> None:
    queue = a_queue(*many(500, "open", "public"))
    served(queue, 400)
    for ask in many(90, "priority", "investor"):
        queue.enqueue(ask)
    assert {ask.group for ask in served(queue, 2)} == {"priority"}
    # Not 100 in a row for the 400 before: the floor holds from the first hundred on.
    assert Counter(ask.group for ask in served(queue, 98))["open"] >= 28


def test_what_was_lent_is_taken_back_at_the_next_dispatch() -> None:
    queue = a_queue(*many(500, "priority", "investor"))
    served(queue, 300)
    queue.enqueue(an_ask("late", "open", "public", at=999))
    assert served(queue, 1)[0].request_id == "late"


def test_internal_is_served_only_from_what_neither_group_wants() -> None:
    asks = [an_ask("i", "internal", at=0), an_ask("o", "open", at=1), an_ask("p", "priority", at=2)]
    assert [ask.request_id for ask in served(a_queue(*asks), 3)] == ["o", "p", "i"]


def test_owners_share_by_weight() -> None:
    queue = a_queue(*many(500, owner="one"), *many(500, owner="three", weight=3))
    assert Counter(ask.owner for ask in served(queue, 400)) == {"one": 100, "three": 300}


def test_owner_that_comes_back_has_saved_nothing_up() -> None:
    queue = a_queue(an_ask("a-long", owner="back"), *many(900, owner="busy"))
    taken(queue)  # and it runs all the time, so that its owner is not forgotten
    served(queue, 500)
    for ask in many(100, owner="back"):
        queue.enqueue(ask)
    counts = Counter(ask.owner for ask in served(queue, 100))
    assert abs(counts["back"] - counts["busy"]) <= 1


def test_owner_with_many_tenants_gains_nothing() -> None:
    one = a_queue(*many(300, owner="single"), *many(300, owner="rival"))
    asks = [msgspec.structs.replace(ask, request_id=f"t{n % 7}-{n}") for n, ask in enumerate(many(300, owner="single"))]
    seven = a_queue(*asks, *many(300, owner="rival"))
    assert [ask.owner for ask in served(one, 400)] == [ask.owner for ask in served(seven, 400)]


def test_over_estimate_is_given_back_and_under_estimate_added() -> None:
    queue = a_queue(*many(300, owner="over", charge=400), *many(300, owner="under", charge=50))
    spent: Counter[str] = Counter()
    for _ in range(400):
        ask = taken(queue).ask
        queue.correct(ask.request_id, 90)
        queue.complete(ask.request_id, 100)
        spent[ask.owner] += 100
    assert abs(spent["over"] - spent["under"]) <= 100


def test_order_does_not_depend_on_which_process_was_heard_first() -> None:
    asks = [an_ask(f"r{n}", "open" if n % 2 else "priority", f"owner-{n % 3}", at=n // 2) for n in range(5)]
    orders = {tuple(ask.request_id for ask in served(a_queue(*some), 5)) for some in permutations(asks)}
    assert len(orders) == 1


def test_ask_that_no_free_slot_may_serve_blocks_nobody() -> None:
    queue = a_queue(an_ask("only-b", at=0, upstreams=("b",)), an_ask("any", at=1, upstreams=("a", "b")))
    one = taken(queue, ("a",))
    assert (one.ask.request_id, one.upstream) == ("any", "a")
    assert queue.take(("a",)) is None
    assert taken(queue, ("a", "b")).upstream == "b"


def test_owner_whose_upstream_was_away_does_not_take_the_pool_for_itself() -> None:
    queue = FairQueue(POLICY)
    for n in range(600):
        queue.enqueue(an_ask(f"here-{n}", owner="here", at=n, upstreams=("a", "b")))
        queue.enqueue(an_ask(f"far-{n}", owner="far", at=n, upstreams=("b",)))
    for _ in range(400):
        one = taken(queue, ("a",)).ask
        queue.complete(one.request_id, one.charge)
    counts: Counter[str] = Counter()
    for _ in range(100):
        one = taken(queue, ("b",)).ask
        queue.complete(one.request_id, one.charge)
        counts[one.owner] += 1
    assert abs(counts["far"] - counts["here"]) <= 2


def test_group_whose_upstream_was_away_does_not_starve_the_other() -> None:
    queue = a_queue(*many(900, "open", "public"))
    for n in range(200):
        queue.enqueue(an_ask(f"far-{n}", "priority", "investor", at=n, upstreams=("b",)))
    served(queue, 400)
    groups: Counter[str] = Counter()
    for n in range(100):
        queue.enqueue(an_ask(f"there-{n}", "open", "public", at=n, upstreams=("b",)))
    for _ in range(100):
        one = taken(queue, ("b",)).ask
        queue.complete(one.request_id, one.charge)
        groups[one.group] += 1
    assert groups["open"] >= 28


def test_full_group_refuses_and_flooding_owner_leaves_places_to_others() -> None:
    policy = Policy(3_000, BOUNDS, Bounds(waiting_max=10, wait_us_max=1), BOUNDS)
    queue = FairQueue(policy)
    for ask in many(5, owner="flood"):
        queue.enqueue(ask)
    with pytest.raises(QueueFull) as refused:
        queue.enqueue(an_ask("flood-x", owner="flood"))
    assert (refused.value.waiting, refused.value.ask.request_id) == (5, "flood-x")
    for n in range(5):
        assert queue.enqueue(an_ask(f"quiet-{n}", owner=f"quiet-{n}"))
    with pytest.raises(QueueFull):
        queue.enqueue(an_ask("one-more", owner="late"))
    assert queue.enqueue(an_ask("other-group", "priority"))


def test_ask_that_comes_twice_waits_once() -> None:
    queue = a_queue(an_ask("r"))
    assert not queue.enqueue(an_ask("r"))
    taken(queue)
    assert not queue.enqueue(an_ask("r"))
    assert queue.take(("a",)) is None
    assert queue.complete("r", 1)
    assert not queue.complete("r", 1)
    assert not queue.correct("r", 1)


def test_ask_whose_client_left_is_never_taken() -> None:
    queue = a_queue(an_ask("gone", at=0), an_ask("there", at=1))
    assert queue.cancel("gone") == an_ask("gone", at=0)
    assert queue.cancel("gone") is None
    assert taken(queue).ask.request_id == "there"
    assert queue.cancel("there") is None


def test_ask_waits_no_longer_than_its_group_lets_it() -> None:
    policy = Policy(3_000, Bounds(10, 5_000_000), Bounds(10, 9_000_000), BOUNDS)
    queue = a_queue(an_ask("p", "priority", at=0), an_ask("o", "open", at=0), policy=policy)
    assert queue.expire(4_999_999) == []
    assert [ask.request_id for ask in queue.expire(5_000_000)] == ["p"]
    assert [ask.request_id for ask in queue.expire(9_000_000)] == ["o"]
    queue.enqueue(an_ask("o", "open", at=8_000_000))
    assert queue.expire(16_999_999) == []


def test_position_is_how_many_are_taken_before_it_in_its_group() -> None:
    chance = random.Random(7)
    asks = [
        an_ask(f"r{n:02d}", owner=f"o{chance.randrange(4)}", at=n, charge=chance.randrange(1, 500), weight=1 + n % 3)
        for n in range(60)
    ]
    queue = a_queue(*asks)
    told = {ask.request_id: queue.outlook(ask.request_id, 1_000) for ask in asks}
    order = [ask.request_id for ask in served(queue, 60)]
    found = [one.position for name in order if (one := told[name]) is not None]
    assert found == list(range(1, 61))


def test_wait_is_told_from_what_goes_before_in_all_groups() -> None:
    queue = a_queue(*many(10, "priority", "investor"), *many(10, "open", "public"), an_ask("i", "internal", at=99))
    assert queue.outlook("investor-0007", 1_000) == Outlook(8, 1_000)  # 700 units of priority, 300 of open
    assert queue.outlook("public-0003", 1_000) == Outlook(4, 1_000)
    assert queue.outlook("i", 1_000) == Outlook(1, 2_000)
    assert queue.outlook("unknown", 1_000) is None


def test_owners_are_not_kept_for_ever_and_counters_stay_small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(line, "CLOCK_MAX", 1 << 30)
    monkeypatch.setattr(line, "IDLE_MAX", 20)
    queue = FairQueue(POLICY)
    for n in range(3_000):
        queue.enqueue(an_ask(f"r{n}", owner=f"owner-{n}", at=n))
        queue.enqueue(an_ask(f"w{n}", owner=f"gone-{n}", at=n))
        queue.cancel(f"w{n}")
        if n >= 10:
            one = taken(queue).ask
            queue.complete(one.request_id, one.charge)
    state = queue.state().open
    assert len(state.owners) <= 10 + 20 + 1  # waiting, remembered, and the one that just ended
    assert abs(state.clock) < 1 << 31
    assert all(abs(one.counter) < 1 << 31 for one in state.owners)


def test_moving_counters_back_changes_no_decision(monkeypatch: pytest.MonkeyPatch) -> None:
    def order() -> list[str]:
        asks = [ask for n in range(3) for ask in many(100, owner=f"o{n}", charge=100 + 31 * n, weight=1 + n)]
        return [ask.request_id for ask in served(a_queue(*asks), 300)]

    unmoved = order()
    monkeypatch.setattr(line, "CLOCK_MAX", 1 << 28)
    assert order() == unmoved


def test_floor_that_changes_holds_from_the_next_dispatch() -> None:
    queue = a_queue(*many(900, "priority", "investor"), *many(900, "open", "public"))
    served(queue, 100)
    later = FairQueue(Policy(5_000, BOUNDS, BOUNDS, BOUNDS), queue.state())
    assert Counter(ask.group for ask in served(later, 200))["open"] == pytest.approx(100, abs=1)


def test_request_that_came_back_waits_its_own_time() -> None:
    queue = a_queue(an_ask("r", at=0))
    queue.cancel("r")
    queue.enqueue(an_ask("r", at=30_000_000))
    assert queue.expire(60_000_000) == []
    assert [ask.request_id for ask in queue.expire(90_000_000)] == ["r"]


def test_older_of_an_owners_asks_is_first_wherever_both_may_be_served() -> None:
    queue = a_queue(an_ask("late", at=2, upstreams=("a", "b")), an_ask("early", at=1, upstreams=("a",)))
    assert taken(queue).ask.request_id == "early"


def test_group_that_comes_back_is_ahead_by_an_eighth_of_what_the_other_has_in_flight() -> None:
    queue = a_queue(*many(200, "open", "public"))
    for _ in range(80):
        taken(queue)
    for ask in many(200, "priority", "investor"):
        queue.enqueue(ask)
    # Open had 79 in flight at its last dispatch: priority is (79 / 8 + 1) · 0.7 / 0.3 charges behind, no more.
    groups = [taken(queue).ask.group for _ in range(60)]
    assert groups.index("open") == 26
