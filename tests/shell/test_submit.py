from __future__ import annotations

from datetime import timedelta

import pytest

from quota import service as quota
from scheduler import jobs, submission
from scheduler.dispatch.fake import Script
from scheduler.dispatch.limits import MAX_BUNDLE_BYTES
from scheduler.model import JobState
from store import clock
from store.engine import snapshot, transaction
from tenants.model import ProjectStatus
from tenants.service import set_project_status


def refusal(world, *args, **more):
    with pytest.raises(jobs.JobRefusedError) as caught:
        world.submit(*args, **more)
    return caught.value


def count(world):
    with snapshot(world.engine) as session:
        return len(jobs.list_jobs(session, world.principal, jobs.JobQuery()).items)


@pytest.mark.parametrize(
    ("asked", "code", "numbers"),
    [
        ({"gpus": 9}, "NEVER_FITS", {"limit": "nominal", "max_gpus": 8}),
        ({"gpus": 3, "nodes": 2}, "NEVER_FITS", {"limit": "request"}),
        ({"gpus": 1, "flavors": ("b200",)}, "NEVER_FITS", {"limit": "flavor", "flavors": "h200"}),
        ({"gpus": 1, "walltime_s": 86_401}, "NEVER_FITS", {"limit": "walltime", "max_walltime_s": 86_400}),
        ({"gpus": 0}, "BAD_JOB", {"field": "gpus"}),
        ({"gpus": -3}, "BAD_JOB", {"field": "gpus"}),
        ({"gpus": 10**12}, "BAD_JOB", {"field": "gpus", "limit": jobs.MAX_GPUS}),
        ({"walltime_s": -1}, "BAD_JOB", {"field": "walltime_s"}),
        ({"walltime_s": 0}, "WALLTIME_MISSING", {"queue": "science"}),
        ({"nodes": 0}, "BAD_JOB", {"field": "nodes"}),
        ({"command": ()}, "BAD_JOB", {"field": "command"}),
        ({"command": ("x",) * (jobs.MAX_COMMAND_ARGS + 1)}, "BAD_JOB", {"field": "command"}),
        ({"command": ("x\0",)}, "BAD_JOB", {"field": "text"}),
        ({"name": "x" * (jobs.MAX_NAME_CHARS + 1)}, "BAD_JOB", {"field": "name"}),
        ({"name": "  "}, "BAD_JOB", {"field": "name"}),
        ({"env": {f"V{n}": "" for n in range(jobs.MAX_ENV_ENTRIES + 1)}}, "BAD_JOB", {"field": "env"}),
        ({"env": {"A B": ""}}, "BAD_JOB", {"field": "env"}),
        ({"outputs": ("*",) * (jobs.MAX_OUTPUTS + 1)}, "BAD_JOB", {"field": "outputs"}),
        ({"priority": -jobs.MAX_PRIORITY - 1}, "BAD_JOB", {"field": "priority"}),
        ({"bundle_digest": "ab" * 32}, "BUNDLE_UNKNOWN", {"digest": "ab" * 32}),
    ],
)
def test_what_can_never_run_is_refused_with_what_would(world, asked, code, numbers):
    found = refusal(world, **asked)
    assert found.code == code
    assert numbers.items() <= found.numbers.items()
    assert count(world) == 0


def test_limits_take_what_lies_on_their_edge(world):
    job_id = world.submit(
        name="x" * jobs.MAX_NAME_CHARS,
        command=("x",) * jobs.MAX_COMMAND_ARGS,
        env={f"V{n}": "" for n in range(jobs.MAX_ENV_ENTRIES)},
        outputs=("*",) * jobs.MAX_OUTPUTS,
        priority=jobs.MAX_PRIORITY,
        walltime_s=86_400,
        gpus=8,
    )
    view = world.view(job_id)
    assert len(view.text.command) == jobs.MAX_COMMAND_ARGS


