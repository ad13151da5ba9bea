"""``alexq models``: the model versions on this machine."""

import json
from typing import TYPE_CHECKING, Annotated, Any

import typer

from alexq.cli.evaluate import evaluate
from alexq.cli.options import DataDir, Device, Json, given
from alexq.cli.stack import become

if TYPE_CHECKING:
    from rich.table import Table

    from alexq_schema.errors import ModelInvalidError
    from alexq_schema.models import ModelStore, ModelVersion
    from alexq_schema.settings import Settings

# These four are the worker's own commands: it alone knows torch. Their options are passed on.
_PASSED_ON: dict[str, Any] = {"allow_extra_args": True, "ignore_unknown_options": True}

Ref = Annotated[str, typer.Argument(metavar="NAME/VERSION")]


def register(app: typer.Typer) -> None:
    """Add the commands to ``app``."""
    models = typer.Typer(help="List, fetch, import and choose model versions.", no_args_is_help=True)
    models.command("list")(list_models)
    models.command("pull", context_settings=_PASSED_ON, add_help_option=False)(pull)
    models.command("import", context_settings=_PASSED_ON, add_help_option=False)(import_)
    models.command("train", context_settings=_PASSED_ON, add_help_option=False)(train)
    models.command("training", context_settings=_PASSED_ON, add_help_option=False)(training)
    models.command("train-worker")(train_worker)
    models.command("evaluate")(evaluate)
    models.command("quantize", context_settings=_PASSED_ON, add_help_option=False)(quantize)
    models.command("activate")(activate)
    models.command("rollback")(rollback)
    models.command("canary")(canary)
    app.add_typer(models, name="models")


def list_models(data_dir: DataDir = None, as_json: Json = False) -> None:
    """List the model versions of the models folder; the active one is marked."""
    from alexq_schema.models import ModelStore

    settings = _settings(data_dir)
    store = ModelStore(settings.models_dir)
    versions, damaged = _read(store)
    active = store.active_ref()
    if as_json:
        for version in versions:
            typer.echo(json.dumps(_as_object(version, active), ensure_ascii=False))
    elif versions:
        from rich.console import Console

        Console(highlight=False).print(_table(versions, active))
    elif not damaged:
        typer.echo(f"no models in {settings.models_dir}: run `alexq models pull`", err=True)
    for error in damaged:
        typer.echo(f"damaged: {error}", err=True)
    if damaged:
        raise typer.Exit(1)


def _read(store: "ModelStore") -> "tuple[list[ModelVersion], list[ModelInvalidError]]":
    """Return the versions that are whole, and what is wrong with the others."""
    from alexq_schema.errors import ModelInvalidError

    versions: list[ModelVersion] = []
    damaged: list[ModelInvalidError] = []
    for ref in store.refs():
        try:
            versions.append(store.find(ref))
        except ModelInvalidError as error:
            damaged.append(error)
    return versions, damaged


def pull(context: typer.Context, data_dir: DataDir = None) -> None:
    """Fetch torchvision's pretrained AlexNet and make it a model version."""
    _pass_on("pull", context, data_dir)


def import_(context: typer.Context, data_dir: DataDir = None) -> None:
    """Make a model version of a state dict (or safetensors file) and a label list."""
    _pass_on("import", context, data_dir)


def train(context: typer.Context, data_dir: DataDir = None) -> None:
    """Train a model version on your own labels."""
    _pass_on("train", context, data_dir)


def quantize(context: typer.Context, data_dir: DataDir = None) -> None:
    """Make an int8 version of a model version, calibrated on a folder of images."""
    _pass_on("quantize", context, data_dir)


def training(context: typer.Context, data_dir: DataDir = None) -> None:
    """Show how far a queued training is, or cancel it."""
    _pass_on("training", context, data_dir)


def train_worker(data_dir: DataDir = None, device: Device = None) -> None:
    """Run a process that runs queued trainings, on the services of the settings or of the running stack."""
    from alexq.cli.stack import become_connected
    from alexq.stack.environment import require_worker

    require_worker()
    become_connected("alexq_worker.training", given(data_dir=data_dir, device=device))


def activate(ref: Ref, data_dir: DataDir = None) -> None:
    """Choose the model version that workers serve; running ones switch to it between two batches."""
    from alexq_producer.actor import whoami
    from alexq_schema.models import ModelStore

    version = ModelStore(_settings(data_dir).models_dir).activate(ref, whoami())
    typer.echo(f"active: {version.info.ref}; running workers switch to it within seconds", err=True)


