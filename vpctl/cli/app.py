"""The verbs, each in a module of its own, put together."""

from __future__ import annotations

import typer

from vpctl.cli import (
    bench,
    check,
    compare,
    console,
    copy,
    crash,
    doctor,
    down,
    events,
    execute,
    image,
    list_,
    logs,
    plan,
    qmp,
    recover,
    schema,
    soak,
    ssh,
    status,
    up,
    validate,
    version,
)
from vpctl.cli.verb import Verb, verb

VERBS: dict[str, Verb] = {
    "up": up.up,
    "down": down.down,
    "status": status.status,
    "list": list_.list_,
    "plan": plan.plan,
    "validate": validate.validate,
    "check": check.check,
    "compare": compare.compare,
    "bench": bench.bench,
    "crash": crash.crash,
    "recover": recover.recover,
    "soak": soak.soak,
    "events": events.events,
    "exec": execute.execute,
    "ssh": ssh.ssh,
    "cp": copy.copy,
    "console": console.console,
    "logs": logs.logs,
    "qmp": qmp.qmp,
    "doctor": doctor.doctor,
    "schema": schema.schema,
    "version": version.version,
}

IMAGE_VERBS: dict[str, Verb] = {"build": image.build, "list": image.list_, "remove": image.remove}

# What follows the VM's name is the guest's command line, options included.
PASSING_ON = {"exec": {"ignore_unknown_options": True, "allow_interspersed_args": False}}


def build_app() -> typer.Typer:
    """Return the application; called once, by `__main__`."""
    app = typer.Typer(
        name="vpctl",
        help="Pairs of virtual machines, the shared-memory links between them, and their recovery.",
        no_args_is_help=True,
        add_completion=True,
        pretty_exceptions_enable=False,
    )
    for name, function in VERBS.items():
        app.command(name, context_settings=PASSING_ON.get(name))(verb(function))
    images = typer.Typer(help="Guest images: build, list, remove.", no_args_is_help=True)
    for name, function in IMAGE_VERBS.items():
        images.command(name)(verb(function))
    app.add_typer(images, name="image")
    return app
