"""Plans over every combination of links, generations and VMs that live."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.made import made_topology
from vpctl.recovery.plan import RecoveryPlan, Repair, plan_recovery, plan_repair
from vpctl.recovery.state import LinkState, LinkView, RingsView

VMS = ("a", "b", "c")
TOPOLOGY = made_topology(("ab0", "a", "b"), ("ba1", "b", "a"), ("bc0", "b", "c"), vms=["lonely"])

GENERATIONS = st.lists(st.integers(1, 9), unique=True, max_size=3).map(tuple)
PLUGGED = st.dictionaries(st.sampled_from(VMS), GENERATIONS)
ALIVE = st.lists(st.sampled_from([*VMS, "lonely"]), unique=True)


@st.composite
def views(draw: st.DrawFn) -> LinkView:
    """Anything that may be known of a link; what may be plugged is of its generation or an older one."""
    plugged = draw(PLUGGED)
    newest = max((number for numbers in plugged.values() for number in numbers), default=0)
    return LinkView(
        state=draw(st.sampled_from(LinkState)), generation=newest + draw(st.integers(0, 3)), plugged=plugged
    )


LINKS = st.fixed_dictionaries({link.name: views() for link in TOPOLOGY.links})


def check(repair: Repair, view: LinkView, alive: list[str], *, kept: tuple[str, ...] = ()) -> None:
    """Assert what holds for every repair."""
    ends = [end.vm for end in TOPOLOGY.link(repair.link).endpoints]
    survivors = [vm for vm in ends if vm in alive]
    assert {repair.first, repair.second} == set(ends)
    assert not survivors or repair.first in survivors
    assert repair.generation == view.generation + 1
    assert all(repair.generation > number for numbers in view.plugged.values() for number in numbers)
    expected = {(vm, number) for vm in survivors if vm not in kept for number in view.plugged.get(vm, ())}
    assert set(repair.unplug) == expected  # all of it, at nobody who is dead, at nobody else
    assert len(repair.unplug) == len(expected)
    for vm in survivors:
        numbers = [number for where, number in repair.unplug if where == vm]
        assert numbers == sorted(numbers, reverse=True)


@given(st.sampled_from(TOPOLOGY.links), views(), ALIVE)
def test_a_repair_unplugs_all_there_is_at_survivors_and_begins_at_one(link, view, alive) -> None:  # type: ignore[no-untyped-def]
    repair = plan_repair(link, view, alive)
    check(repair, view, alive)
    assert repair.policy == link.recovery.policy


@given(st.sampled_from([*VMS, "lonely"]), st.integers(0, 9), LINKS, ALIVE, st.booleans())
def test_a_recovery_repairs_every_link_of_the_vm_and_takes_it_for_dead_if_it_is_re_created(
    vm: str, generation: int, links: Mapping[str, LinkView], alive: list[str], recreate: bool
) -> None:
    plan = plan_recovery(
        TOPOLOGY.links_of(vm), vm, generation=generation, links=links, alive=alive, recreate=recreate
    )
    assert [repair.link for repair in plan.repairs] == [link.name for link in TOPOLOGY.links_of(vm)]
    assert plan.generation == generation + recreate
    for repair in plan.repairs:
        check(repair, links[repair.link], [name for name in alive if name != vm or not recreate])
    if recreate:
        assert vm not in {where for repair in plan.repairs for where, _ in repair.unplug}


@given(st.sampled_from([*VMS, "lonely"]), LINKS, ALIVE, st.booleans())
def test_what_people_are_shown_is_each_step_once_and_in_an_order_that_can_be(
    vm: str, links: Mapping[str, LinkView], alive: list[str], recreate: bool
) -> None:
    plan = plan_recovery(TOPOLOGY.links_of(vm), vm, generation=1, links=links, alive=alive, recreate=recreate)
    lines = plan.lines()
    assert len(set(lines)) == len(lines)
    assert ("fence", vm) in lines[:1] or not recreate
    for repair in plan.repairs:
        plugs = [target for name, target in lines if name == "plug" and f"/{repair.link}." in target]
        assert plugs == [f"{where}/{repair.link}.g{repair.generation}" for where in (repair.first, repair.second)]
        unplugs = [index for index, (name, target) in enumerate(lines) if name == "unplug" and repair.link in target]
        assert len(unplugs) == len(repair.unplug)
        assert max(unplugs, default=-1) < lines.index(("plug", plugs[0])) < lines.index(("verify", repair.link))
    if recreate:
        boot = lines.index(("boot", f"{vm} (generation 2)"))
        own = [index for index, (name, target) in enumerate(lines) if name == "plug" and target.startswith(f"{vm}/")]
        assert all(index > boot for index in own)


@given(st.sampled_from(TOPOLOGY.links), views(), ALIVE, st.integers(0, 1), st.booleans(), st.booleans())
def test_a_link_with_a_front_end_begins_there_whoever_lives(  # type: ignore[no-untyped-def]
    link, view, alive, end: int, served: bool, idle: bool
) -> None:
    front, other = link.endpoints[end].vm, link.endpoints[1 - end].vm
    repair = plan_repair(link, view, alive, RingsView(vm=front, served=served, idle=idle))
    assert (repair.first, repair.second) == (front, other)
    one = len(view.plugged.get(front, ())) == 1
    assert repair.keep == ((front,) if idle and front in alive and one else ())
    assert repair.link_down == ()
    assert repair.plugs == tuple(vm for vm in (front, other) if vm not in repair.keep)
    order = list(dict.fromkeys(vm for vm, _ in repair.unplug))
    expected = [vm for vm in (front, other) if vm in alive and view.plugged.get(vm) and vm not in repair.keep]
    assert order == (expected if served else expected[::-1]), "its rings stop first, unless they have already"


def test_a_back_end_that_has_survived_lets_go_and_waits_for_the_rings_of_the_new_guest() -> None:
    view = LinkView(state=LinkState.UP, generation=3, plugged={"a": (3,), "b": (2,)})
    links = made_topology(("ab0", "a", "b")).links
    rings = {"ab0": RingsView(vm="b")}
    shown = [
        plan_recovery(
            links, vm, generation=1, links={"ab0": view}, alive=["a", "b"], recreate=True, rings=rings
        ).lines()
        for vm in ("a", "b")
    ]
    assert shown == [
        [
            ("fence", "a"),
            ("unplug", "b/ab0.g2"),
            ("plug", "b/ab0.g4"),
            ("boot", "a (generation 2)"),
            ("plug", "a/ab0.g4"),
            ("verify", "ab0"),
        ],
        [
            ("fence", "b"),
            ("unplug", "a/ab0.g3"),
            ("boot", "b (generation 2)"),
            ("plug", "b/ab0.g4"),
            ("plug", "a/ab0.g4"),
            ("verify", "ab0"),
        ],
    ]


def test_by_relink_a_front_end_that_lives_keeps_its_device_and_is_linked_when_the_other_guest_is_there() -> None:
    view = LinkView(state=LinkState.UP, generation=3, plugged={"a": (3,), "b": (2,)})
    links = made_topology(("ab0", "a", "b")).links
    given = {"generation": 1, "links": {"ab0": view}, "alive": ["a", "b"], "policy": "relink"}
    rings = {"rings": {"ab0": RingsView(vm="b")}}
    assert plan_recovery(links, "a", recreate=True, **given, **rings).lines() == [  # type: ignore[arg-type]
        ("fence", "a"),
        ("unlink", "b/ab0.g2"),
        ("boot", "a (generation 2)"),
        ("link", "b/ab0"),
        ("plug", "a/ab0.g4"),
        ("verify", "ab0"),
    ]
    (repair,) = plan_recovery(links, "b", recreate=True, **given, **rings).repairs  # type: ignore[arg-type]
    assert (repair.keep, repair.link_down, repair.plugs) == ((), (), ("b", "a")), "a dead one has nothing to keep"
    lost = plan_repair(links[0], view, ["a", "b"], RingsView(vm="b", served=False), policy="relink")
    assert (lost.keep, lost.link_down) == ((), ()), "what has no back-end is not helped by its link"
    assert lost.unplug == (("a", 3), ("b", 2))


def resumed(view: LinkView, alive: list[str], **rings: bool) -> Repair:
    link = made_topology(("ab0", "a", "b")).links[0]
    return plan_repair(link, view, alive, RingsView(vm="b", **rings), policy="resume")


@pytest.mark.parametrize("policy", ["relink", "resume", "replug"])
@pytest.mark.parametrize("idle", [True, False])
def test_a_front_ends_device_that_somebody_has_removed_is_not_kept(policy: str, *, idle: bool) -> None:
    view = LinkView(state=LinkState.DOWN, generation=3, plugged={"a": (3,), "b": (2,)}, gone=frozenset({"b"}))
    (link,) = made_topology(("ab0", "a", "b")).links
    repair = plan_repair(link, view, ["a", "b"], RingsView(vm="b", idle=idle, running=not idle), policy=policy)
    assert (repair.policy, repair.keep, repair.hold, repair.link_down) == ("replug", (), (), ())
    assert sorted(repair.unplug) == [("a", 3), ("b", 2)], "what was plugged beside the device is taken out"
    assert repair.plugs == ("b", "a")


def test_by_resume_a_front_end_that_lives_is_held_as_it_is_and_the_other_guest_goes_on_with_its_rings() -> None:
    view = LinkView(state=LinkState.UP, generation=3, plugged={"a": (3,), "b": (2,)})
    links = made_topology(("ab0", "a", "b")).links
    given = {"generation": 1, "links": {"ab0": view}, "alive": ["a", "b"], "policy": "resume"}
    rings = {"rings": {"ab0": RingsView(vm="b")}}
    assert plan_recovery(links, "a", recreate=True, **given, **rings).lines() == [  # type: ignore[arg-type]
        ("fence", "a"),
        ("hold", "b/ab0.g2"),
        ("boot", "a (generation 2)"),
        ("resume", "a/ab0.g4"),
        ("verify", "ab0"),
    ]
    assert plan_recovery(links, "b", recreate=True, **given, **rings).lines() == [  # type: ignore[arg-type]
        ("fence", "b"),
        ("unplug", "a/ab0.g3"),
        ("boot", "b (generation 2)"),
        ("plug", "b/ab0.g4"),
        ("plug", "a/ab0.g4"),
        ("verify", "ab0"),
    ], "of a virtio-net end that died there is nothing to go on with"


def test_rings_that_cannot_be_gone_on_with_are_relinked_by_another_name() -> None:
    plugged = {"b": (2,)}
    view = LinkView(state=LinkState.DOWN, generation=3, plugged=plugged)
    assert resumed(view, ["b"]).policy == "resume"
    assert resumed(view, ["b"], idle=True).policy == "resume", "the broker has freed them already"
    assert resumed(view, ["a", "b"]).policy == "resume", "it is there again, and has no device yet"
    tried = replace(view, failed=frozenset({"resume"}))
    for repair in (
        resumed(view, ["b"], running=False, idle=True),
        resumed(view, ["a"]),
        resumed(replace(view, plugged={"b": (1, 2)}), ["b"]),
        resumed(replace(view, plugged={"a": (3,), "b": (2,)}), ["a", "b"]),
        resumed(tried, ["b"]),
        resumed(tried, ["a", "b"], idle=True),
    ):
        assert (repair.policy, repair.hold, repair.plug_step) == ("relink", (), "plug")
    assert resumed(view, ["b"], running=False, served=False).policy == "replug", "its back-end has died"
    assert resumed(tried, ["b"], idle=True).link_down == (("b", 2),), "they are begun anew"
    assert resumed(replace(tried, plugged={"a": (3,), "b": (2,)}), ["a", "b"]).unplug == (("a", 3),)


@given(
    st.sampled_from(TOPOLOGY.links), views(), ALIVE, st.integers(0, 1), st.booleans(), st.booleans(), st.booleans()
)
def test_a_front_end_is_held_only_where_nobody_else_can_hear_its_rings(  # type: ignore[no-untyped-def]
    link, view, alive, end: int, served: bool, idle: bool, running: bool
) -> None:
    front, other = link.endpoints[end].vm, link.endpoints[1 - end].vm
    given = RingsView(vm=front, served=served, idle=idle, running=running)
    repair = plan_repair(link, view, alive, given, policy="resume")
    lost = front in alive and not served
    assert repair.policy == ("replug" if lost else "resume" if repair.hold else "relink")
    assert not repair.hold or (served and running and front in alive and repair.keep == (front,))
    assert not repair.hold or other not in alive or not view.plugged.get(other)
    assert not repair.hold or (repair.unplug, repair.link_down, repair.link_up) == ((), (), ())


def test_by_relink_the_device_of_a_survivor_without_a_front_end_stays_if_it_can_be_told_of_another_peer() -> None:
    view = LinkView(state=LinkState.UP, generation=3, plugged={"a": (3,), "b": (2,)})
    link = made_topology(("ab0", "a", "b")).links[0]
    given = {"generation": 1, "links": {"ab0": view}, "policy": "relink"}
    assert [
        plan_recovery([link], vm, recreate=True, alive=["a", "b"], **given).lines()  # type: ignore[arg-type]
        for vm in ("a", "b")
    ] == [
        [
            ("fence", dead),
            ("unlink", f"{survivor}/ab0.g{number}"),
            ("boot", f"{dead} (generation 2)"),
            ("link", f"{survivor}/ab0"),
            ("plug", f"{dead}/ab0.g4"),
            ("verify", "ab0"),
        ]
        for dead, survivor, number in (("a", "b", 2), ("b", "a", 3))
    ]
    back = replace(view, plugged={"b": (2,)})
    assert plan_repair(link, back, ["a", "b"], policy="relink").first == "b", "who has a device, not who is first"
    for repair in (
        plan_repair(link, view, ["b"], policy="relink", unreachable=["b"]),
        plan_repair(link, view, ["a", "b"], policy="relink"),
        plan_repair(link, replace(view, plugged={"b": (1, 2)}), ["b"], policy="relink"),
        plan_repair(link, replace(view, plugged={}), ["a", "b"], policy="relink"),
        plan_repair(link, replace(back, failed=frozenset({"relink"})), ["b"], policy="relink"),
    ):
        assert (repair.policy, repair.keep, repair.link_down) == ("replug", (), ())


@given(st.sampled_from(TOPOLOGY.links), views(), ALIVE, st.sampled_from(["replug", "relink", "resume"]))
def test_without_a_front_end_whoever_is_kept_is_the_only_one_with_a_device(  # type: ignore[no-untyped-def]
    link, view, alive, policy: str
) -> None:
    repair = plan_repair(link, view, alive, policy=policy)
    ends = [end.vm for end in link.endpoints]
    holders = [vm for vm in ends if vm in alive and view.plugged.get(vm)]
    assert repair.keep in ((), (repair.first,))
    assert not repair.keep or (holders == [repair.first] and len(view.plugged[repair.first]) == 1)
    assert {repair.first, repair.second} == set(ends)
    assert (repair.policy == "replug") == (not repair.keep)
    check(repair, view, alive, kept=repair.keep)


def test_the_survivors_side_is_shown_before_the_boot() -> None:
    view = LinkView(state=LinkState.UP, generation=3, plugged={"a": (3,), "b": (2, 3)})
    links = dict.fromkeys((link.name for link in TOPOLOGY.links), view)
    plan = plan_recovery(
        made_topology(("ab0", "a", "b")).links, "a", generation=1, links=links, alive=["a", "b"], recreate=True
    )
    assert plan == RecoveryPlan(
        vm="a",
        generation=2,
        recreate=True,
        repairs=(
            Repair(link="ab0", policy="replug", generation=4, unplug=(("b", 3), ("b", 2)), first="b", second="a"),
        ),
    )
    assert plan.lines() == [
        ("fence", "a"),
        ("unplug", "b/ab0.g3"),
        ("unplug", "b/ab0.g2"),
        ("plug", "b/ab0.g4"),
        ("boot", "a (generation 2)"),
        ("plug", "a/ab0.g4"),
        ("verify", "ab0"),
    ]
