"""The supervisor: policy, QMP, ssh, recovery and the journal of one topology."""