def rollback(data_dir: DataDir = None) -> None:
    """Make the version that was active before this one the active one again."""
    from alexq_producer.actor import whoami
    from alexq_schema.models import ModelStore

    version = ModelStore(_settings(data_dir).models_dir).rollback(whoami())
    typer.echo(
        f"active: {version.info.ref}, as before; running workers switch to it within seconds", err=True
    )


def canary(
    ref: Annotated[str | None, typer.Argument(metavar="NAME/VERSION")] = None,
    share: Annotated[
        float, typer.Option(min=0.0001, max=1, help="Share of the jobs that it is tried on.")
    ] = 0.1,
    off: Annotated[bool, typer.Option("--off", help="Try nothing any more.")] = False,
    report: Annotated[bool, typer.Option("--report", help="Where it disagrees, by label.")] = False,
    as_json: Json = False,
    data_dir: DataDir = None,
) -> None:
    """Try a version on a share of the jobs, in the shadow of the active one, which alone answers."""
    from alexq_schema.model_info import Canary
    from alexq_schema.models import ModelStore

    settings = _settings(data_dir)
    store = ModelStore(settings.models_dir)
    if report:
        _report(_tried(store, ref), data_dir, as_json=as_json)
    elif off:
        store.end_canary()
        typer.echo("nothing is tried any more", err=True)
    elif ref is None:
        now = store.canary()
        typer.echo(
            "nothing is tried" if now is None else f"{now.model} is tried on {now.share:g} of the jobs"
        )
    else:
        store.try_beside(Canary(model=ref, share=share))
        typer.echo(
            f"{ref} is tried on {share:g} of the jobs; `alexq models canary --report` compares", err=True
        )


def _tried(store: "ModelStore", ref: str | None) -> str:
    from alexq_schema.errors import UsageError

    now = store.canary()
    if ref is None and now is None:
        raise UsageError("nothing is tried now: name the version, alexq models canary NAME/VERSION --report")
    return ref or (now.model if now else "")


def _report(ref: str, data_dir: Any, *, as_json: bool) -> None:
    from rich.console import Console
    from rich.table import Column, Table
    from rich.text import Text

    from alexq_schema.db.canary import report
    from alexq_schema.db.session import Database
    from alexq_schema.settings import Settings

    database = Database(Settings.connected(**given(data_dir=data_dir)).database_url)
    name, _, version = ref.partition("/")
    try:
        with database.read() as connection:
            found = report(connection, name, version)
    finally:
        database.close()
    compared, disagreed = sum(one.compared for one in found), sum(one.disagreed for one in found)
    if as_json:
        for one in found:
            others = [{"label": label, "jobs": jobs} for label, jobs in one.others.most_common()]
            told = {
                "label": one.label,
                "compared": one.compared,
                "disagreed": one.disagreed,
                "instead": others,
            }
            typer.echo(json.dumps({"model": ref, **told}, ensure_ascii=False))
        return
    number = {"justify": "right"}
    table = Table("label", Column("compared", **number), Column("disagreed", **number), f"{ref} says instead")  # type: ignore[arg-type]
    for one in found:
        if one.disagreed:
            instead = ", ".join(
                f"{label or 'no label'} ({jobs})" for label, jobs in one.others.most_common(3)
            )
            table.add_row(Text(one.label or "no label"), str(one.compared), str(one.disagreed), Text(instead))
    Console(highlight=False).print(table)
    typer.echo(f"{ref} disagrees with {disagreed:,} of {compared:,} results", err=True)


def _settings(data_dir: Any) -> "Settings":
    from alexq_schema.settings import Settings

    return Settings.load(**given(data_dir=data_dir))


def _pass_on(command: str, context: typer.Context, data_dir: Any) -> None:
    from alexq.stack.environment import require_worker

    require_worker()
    become("alexq_worker.models", [command, *context.args], _settings(data_dir))


def _as_object(version: "ModelVersion", active: str | None) -> dict[str, Any]:
    info = version.info
    return {
        "name": info.name,
        "version": info.version,
        "active": info.ref == active,
        "architecture": info.architecture,
        "classes": info.classes,
        "precision": info.precision,
        "agreement": {precision: found.top1 for precision, found in (info.agreement or {}).items()},
        "trained": info.trained,
        "weights_sha256": info.weights_sha256,
        "source": info.source,
    }


def _table(versions: "list[ModelVersion]", active: str | None) -> "Table":
    from rich.table import Column, Table
    from rich.text import Text

    table = Table("", Column("model", no_wrap=True), "trained", "precision", "classes", "sha256", "source")
    for version in versions:
        info = version.info
        table.add_row(
            "●" if info.ref == active else "",
            info.ref,
            Text("yes", style="green") if info.trained else Text("NO", style="bold yellow"),
            info.precision,
            str(info.classes),
            info.weights_sha256[:12],
            Text(info.source),
        )
    return table