def test_a_claim_beyond_the_grant_is_refused_and_one_that_must_wait_is_not(world):
    project, principal = world.tenant("small", "business")
    world.award(project, 1000)
    mine = {"project": project, "principal": principal}
    first = world.submit(1, 800, **mine)
    found = refusal(world, 2, 501, **mine)
    assert (found.code, found.numbers["claim_s"], found.numbers["remaining_s"]) == (
        "BUDGET_EXHAUSTED",
        1002,
        1000,
    )
    world.turn()
    second = world.submit(1, 900, **mine)  # 200 remain, 800 are pending: it may come back
    world.turn()
    assert world.view(second).reason == "BUDGET_EXHAUSTED"
    world.finish(first)
    world.hear()
    world.turn()
    assert world.state(second) is JobState.RUNNING
    world.check()


def test_a_walltime_beyond_every_grant_is_refused(world):
    project, principal = world.tenant("short", "science")
    assert refusal(world, 1, 60, project=project, principal=principal).code == "GRANT_NOT_ACTIVE"
    assert refusal(world, 1, 60, project=project, principal=principal, flavors=()).code == "GRANT_NOT_ACTIVE"
    world.award(project, days=0)
    assert refusal(world, 1, 60, project=project, principal=principal).code == "GRANT_NOT_ACTIVE"


def test_defaults_come_from_the_queue_and_the_grants(world):
    project, principal = world.tenant("mill", "business")
    world.award(project)
    view = world.view(world.submit(1, 0, project=project, principal=principal, flavors=()))
    assert (view.request.walltime_s, view.request.flavors) == (600, ("h200",))


def test_a_suspended_project_submits_nothing_and_its_waiting_jobs_stay(world):
    job_id = world.submit()
    with transaction(world.engine) as session:
        set_project_status(session, world.project.id, ProjectStatus.SUSPENDED, actor="system", at=clock.now())
    assert refusal(world).code == "PROJECT_SUSPENDED"
    world.turn()
    assert world.view(job_id).reason == "PROJECT_SUSPENDED"
    world.check()


def test_a_project_has_a_bounded_number_of_waiting_jobs(world, monkeypatch):
    monkeypatch.setattr(submission, "MAX_PENDING_PER_PROJECT", 2)
    world.submit()
    world.submit()
    assert refusal(world).code == "QUEUE_FULL"


def test_a_held_job_starts_only_when_released(world):
    job_id = world.submit(is_held=True)
    world.turn()
    assert world.view(job_id).reason == "HELD"
    with transaction(world.engine) as session:
        assert jobs.release(session, world.principal, job_id, clock.now()).is_held is False
        jobs.release(session, world.principal, job_id, clock.now())
    world.turn()
    assert world.state(job_id) is JobState.RUNNING
    with transaction(world.engine) as session, pytest.raises(jobs.JobStateError):
        jobs.hold(session, world.principal, job_id, clock.now())
    assert world.kinds(job_id).count("job.released") == 1
    world.check()


def test_another_tenants_job_does_not_exist(world):
    job_id = world.submit()
    _, stranger = world.tenant("stranger", "business")
    with transaction(world.engine) as session:
        for act in (jobs.get, jobs.attempts_of, jobs.artefacts_of):
            with pytest.raises(jobs.JobNotFoundError):
                act(session, stranger, job_id)
        for act in (jobs.cancel, jobs.hold, jobs.release):
            with pytest.raises(jobs.JobNotFoundError):
                act(session, stranger, job_id, clock.now())
        assert jobs.list_jobs(session, stranger, jobs.JobQuery()).items == ()


def test_lists_are_paged_and_places_follow_the_order(world):
    ids = [world.submit(priority=priority) for priority in (0, 5, 0)]
    with snapshot(world.engine) as session:
        first = jobs.list_jobs(session, world.principal, jobs.JobQuery(limit=2))
        rest = jobs.list_jobs(
            session, world.principal, jobs.JobQuery(limit=2, before_id=first.next_before_id)
        )
        nothing = jobs.list_jobs(session, world.principal, jobs.JobQuery(state=JobState.RUNNING))
    assert [job.id for job in first.items + rest.items] == ids[::-1]
    assert rest.next_before_id is None
    assert nothing.items == ()
    assert [world.view(job_id).place for job_id in ids] == [1, 0, 2]


