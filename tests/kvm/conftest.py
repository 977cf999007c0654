"""These tests are of KVM itself: they run where `make kvm` or `make kvm-here` has asked for it."""

from __future__ import annotations

import os

import pytest


@pytest.fixture(autouse=True, scope="session")
def _needs_kvm() -> None:
    """Skip where KVM was not asked for; where it was, it has to work."""
    if os.environ.get("VPCTL_ACCELERATOR") != "kvm":
        pytest.skip("needs KVM: `make kvm` (in a nested host) or `make kvm-here`")
