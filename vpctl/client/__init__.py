"""What runs in the `vpctl` command beside parsing and printing: a client of the supervisor and of the broker."""