def test_bundles_are_kept_once_and_bounded(world):
    with transaction(world.engine) as session:
        digest = jobs.put_bundle(session, b"code", clock.now())
        assert jobs.put_bundle(session, b"code", clock.now()) == digest
        for data in (b"", b"x" * (MAX_BUNDLE_BYTES + 1)):
            with pytest.raises(jobs.BundleRefusedError):
                jobs.put_bundle(session, data, clock.now())
    job_id = world.submit(1, 600, Script(), bundle_digest=digest)
    world.turn()
    assert world.state(job_id) is JobState.COMPLETED


def test_figures_tell_the_cluster_and_hide_small_groups(world):
    world.submit(4)
    world.turn()
    waiting = world.submit(8)
    world.turn()
    with snapshot(world.engine) as session:
        policy = quota.policy_in_force(session, clock.now())
        use = {queue.path: queue for queue in jobs.queue_use(session, policy, clock.now())}
        public = jobs.busy_with(session, clock.now())
        whole = jobs.cluster(session)
    assert (use["science"].nominal, use["science"].used_gpus, use["science"].pending) == (8, 4, 1)
    assert (use[""].nominal, use[""].used_gpus) == (16, 4)
    assert (whole.gpus, whole.busy, whole.free, whole.is_simulated) == (16, 4, 12, True)
    assert (public.busy, public.running, public.pending, public.organisations) == (4, 1, 1, 1)
    assert [cell.name for cell in public.by_sector] == ["other"]
    assert public.wait_median_s is not None
    assert world.view(waiting).reason == "QUEUE_LIMIT"


def test_a_policy_is_entered_once_and_comes_into_force_on_its_day(world):
    later = {"policy": {**world_policy(), "version": "test-2", "effective_from": "2099-01-01"}}
    with transaction(world.engine) as session:
        at = clock.now()
        quota.enact(session, {"policy": world_policy()}, at=at, actor="system")
        quota.enact(session, later, at=at, actor="system")
        assert quota.policy_in_force(session, at).version == "test-1"
        assert quota.policy_in_force(session, at + timedelta(days=40_000)).version == "test-2"
        assert [found.policy.version for found in quota.policies(session)] == ["test-2", "test-1"]
        clash = {"policy": {**world_policy(), "effective_from": "2026-02-02"}}
        with pytest.raises(quota.PolicyExistsError):
            quota.enact(session, clash, at=at, actor="system")
        with pytest.raises(quota.NoPolicyError):
            quota.policy_in_force(session, at - timedelta(days=4_000))


def world_policy():
    return {
        "version": "test-1",
        "effective_from": "2026-01-01",
        "grounds": [{"kind": "order", "body": "authorised body", "number": "1", "date": "2025-12-25"}],
        "tree": {
            "science": {"nominal": "50%", "borrowing_limit": 0, "max_walltime": "1d"},
            "business": {
                "nominal": "50%",
                "borrowing_limit": 0,
                "default_walltime": "10m",
                "max_gpus_per_job": 8,
            },
        },
        "routes": [{"category": "university", "queue": "science"}, {"queue": "business"}],
    }


def test_an_award_needs_an_enacting_act_an_amount_and_a_period(world):
    from dataclasses import replace

    from quota.model import Ground, GroundKind

    at = clock.now()
    council = Ground(GroundKind.COUNCIL_PROTOCOL, "council", "1", at.date())
    order = Ground(GroundKind.ORDER, "authorised body", "2", at.date())
    good = quota.Award(
        project_id=world.project.id,
        flavor="h200",
        granted_s=1,
        starts_at=at,
        ends_at=at + timedelta(days=1),
        grounds=(council, order),
    )
    for bad, code in [
        (replace(good, grounds=(council,)), "NO_ENACTING_ACT"),
        (replace(good, granted_s=0), "BAD_GRANT"),
        (replace(good, granted_s=quota.MAX_GRANTED_S + 1), "BAD_GRANT"),
        (replace(good, ends_at=at), "BAD_GRANT"),
    ]:
        with transaction(world.engine) as session, pytest.raises(quota.AwardRefusedError) as caught:
            quota.award(session, bad, at=at, actor="system")
        assert caught.value.code == code
    with transaction(world.engine) as session:
        assert quota.award(session, good, at=at, actor="system").balance.remaining_s == 1
