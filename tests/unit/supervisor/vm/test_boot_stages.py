"""The stages of a boot, and what the serial log tells of one."""

from __future__ import annotations

from pathlib import Path

import pytest

from vpctl.journal import Journal, read
from vpctl.recovery.state import BOOT_STAGES
from vpctl.supervisor.vm.boot_stages import STAGE_SECONDS, Stages


def test_a_stage_that_ends_is_timed_and_journalled_and_one_that_fails_has_only_begun(tmp_path: Path) -> None:
    journal = tmp_path / "journal"
    stages = Stages("vm1", {"qmp": 3.0}, Journal(journal))
    with stages.timed("process") as limit:
        assert limit == STAGE_SECONDS["process"]
    with pytest.raises(OSError, match="no"), stages.timed("qmp") as limit:
        assert limit == 3.0
        raise OSError("no")
    assert stages.present == "qmp"
    assert [(entry["vm"], entry["stage"]) for entry in stages.timings] == [("vm1", "process")]
    said = [(entry["attributes"]["stage"], entry["attributes"]["state"]) for entry in read(journal)]
    assert said == [("process", "begin"), ("process", "end"), ("qmp", "begin")]


def test_only_what_comes_again_is_forgotten(tmp_path: Path) -> None:
    stages = Stages("vm1", {}, Journal(tmp_path / "journal"))
    for stage in BOOT_STAGES:
        with stages.timed(stage):
            pass
    stages.forget("ssh")
    assert [entry["stage"] for entry in stages.timings] == ["process", "qmp", "kernel"]
    stages.forget(*BOOT_STAGES)
    assert stages.timings == []
