"""Commands that run things: ``up``, ``demo``, ``worker``, ``monitor``, ``migrate``."""

import os
import sys
from collections.abc import Sequence
from typing import Annotated, Any, NoReturn

import typer

from alexq.cli.options import DataDir, Device, MaxBatch, Model, Precision, Queue, given


def register(app: typer.Typer) -> None:
    """Add the commands to ``app``."""
    app.command()(up)
    app.command()(demo)
    app.command()(worker)
    app.command()(monitor)
    app.command()(migrate)


def up(
    data_dir: DataDir = None,
    device: Device = None,
    precision: Precision = None,
    max_batch: MaxBatch = None,
    model: Model = None,
    monitor_port: Annotated[
        int | None, typer.Option(help="Port of the dashboard [ALEXQ_MONITOR_PORT].", show_default=False)
    ] = None,
    gateway_port: Annotated[
        int | None, typer.Option(help="Port of the HTTP gateway [ALEXQ_GATEWAY_PORT].", show_default=False)
    ] = None,
) -> None:
    """Run broker, database, worker, HTTP gateway and dashboard on this machine until Ctrl-C."""
    from alexq.stack.up import run
    from alexq_schema.settings import Settings

    run(
        Settings.load(
            **given(
                data_dir=data_dir,
                device=device,
                precision=precision,
                max_batch=max_batch,
                model=model,
                monitor_port=monitor_port,
                gateway_port=gateway_port,
            )
        )
    )


def demo(
    data_dir: DataDir = None,
    textures: Annotated[
        bool,
        typer.Option(
            "--textures", help="Show a model that is trained here on generated textures: no network."
        ),
    ] = False,
) -> None:
    """Classify a few pictures in a stack of its own, and show the results."""
    from alexq.demo import run

    raise typer.Exit(run(data_dir, textures=textures))


def worker(
    data_dir: DataDir = None,
    device: Device = None,
    precision: Precision = None,
    max_batch: MaxBatch = None,
    model: Model = None,
    queue: Queue = None,
    all_devices: Annotated[
        bool, typer.Option("--all-devices", help="One worker for each CUDA device of this host.")
    ] = False,
    processes: Annotated[
        int, typer.Option(min=1, max=64, help="Workers on each device; more than one share its cores.")
    ] = 1,
) -> None:
    """Run one more worker, for one device, on the services of the settings or of the running stack.

    With --all-devices, or several --processes, each worker is a process of its own: one that dies is
    started again, and SIGTERM or Ctrl-C lets all of them finish what they hold.
    """
    from alexq.stack.environment import require_worker

    if all_devices and device is not None:
        raise typer.BadParameter("--all-devices and --device exclude each other")
    require_worker()
    overrides = given(
        data_dir=data_dir, device=device, precision=precision, max_batch=max_batch, model=model, queue=queue
    )
    if not all_devices and processes == 1:
        become_connected("alexq_worker", overrides)
    from alexq.stack import workers
    from alexq_schema.settings import Settings

    settings = Settings.connected(**overrides)
    devices = workers.cuda_devices() if all_devices else [settings.device]
    raise typer.Exit(workers.run(settings, devices, processes))


def monitor(data_dir: DataDir = None) -> None:
    """Run the dashboard (Flower) on the broker of the settings or of the running stack."""
    from alexq.stack.environment import require_monitor

    require_monitor()
    become_connected("alexq_monitor", given(data_dir=data_dir))


def migrate(data_dir: DataDir = None) -> None:
    """Bring the database to this release's schema."""
    from alexq_schema import migrations
    from alexq_schema.settings import Settings, StackFile

    settings = Settings.load(**given(data_dir=data_dir))
    url = settings.database_url or StackFile.read(settings.data_dir).database_url
    before = migrations.current(url)
    migrations.upgrade(url)
    typer.echo(f"database: {before or 'empty'} → {migrations.current(url)}", err=True)


def become_connected(module: str, overrides: dict[str, Any]) -> NoReturn:
    """Become ``module``, with settings that name the services; raises as ``Settings.connected``."""
    from alexq_schema.settings import Settings

    become(module, [], Settings.connected(**overrides))


def become(module: str, arguments: Sequence[str], settings: Any) -> NoReturn:
    """Replace this process by ``python -m module arguments``, the settings in its environment.

    Signals, output and the exit code are then the module's own.
    """
    from alexq.stack.environment import environment

    sys.stdout.flush()
    sys.stderr.flush()
    argv = [sys.executable, "-m", module, *arguments]
    os.execve(sys.executable, argv, environment(settings))  # noqa: S606 - no shell is wanted
