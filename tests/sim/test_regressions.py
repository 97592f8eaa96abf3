"""Defects that storms have brought up, each as the smallest scene that shows it."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from mesh import messages as m
from mesh.core.admission import Bounds
from mesh.core.dead_letters import Chosen
from mesh.core.dispatch import Budgets
from mesh.core.owner import Limits
from mesh.messages import Flag
from mesh.sim.client import SimClient
from mesh.sim.history import Job, Run
from mesh.sim.node import SimNode
from mesh.sim.router import SimRouter
from mesh.sim.slot import SimSlot
from mesh.sim.world import NodePlan, Plan, World
from mesh.states import Status
from tests.sim import workload
from tests.sim.scale import small_world
from tests.sim.storm import Climate, Script


class Scene:
    """One host with one client and one node, in simulated time."""

    def __init__(self, *, slots: int = 1, seed: str = "scene", resident_max: int = 100_000) -> None:
        limits = Limits(Bounds(100_000, 1 << 30), None, 64 << 20, Budgets(crash=3, lost=20), resident_max)
        plan = Plan((NodePlan("A", "n0@A", ("default",), slots),), 1, limits, 10_000, with_codec=True, with_peers=False)
        self.world = World(seed, plan)
        self.script = Script(seed, Climate("by hand", (), crashing=False), plan, ())
        self.pass_time(1.0)

    @property
    def router(self) -> SimRouter:
        return self.world.routers["A"]

    @property
    def client(self) -> SimClient:
        return self.world.clients["c0@A"]

    @property
    def node(self) -> SimNode:
        return self.world.nodes["n0@A"]

    @property
    def slot(self) -> SimSlot:
        return self.world.living_slots()[0]

    def pass_time(self, for_s: float) -> None:
        self.world.timeline.run_until(self.world.timeline.mono_s + for_s)

    def until(self, condition: Callable[[], object], limit_s: float = 10.0) -> None:
        """Passes time in small steps until it is so."""
        deadline_s = self.world.timeline.mono_s + limit_s
        while not condition():
            assert self.world.timeline.mono_s < deadline_s, "it never came to that"
            self.pass_time(0.0001)

    def call(
        self,
        count: int = 1,
        *,
        run_us: int = 1_000,
        flags: int = 0,
        crashes: int = 0,
        retries: int = 0,
        name: str = "task",
    ) -> None:
        spec = workload.Spec(name, "default", 0, flags, Job(run_us, crashes, retries), 0, None, None, None)
        clients = self.world.living_clients()
        workload.call(self.world, clients.index(self.client), (spec,) * count)

    def teach(self) -> None:
        """Lets the router learn that tasks are tiny, so that it leases several at a time."""
        self.call(40, run_us=10)
        self.until(lambda: not self.client.calls.open)

    @property
    def runs(self) -> list[list[Run]]:
        return list(self.world.history.runs.values())

    def all_ended(self) -> bool:
        return not self.client.calls.open and not self.router.owner.dispatch.open


@pytest.fixture
def scene() -> Scene:
    return Scene()


def test_a_pipe_that_refuses_tasks_makes_them_wait_and_run_once() -> None:
    scene = Scene(slots=2)
    slot = scene.slot
    slot._router.full = True

    scene.call(10)
    scene.pass_time(0.5)
    slot._router.heal()

    scene.until(scene.all_ended)
    assert [len(runs) for runs in scene.runs] == [1] * 10
    scene.call(2, run_us=50_000)
    scene.until(lambda: slot.busy)  # it gets work again, though it never had anything to say


def test_a_refused_grant_does_not_take_away_what_the_slot_runs(scene: Scene) -> None:
    scene.call(run_us=500_000, flags=Flag.EARLY_ACK)
    scene.until(lambda: scene.slot.busy)
    scene.slot._router.cut(0.2, keep=True)

    scene.call(5, run_us=10)

    scene.until(scene.all_ended)
    assert [len(runs) for runs in scene.runs] == [1] * 6
    assert all(one.ending is not None and one.ending.status == Status.SUCCESS for one in scene.client.pending.values())


def test_a_task_whose_message_to_the_slot_was_lost_is_run_after_all(scene: Scene) -> None:
    scene.slot._router.drop()
    scene.call()
    scene.until(lambda: scene.router.owner.dispatch.consumers[scene.slot._router.peer].held)
    scene.pass_time(0.01)
    scene.slot._router.heal()

    scene.until(scene.all_ended)
    assert [len(runs) for runs in scene.runs] == [1]


def test_a_message_lost_between_others_is_noticed_by_the_gap_in_the_numbers() -> None:
    scene = Scene(slots=1)
    scene.teach()
    scene.call(1, run_us=300_000)
    scene.until(lambda: scene.slot.busy)
    held = scene.router.owner.dispatch.consumers[scene.slot._router.peer].held
    last = max(held)
    # A grant that never comes: the numbers jump.
    scene.slot._router._inbox.append(scene.slot.wire.parcel(m.Tasks(last + 3, 0, []), ()))

    scene.until(lambda: not scene.slot.busy)
    scene.pass_time(0.01)

    assert scene.router.owner.dispatch.consumers[scene.slot._router.peer].held == {}


def test_a_lost_answer_to_a_recall_does_not_hold_up_what_another_slot_could_run() -> None:
    scene = Scene(slots=2)
    scene.teach()
    consumers = scene.router.owner.dispatch.consumers
    scene.call(1, run_us=5_000_000)
    scene.call(60, run_us=10)
    scene.node.link.drop()
    scene.until(lambda: any(consumer.recalling for consumer in consumers.values()))
    scene.pass_time(0.05)
    scene.node.link.heal()
    assert len(scene.client.calls.open) > 1

    scene.until(lambda: len(scene.client.calls.open) == 1, limit_s=2.0)
    scene.until(scene.all_ended)
    assert {len(runs) for runs in scene.runs} == {1}


def test_a_slot_whose_death_was_reported_in_vain_gives_its_task_back(scene: Scene) -> None:
    scene.call(run_us=500_000)
    scene.until(lambda: scene.slot.busy)
    scene.node.link.drop()
    scene.world.kill(scene.slot)
    scene.pass_time(0.05)
    scene.node.link.heal()

    scene.until(scene.all_ended)
    assert [len(runs) for runs in scene.runs] == [2]
    assert len(scene.router.owner.dispatch.consumers) == 1


def test_a_lost_confirm_is_made_good_even_where_no_result_follows(scene: Scene) -> None:
    scene.call(run_us=60_000_000, flags=Flag.IGNORE_RESULT)
    scene.until(lambda: scene.router.owner.dispatch.open)
    scene.client._link.drop()
    scene.pass_time(0.1)
    scene.client._link.heal()
    assert scene.client.calls.unconfirmed == 1

    scene.until(lambda: not scene.client.calls.open)


def test_tasks_that_kill_their_slots_do_not_hold_up_the_others(scene: Scene) -> None:
    scene.call(6, crashes=99)
    scene.call(20)

    scene.until(scene.all_ended, limit_s=2.0)


def test_what_may_run_at_most_once_is_not_run_again_where_nobody_knows_whether_it_began(scene: Scene) -> None:
    scene.call(run_us=500_000, flags=Flag.EARLY_ACK)
    scene.until(lambda: scene.slot.busy)
    scene.world.pages.clear()
    scene.world.kill(scene.node)
    scene.world.start_all()

    scene.until(scene.all_ended)
    assert [len(runs) for runs in scene.runs] == [1]


def test_what_a_slot_ran_at_most_once_before_it_died_is_not_run_again(scene: Scene) -> None:
    scene.teach()
    before = len(scene.runs)
    # Tiny tasks whose outcomes are held back a moment, then one that kills the slot.
    scene.call(5, run_us=10, flags=Flag.EARLY_ACK)
    scene.call(1, run_us=10, crashes=1)

    scene.until(scene.all_ended)
    assert [len(runs) for runs in scene.runs[before:]] == [1, 1, 1, 1, 1, 2]


def test_leases_begun_after_the_template_died_are_not_given_to_others_as_unbegun() -> None:
    for seed in range(5):
        scene = Scene(slots=2, seed=f"template {seed}")
        scene.teach()
        scene.call(60, run_us=100, flags=Flag.EARLY_ACK)
        scene.until(lambda scene=scene: scene.slot.busy)  # type: ignore[misc]
        scene.node.lose_template()
        scene.until(lambda scene=scene: not scene.node.alive)  # type: ignore[misc]
        scene.world.start_all()

        scene.until(scene.all_ended)
        assert {len(runs) for runs in scene.runs} == {1}


@pytest.mark.parametrize("seed", range(8))
def test_hellos_over_several_links_leave_the_last_one_in_charge(seed: int) -> None:
    scene = Scene(slots=3, seed=f"hello {seed}")
    scene.world.kill(scene.router)
    scene.world.start_router("A")
    scene.router.pause(0.9)  # everybody says HELLO again and again meanwhile
    scene.pass_time(2.0)

    peers = {slot._router.peer for slot in scene.world.living_slots()}
    assert scene.router.owner.dispatch.consumers.keys() == peers
    assert scene.router.owner.membership.nodes["n0@A"].peer == scene.node.link.peer
    assert scene.router.owner.intake.connected.keys() == {scene.client._link.peer}


def test_a_process_that_hears_hello_ok_from_a_dead_router_looks_for_its_successor() -> None:
    for seed in range(20):
        scene = Scene(seed=f"dead router {seed}")
        scene.world.kill(scene.router)
        scene.world.start_router("A")
        scene.until(lambda scene=scene: scene.router.owner.dispatch.consumers)  # type: ignore[misc]
        scene.world.kill(scene.router)
        scene.world.start_router("A")
        scene.pass_time(1.0)

        scene.call()
        scene.until(scene.all_ended)


def test_a_slot_that_has_to_join_anew_listens_though_it_holds_tasks(scene: Scene) -> None:
    router, slot = scene.slot._router, scene.slot
    record = [b"x" * 16, "task", 0, 0, b"10,0,0", 0, None]
    router.put(slot.wire.parcel(m.Tasks(slot.work.last_lease + 1, 0, [record]), ()))
    router.put(slot.wire.parcel(m.NeedHello(b"boot"), ()))
    scene.pass_time(0.1)

    assert slot.joined
    scene.call()
    scene.until(scene.all_ended)
    assert [len(runs) for runs in scene.runs] == [1]


def test_a_hello_on_the_control_link_is_said_again(scene: Scene) -> None:
    scene.client.request("ping", None, 5.0)
    scene.pass_time(0.00005)
    scene.until(lambda: scene.client._control is not None)
    assert scene.client._control is not None
    scene.client._control.drop()
    scene.pass_time(0.3)

    scene.until(lambda: scene.client.replies)
    assert scene.client.replies[0][1].values.keys() == {"n0@A"}


def test_who_watches_a_call_whose_result_is_ignored_is_told_that_there_is_none(scene: Scene) -> None:
    scene.world.start_client("A", "watcher@A")
    watcher = scene.world.clients["watcher@A"]
    scene.until(lambda: watcher.is_ready)
    scene.call(run_us=100_000, flags=Flag.IGNORE_RESULT)
    scene.until(lambda: scene.router.owner.dispatch.open)

    watcher.watch_task(next(iter(scene.world.history.published)))

    scene.until(lambda: watcher.watching[0].ending is not None or watcher.watching[0].failure is not None, limit_s=0.5)
    assert not scene.router.owner.answers.watchers


def test_a_lost_result_reaches_who_watches_after_all(scene: Scene) -> None:
    scene.world.start_client("A", "watcher@A")
    watcher = scene.world.clients["watcher@A"]
    scene.until(lambda: watcher.is_ready)
    scene.call(run_us=100_000)
    scene.until(lambda: scene.router.owner.dispatch.open)
    watcher.watch_task(next(iter(scene.world.history.published)))
    scene.until(lambda: scene.router.owner.answers.watchers)
    watcher._link.drop()
    scene.until(scene.all_ended)
    scene.pass_time(0.1)
    watcher._link.heal()

    scene.until(lambda: watcher.watching[0].ending is not None)


def test_what_survives_power_loss_and_may_run_at_most_once_is_not_run_again_after_one(scene: Scene) -> None:
    scene.call(run_us=100_000)
    scene.until(lambda: scene.slot.busy)
    scene.call(flags=Flag.EARLY_ACK | Flag.SYNCED)
    scene.until(scene.all_ended)
    scene.world.kill_host("A", 0.1, power=True)

    scene.pass_time(1.0)
    scene.until(lambda: not scene.router.owner.dispatch.open)
    assert len(scene.runs[-1]) == 1


def test_a_dead_letter_that_is_replayed_dies_and_is_replayed_before_the_disk_hears_of_it(scene: Scene) -> None:
    scene.call(crashes=99)
    scene.until(lambda: len(scene.router.owner.graveyard.letters) == 1)
    disk = scene.world.disks["A"]
    disk.stall_s = 5.0
    for _ in range(2):
        scene.client.request("dead_replay", None, 5.0)
        scene.until(lambda: scene.router.owner.dispatch.open)
        scene.until(lambda: len(scene.router.owner.graveyard.letters) == 1)
    disk.heal()

    scene.until(lambda: scene.router.owner.ledger.is_settled, limit_s=20.0)
    scene.router.owner.check()
    assert disk.numbers >= {letter.row for letter in scene.router.owner.graveyard.letters.select(Chosen())}


def test_what_may_run_at_most_once_is_given_up_where_a_full_disk_and_the_router_lost_its_outcome(scene: Scene) -> None:
    scene.call(flags=Flag.EARLY_ACK | Flag.IGNORE_RESULT)
    scene.until(lambda: scene.runs and scene.slot.busy)
    scene.world.disks["A"].full = True
    scene.pass_time(2.0)  # the slot is let off its outcome, though it can't be written
    scene.world.kill(scene.router)
    scene.world.disks["A"].heal()
    scene.world.start_router("A")

    scene.pass_time(2.0)
    scene.until(lambda: not scene.router.owner.dispatch.open)
    assert [len(runs) for runs in scene.runs] == [1]


def test_what_was_withdrawn_as_it_began_is_not_taken_for_what_has_run_by_the_next_router(scene: Scene) -> None:
    page, slot = scene.node.page, scene.slot
    page.withdraw(0, slot.work.last_lease + 1)
    scene.call(flags=Flag.EARLY_ACK)
    scene.until(lambda: scene.world.history.counts["withdrawn in time"])
    scene.world.kill(scene.router)
    scene.world.start_router("A")

    scene.until(scene.all_ended)
    assert [len(runs) for runs in scene.runs] == [1]
    assert all(one.ending is not None and one.ending.status == Status.SUCCESS for one in scene.client.pending.values())


def test_a_second_router_finds_the_pages_of_dead_slots_while_the_journal_does_not_say_what_came_of_them(
    scene: Scene,
) -> None:
    scene.call(run_us=500_000, flags=Flag.EARLY_ACK)
    scene.until(lambda: scene.slot.busy)
    scene.world.down.add("A")
    for process in scene.world.living():
        if process.host == "A":
            scene.world.kill(process)
    scene.world.down.clear()
    for _ in range(2):
        scene.world.start_router("A")
        scene.world.kill(scene.router)
    scene.world.start_all()

    scene.pass_time(2.0)
    assert [len(runs) for runs in scene.runs] == [1]
    assert scene.world.pages.keys() == {node.page_path for node in scene.world.living_nodes()}


def test_the_page_of_a_node_whose_name_is_taken_goes_with_it(scene: Scene) -> None:
    SimNode(scene.world, "A", "n0@A", ("default",), 1)
    scene.pass_time(1.0)
    assert scene.world.pages.keys() == {node.page_path for node in scene.world.living_nodes()}


def test_a_retry_waits_for_its_time_though_the_router_dies_and_the_slot_that_ran_it_lives(scene: Scene) -> None:
    for flags in (Flag.NONE, Flag.EARLY_ACK):
        scene.call(run_us=200_000, flags=flags, retries=1)
        scene.until(lambda: scene.router.owner.dispatch.schedule)
        scene.pass_time(0.5)
        scene.world.kill(scene.router)
        scene.world.start_router("A")

        scene.until(scene.all_ended)
        first, second = scene.runs[-1]
        assert first.finished_s is not None
        assert second.began_s >= first.finished_s + 2.0


def test_a_slot_that_dies_before_it_joins_the_next_router_is_one_that_crashed(scene: Scene) -> None:
    scene.call(run_us=500_000)
    scene.until(lambda: scene.slot.busy)
    scene.pass_time(0.1)
    scene.world.kill(scene.router)
    scene.world.start_router("A")
    scene.until(lambda: scene.node.joined and scene.router.owner.membership.nodes)
    scene.world.kill(scene.slot)

    scene.until(lambda: any(task.causes for task in scene.router.owner.dispatch.open.values()))
    task = next(iter(scene.router.owner.dispatch.open.values()))
    assert (task.crashes, task.losses) == (1, 0)
    assert not scene.router.owner.intake.begun_elsewhere


def test_the_page_of_a_living_node_stays_though_its_slots_die_before_it_joins_the_next_router(scene: Scene) -> None:
    scene.node.link.drop()
    scene.world.kill(scene.router)
    scene.world.start_router("A")
    scene.world.kill(scene.slot)
    scene.pass_time(1.0)
    assert scene.node.page_path in scene.world.pages


def test_the_page_of_a_dead_slot_stays_while_the_disk_is_full(scene: Scene) -> None:
    scene.call(run_us=500_000, flags=Flag.EARLY_ACK)
    scene.until(lambda: scene.slot.busy)
    scene.world.disks["A"].full = True
    scene.world.kill(scene.node)
    scene.pass_time(1.0)
    scene.world.kill(scene.router)
    scene.world.disks["A"].heal()
    scene.world.start_all()

    scene.pass_time(2.0)
    assert [len(runs) for runs in scene.runs] == [1]


def test_what_was_paged_out_runs_though_all_before_it_was_revoked() -> None:
    with small_world(is_small=True):
        scene = Scene(resident_max=0)
        scene.call(run_us=500_000)
        scene.until(lambda: scene.slot.busy)
        scene.call(100)
        scene.until(lambda: scene.router.owner.dispatch.paged_count and scene.router.owner.ledger.is_settled)
        in_memory = list(scene.router.owner.dispatch.open)
        scene.client.request("revoke", None, 2.0, {"ids": in_memory[1:]})

        scene.until(scene.all_ended)
        scene.pass_time(1.0)
        assert not scene.router.owner.dispatch.paged_count


def test_a_block_whose_row_is_damaged_is_given_up_with_all_behind_it() -> None:
    with small_world(is_small=True):
        scene = Scene(resident_max=0)
        scene.call(run_us=500_000)
        scene.until(lambda: scene.slot.busy)
        scene.call(100)
        scene.until(lambda: scene.router.owner.dispatch.paged_count and scene.router.owner.ledger.is_settled)
        for row in scene.world.disks["A"].task_rows:
            scene.world.disks["A"].damage(row)

        scene.until(scene.all_ended)
        scene.until(lambda: not scene.client.calls.open)


def test_what_was_paged_out_runs_though_all_before_it_was_revoked_and_tasks_in_memory_follow() -> None:
    with small_world(is_small=True):
        scene = Scene(resident_max=0)
        scene.call(run_us=500_000)
        scene.until(lambda: scene.slot.busy)
        scene.call(100)
        dispatch = scene.router.owner.dispatch
        scene.until(lambda: dispatch.paged_count and scene.router.owner.ledger.is_settled)
        before = list(dispatch.open)[1:]
        scene.call(60, flags=Flag.TRANSIENT)
        scene.until(lambda: len(dispatch.open) == len(before) + 61)
        scene.client.request("revoke", None, 2.0, {"ids": before})

        scene.until(scene.all_ended)
        assert not dispatch.paged_count


def test_a_page_that_two_deaths_let_go_stays_until_the_journal_knows_of_both(scene: Scene) -> None:
    owner, page = scene.router.owner, scene.node.page_path
    for _ in range(2):
        owner._let_go({page})
    assert [pages for _, pages in owner._pages] == [set(), {page}]
