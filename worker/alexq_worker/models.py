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
from alexq_worker.model_output import report, say
from alexq_worker.training.command import train, training

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
    report(store, versions.pull(store, url=url, progress=sys.stderr.isatty()))


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
    report(store, versions.import_model(store, ref, weights, labels, architecture))


@app.command()
def untrained(
    seed: Annotated[int, typer.Option(min=0, help="Same seed, same weights, on every machine.")] = 0,
) -> None:
    """Make seeded random weights, for trying the system out: every result says trained: false."""
    from alexq_worker.inference import versions

    store = _store()
    report(store, versions.create_untrained(store, seed))


app.command()(train)
app.command()(training)


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
        store, ref, images, as_ref or f"{ref}-int8", max_pixels=settings.max_image_pixels, say=say
    )
    report(store, version)


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


@app.command(hidden=True)
def demo(
    pictures: Annotated[Path, typer.Argument(help="Where pictures with known labels go, if it has such.")],
    textures: Annotated[bool, typer.Option("--textures", help="Do not look for pretrained weights.")] = False,
) -> None:
    """Make sure that there is a trained model to show: the chosen or pretrained one, else of textures."""
    from alexq_worker.training import texture_model

    settings = Settings.load()
    store = ModelStore(settings.models_dir)
    version = None if textures else _trained(settings, store)
    if version is None:
        version = texture_model.ensure_textures(settings)
    if version.info.ref == texture_model.TEXTURES_REF:
        texture_model.write_unseen(pictures)
    typer.echo(version.info.ref)


def _trained(settings: Settings, store: ModelStore) -> ModelVersion | None:
    """Return the version that the user chose, the active one if it is trained, or the pretrained one."""
    if settings.model:
        return store.resolve(settings.model)
    if store.active_ref() and (active := store.resolve()).info.trained:
        return active
    from alexq_worker.inference import versions

    try:
        return versions.pull(store, progress=sys.stderr.isatty())
    except ModelDownloadError as error:
        say(f"no pretrained weights: {error}. Going on with a model that is trained here, on textures")
        return None


def _pull_or_make(store: ModelStore) -> ModelVersion:
    from alexq_worker.inference import versions

    try:
        return versions.pull(store, progress=sys.stderr.isatty())
    except ModelDownloadError as error:
        version = versions.create_untrained(store)
        say(
            f"no pretrained weights: {error}. Going on with {version.info.ref}, seeded untrained weights: "
            "the labels mean nothing, and every result is marked trained: false"
        )
        return version


def _store() -> ModelStore:
    return ModelStore(Settings.load().models_dir)


def main() -> None:
    """Run the command line."""
    try:
        app()
    except AlexqError as error:
        say(str(error))
        sys.exit(1)


if __name__ == "__main__":
    main()
