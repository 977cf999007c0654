"""Carrying recoveries out. The order of steps is here, what each does is the `Hands`' (the supervisor's) part."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from functools import partial

from vpctl.errors import RecoveryError, VpctlError
from vpctl.recovery.ops import EndGoneError, Hands
from vpctl.recovery.plan import RecoveryPlan, Repair
from vpctl.recovery.report import Recorder


async def repair_link(link: str, hands: Hands, recorder: Recorder) -> None:
    """Repair one link: the survivors' side at once, the other end as soon as its guest is there, then prove it.

    Two recoveries may meet at a link; the second finds it repaired.
    """
    async with hands.link_lock(link):
        await repair_held(link, hands, recorder)


async def repair_held(link: str, hands: Hands, recorder: Recorder) -> None:
    """Repair one link whose lock the caller holds; see `repair_link`."""
    try:
        await hands.prepare_host(link)
        repair = await hands.repair_of(link)
        if repair is None:
            recorder.outages.setdefault(link, recorder.since_fault())
            return
        recorder.policies[link] = repair.policy
        proved_at = await _repair(repair, hands, recorder)
    except Exception as raised:
        error = hands.foreseen(raised, "repair", link=link)
        hands.link_broken(link, error.message)
        if error is raised:
            raise
        raise error from raised
    except BaseException:
        hands.link_broken(link, "its repair was given up")
        raise
    recorder.outages[link] = recorder.since_fault(proved_at)


@contextmanager
def _step(
    name: str, target: str, vms: Sequence[str], repair: Repair, hands: Hands, recorder: Recorder
) -> Iterator[None]:
    """Time a step at these VMs. One that fails although they live speaks against the repair's policy."""
    with recorder.step(name, target):
        try:
            yield
        except VpctlError as error:
            if not isinstance(error, EndGoneError) and all(hands.is_alive(vm) for vm in vms):
                hands.policy_failed(repair)
            raise


def _device_step(
    repair: Repair, hands: Hands, recorder: Recorder, name: str, vm: str, generation: int
) -> AbstractContextManager[None]:
    """Time a step at one of the link's devices."""
    return _step(name, f"{vm}/{repair.link}.g{generation}", [vm], repair, hands, recorder)


async def _repair(repair: Repair, hands: Hands, recorder: Recorder) -> float:
    step = partial(_device_step, repair, hands, recorder)
    survivors = [vm for vm in (repair.first, repair.second) if hands.is_alive(vm)]
    for vm, generation in repair.hold:
        with step("hold", vm, generation):
            await hands.hold(vm, repair.link, generation)
    for vm, generation in repair.link_down:
        with step("unlink", vm, generation):
            await hands.link_down(vm, repair.link, generation)
    for vm, generation in repair.unplug:
        with step("unplug", vm, generation):
            await hands.unplug(vm, repair.link, generation)
    async with hands.expecting(repair.link, survivors):
        await _connect(repair, survivors, hands, recorder)
        with _step("verify", repair.link, [repair.first, repair.second], repair, hands, recorder):
            return await hands.verify(repair.link)


async def _connect(repair: Repair, survivors: Sequence[str], hands: Hands, recorder: Recorder) -> None:
    """Put a link together of which nothing is left that is to go."""
    if repair.first not in survivors or repair.link_down or repair.hold:
        # The rest of a survivor's part can be done only when the other's guest is there.
        recorder.survivor_repaired(survivors)
        survivors = []
    for vm in repair.link_up:
        await hands.until_ready(repair.second)
        with _step("link", f"{vm}/{repair.link}", [vm], repair, hands, recorder):
            await hands.link_up(vm, repair)
    for vm in repair.plugs:
        if vm not in survivors:
            await hands.until_ready(vm)
        with _device_step(repair, hands, recorder, repair.plug_step, vm, repair.generation):
            await hands.plug(vm, repair)
        recorder.survivor_repaired([vm] if vm in survivors else [])


async def connect_links(links: Sequence[str], hands: Hands, recorder: Recorder) -> list[VpctlError]:
    """Repair several links at once; a failure of one is no reason to leave another. Returns the errors."""
    errors: list[VpctlError] = []

    async def one(link: str) -> None:
        try:
            await repair_link(link, hands, recorder)
        except Exception as raised:  # whatever it is, it is this link's
            errors.append(hands.foreseen(raised, "repair", link=link))

    async with asyncio.TaskGroup() as group:
        for link in links:
            group.create_task(one(link), name=f"repair-{link}")
    return errors


async def recover_vm(plan: RecoveryPlan, hands: Hands, recorder: Recorder) -> None:
    """Fence a VM, create it again and repair its links meanwhile.

    Raises RecoveryError from the first cause: the boot's, else a link's. Whatever could be repaired, was.
    """
    if plan.recreate and not hands.is_booting(plan.vm):
        with recorder.step("fence", plan.vm):
            await hands.fence(plan.vm)
    boot_error: list[VpctlError] = []

    async def boot() -> None:
        if not plan.recreate:
            return
        try:
            with recorder.step("boot", plan.vm):
                recorder.boot_ms = await hands.boot(plan.vm)
        except Exception as raised:  # the links of others are repaired all the same
            boot_error.append(hands.foreseen(raised, "boot", vm=plan.vm))

    async with asyncio.TaskGroup() as group:
        # The survivors first: to prepare a boot takes some time, too.
        repairs = group.create_task(
            connect_links([repair.link for repair in plan.repairs], hands, recorder), name="repair-links"
        )
        group.create_task(boot(), name=f"boot-{plan.vm}")
    causes = boot_error + repairs.result()
    if causes:
        cause = causes[0]
        raise RecoveryError(f"recovery of `{plan.vm}` failed: {cause.message}", hint=cause.hint) from cause
