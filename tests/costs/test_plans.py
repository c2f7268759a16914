"""Which of many plans to look at."""

from hypothesis import given
from hypothesis import strategies as st

from llmhw_helpers.costs.places import offers
from llmhw_helpers.costs.plans import Memory, Plan, Rate, order, pareto

CARDS = (*offers("Alvis"), *offers("Arrhenius"))


def plan_of(card, n, low, loss, sure):
    speed = Rate(low, 2 * low, "tokens/s", 3 * low, "made up")
    memory = Memory(1.0, {"weights": 0.5}, (0.1, 0.2))
    return Plan(CARDS[card], "bf16", n, 1, 1, 1, memory, speed, (1.0, 2.0), loss, sure, (), tokens_per_s=(low, 2 * low))


DRAWN = st.lists(  # what `plan_of` makes plans of
    st.tuples(
        st.integers(0, len(CARDS) - 1),
        st.integers(1, 4),
        st.sampled_from([1.0, 2.0, 3.0]),
        st.sampled_from([0.0, 0.02, None]),
        st.sampled_from(["yes", "perhaps"]),
    ),
    max_size=12,
)


def beats(one, other, cost):
    worse = {"yes": 0, "perhaps": 1}
    lost = [1.0 if plan.loss is None else plan.loss for plan in (one, other)]
    a = (cost(one), -one.speed.low, lost[0], worse[one.sure])
    b = (cost(other), -other.speed.low, lost[1], worse[other.sure])
    return a != b and all(x <= y for x, y in zip(a, b, strict=True))


@given(DRAWN)
def test_the_pareto_set_is_what_no_plan_beats(drawn):
    plans = [plan_of(*each) for each in drawn]
    unknown = any(plan.price_per_hour is None for plan in plans)

    def cost(plan):
        return plan.n_gpus if unknown else plan.price_per_hour

    best = pareto(plans)
    assert not any(beats(plan, kept, cost) for kept in best for plan in plans)
    for plan in plans:  # and whatever is left out has one in the set that beats it, or is its equal
        assert plan in best or any(
            beats(kept, plan, cost) or (cost(kept), kept.speed.low) == (cost(plan), plan.speed.low) for kept in best
        )


@given(DRAWN.flatmap(lambda drawn: st.tuples(st.just(drawn), st.permutations(drawn))))
def test_the_order_does_not_hang_on_how_plans_came(both):
    plans, shuffled = ([plan_of(*each) for each in drawn] for drawn in both)
    assert order(shuffled) == order(plans)
    assert pareto(shuffled) == pareto(plans)


@given(DRAWN)
def test_no_plan_beats_the_first(drawn):
    plans = [plan_of(*each) for each in drawn]
    assert not plans or order(plans)[0] in pareto(plans)


def test_the_cheapest_sure_plan_comes_first():
    cheap, dear, doubtful = (
        plan_of(2, 1, 2.0, 0.0, "yes"),
        plan_of(3, 1, 3.0, 0.0, "yes"),
        plan_of(0, 1, 1, 0, "perhaps"),
    )
    assert order([doubtful, dear, cheap]) == [cheap, dear, doubtful]


def test_price_energy_and_nodes():
    plan = plan_of(3, 4, 100.0, 0.0, "yes")  # four A100-40 of 1.84 A40-hours and 400 W
    assert plan.price == (4 * 1.84 / 3600 * 1e6 / 200, 4 * 1.84 / 3600 * 1e6 / 100)
    assert plan.joules == (1600 * 1e6 / 200, 1600 * 1e6 / 100)
    assert plan.n_nodes == 1
    assert plan_of(5, 1, 1.0, 0.0, "yes").price is None
