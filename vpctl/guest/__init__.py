"""The guest from outside: its configuration by fw_cfg, ssh into it, its heartbeat."""
