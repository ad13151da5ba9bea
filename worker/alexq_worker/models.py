"""``python -m alexq_worker.models``: make the model versions that workers serve.

``alexq models`` starts this as a process, because it needs torch and the command line does not.
On success the version (``name/version``) is the only thing on stdout; the rest is for people, on
stderr. Exit codes: 0 done, 1 refused or failed, 2 usage.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from alexq_schema.errors import AlexqError, ModelDownloadError
from alexq_schema.models import ModelStore, ModelVersion
from alexq_schema.settings import Settings

# `inference.versions` imports torch, which takes seconds: the commands import it where they need it,
# so that `ensure` is quick when there is nothing to make.

app = typer.Typer(
    name="alexq models",
    help="Make model versions.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


@app.command()
def pull(
    url: Annotated[
        str | None,
        typer.Option(help="A mirror of torchvision's file; its name must carry the hash: name-<hex>.pth."),
    ] = None,
) -> None:
    """Download torchvision's pretrained AlexNet (ImageNet-1K, 233 MB) and convert it."""
    from alexq_worker.inference import versions

    store = _store()
    _report(store, versions.pull(store, url=url, progress=sys.stderr.isatty()))


@app.command("import")
def import_model(
    ref: Annotated[str, typer.Argument(metavar="NAME/VERSION", help="What to call it.")],
    weights: Annotated[Path, typer.Argument(help="A state dict: .safetensors, or saved by torch.save.")],
    labels: Annotated[Path, typer.Argument(help="One label a line, in class-index order.")],
    architecture: Annotated[
        str,
        typer.Option(
            help="The network that the weights are of: alexnet, alexnet-2012, or torchvision's name."
        ),
    ] = "alexnet",
) -> None:
    """Add your own trained weights."""
    from alexq_worker.inference import versions

    store = _store()
    _report(store, versions.import_model(store, ref, weights, labels, architecture))


@app.command()
def untrained(
    seed: Annotated[int, typer.Option(min=0, help="Same seed, same weights, on every machine.")] = 0,
) -> None:
    """Make seeded random weights, for trying the system out: every result says trained: false."""
    from alexq_worker.inference import versions

    store = _store()
    _report(store, versions.create_untrained(store, seed))


@app.command()
def quantize(
    ref: Annotated[str, typer.Argument(metavar="NAME/VERSION", help="An fp32 version.")],
    images: Annotated[
        Path,
        typer.Option(help="A folder of images like those to be classified.", exists=True, file_okay=False),
    ],
    as_ref: Annotated[
        str,
        typer.Option("--as", metavar="NAME/VERSION", help="What to call it; by default with -int8 behind."),
    ] = "",
) -> None:
    """Make an int8 version, calibrated on some of your images and compared with fp32 on the others."""
    from alexq_worker.inference import quantising

    settings = Settings.load()
    store = ModelStore(settings.models_dir)
    version = quantising.quantize(
        store, ref, images, as_ref or f"{ref}-int8", max_pixels=settings.max_image_pixels, say=_say
    )
    _report(store, version)


@app.command()
def ensure() -> None:
    """Make sure that there is a model to serve: the chosen one, the pretrained one, or an untrained one."""
    settings = Settings.load()
    store = ModelStore(settings.models_dir)
    if settings.model or store.active_ref():
        version = store.resolve(settings.model)
        version.read_labels()
        version.verify_weights()
    else:
        version = _pull_or_make(store)
        store.activate(version.info.ref)
    typer.echo(version.info.ref)


def _pull_or_make(store: ModelStore) -> ModelVersion:
    from alexq_worker.inference import versions

    try:
        return versions.pull(store, progress=sys.stderr.isatty())
    except ModelDownloadError as error:
        version = versions.create_untrained(store)
        _say(
            f"no pretrained weights: {error}. Going on with {version.info.ref}, seeded untrained weights: "
            "the labels mean nothing, and every result is marked trained: false"
        )
        return version


def _report(store: ModelStore, version: ModelVersion) -> None:
    """Activate the version if none is active, and say which one workers will serve."""
    ref = version.info.ref
    active = store.active_ref()
    if active is None:
        store.activate(ref)
        _say(f"{ref} is in {version.folder} and active: workers serve it from their next start")
    elif active == ref:
        _say(f"{ref} is in {version.folder} and active already")
    else:
        _say(f"{ref} is in {version.folder}; workers serve {active} until `alexq models activate {ref}`")
    typer.echo(ref)


def _store() -> ModelStore:
    return ModelStore(Settings.load().models_dir)


def _say(text: str) -> None:
    typer.echo(f"alexq models: {text}", err=True)


def main() -> None:
    """Run the command line."""
    try:
        app()
    except AlexqError as error:
        _say(str(error))
        sys.exit(1)


if __name__ == "__main__":
    main()
