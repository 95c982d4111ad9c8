"""The licence decision against an oracle that says the rule in the plainest words."""

import random

from gateway.licensing.decide import Decision, Grant, LicenceIndex, decide, models_of

TENANTS, MODELS, ACTIONS = ("a", "b", "c"), ("m1", "m2"), ("chat", "completion")


def random_grant(rng: random.Random, number: int) -> Grant:
    start = rng.randrange(8)
    actions = frozenset(action for action in ACTIONS if rng.random() < 0.6)
    return Grant(f"l{number}/g", f"l{number}", 1, False, actions, start, start + rng.randrange(4, 12))


def random_index(rng: random.Random) -> dict[str, dict[str, tuple[Grant, ...]]]:
    return {
        tenant: {
            model: tuple(random_grant(rng, number) for number in range(rng.randrange(1, 5)))
            for model in MODELS
            if rng.random() < 0.7
        }
        for tenant in TENANTS
        if rng.random() < 0.8
    }


def oracle(index: LicenceIndex, tenant: str, model: str, action: str, now: int) -> bool:
    for holder, models in index.items():
        for name, grants in models.items():
            for grant in grants:
                in_time = grant.not_before <= now and now < grant.not_after
                if holder == tenant and name == model and in_time and action in grant.actions:
                    return True
    return False


def test_decision_equals_the_oracle_in_100_000_seeded_cases() -> None:
    rng = random.Random(20261124)
    allowed = 0
    for _ in range(2_000):
        index = random_index(rng)
        for _ in range(50):
            tenant, model = rng.choice((*TENANTS, *TENANTS, "z")), rng.choice((*MODELS, *MODELS, "m9"))
            case = (tenant, model, rng.choice(ACTIONS), rng.randrange(16))
            decision = decide(index, *case)
            assert decision.allowed == oracle(index, *case), (index, case)
            assert decision.allowed == (decision.grant is not None and decision.refusal == "")
            allowed += decision.allowed
    assert 10_000 < allowed < 90_000  # both answers are really exercised


def grant(not_before: int, not_after: int, *actions: str) -> Grant:
    return Grant("l/g", "l", 3, False, frozenset(actions), not_before, not_after)


def test_nothing_is_allowed_by_default() -> None:
    assert decide({}, "a", "m1", "chat", 5) == Decision(None, "no_grant")


def test_the_refusal_nearest_to_a_permission_is_told() -> None:
    index = {"a": {"m1": (grant(0, 2, "chat"), grant(9, 20, "chat"), grant(0, 20, "completion"))}}
    assert decide(index, "a", "m1", "chat", 5).refusal == "action_not_licensed"
    assert decide({"a": {"m1": (grant(9, 20, "chat"), grant(0, 2, "chat"))}}, "a", "m1", "chat", 5).refusal == (
        "licence_not_yet_valid"
    )


def test_validity_includes_its_first_and_excludes_its_last_moment() -> None:
    index = {"a": {"m1": (grant(10, 20, "chat"),)}}
    assert [decide(index, "a", "m1", "chat", at).allowed for at in (9, 10, 19, 20)] == [False, True, True, False]


def test_models_are_listed_only_while_licensed() -> None:
    index = {"a": {"m1": (grant(10, 20, "chat"),), "m2": (grant(0, 5, "chat"),)}, "b": {"m3": (grant(0, 99, "chat"),)}}
    assert models_of(index, "a", 12) == ["m1"]
    assert models_of(index, "z", 12) == []
