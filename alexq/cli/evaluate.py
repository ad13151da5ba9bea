"""``alexq models evaluate``: how good a version is on a labelled set, measured by the workers."""

from pathlib import Path
from typing import Annotated

import typer

from alexq.cli.options import DataDir, Json, given

_MISTAKES = 24
_UNANSWERED = 100


def evaluate(
    ref: Annotated[str, typer.Argument(metavar="NAME/VERSION", help="The version, active or not.")],
    data: Annotated[
        Path,
        typer.Argument(help="A folder with one folder of pictures a label, or a CSV file of path,label."),
    ],
    out: Annotated[
        Path | None,
        typer.Option(help="Folder of the report [evaluation-NAME-VERSION].", show_default=False),
    ] = None,
    by_order: Annotated[
        bool,
        typer.Option("--by-order", help="DATA's labels, sorted, are the model's in their order (ImageNet)."),
    ] = False,
    as_json: Json = False,
    data_dir: DataDir = None,
) -> None:
    """Measure a version on labelled pictures, through the queue, and write a report."""
    from alexq.cli.output import Output
    from alexq.evaluation.measures import measure, worst_mistakes
    from alexq.evaluation.pictures import require_libraries
    from alexq.evaluation.queueing import ask, truths
    from alexq.evaluation.report import Report, write_report
    from alexq_producer import Producer
    from alexq_schema.labelled import Problem, read_labelled, refuse
    from alexq_schema.models import ModelStore
    from alexq_schema.settings import Settings

    require_libraries()
    settings = Settings.connected(**given(data_dir=data_dir))
    version = ModelStore(settings.models_dir).find(ref)
    labels = version.read_labels()
    read = read_labelled(data)
    refuse([finding for finding in read.findings if finding.problem is not Problem.ONE_CLASS])
    held_out = [example for example in read.examples if example.held_out] or read.examples
    truth = truths(held_out, labels, by_order=by_order)
    with Producer(settings) as producer, Output(as_json=as_json, top_k=1) as output:
        output.begin("evaluating", len(truth))
        found = ask(producer, ref, truth, output.advance)
    report = Report(
        model=ref,
        precision=found.precision,
        weights_sha256=version.info.weights_sha256,
        data=str(data),
        images_per_s=found.images_per_s,
        measures=measure(found.answers, labels),
        mistakes=worst_mistakes(found.answers, _MISTAKES),
        unanswered=[answer for answer in found.answers if answer.error][:_UNANSWERED],
    )
    page = write_report(out or Path(f"evaluation-{ref.replace('/', '-')}"), report, labels)
    measures = report.measures
    if as_json:
        typer.echo(report.as_json())
    else:
        typer.echo(
            f"{ref}, {found.precision}: {measures.top1:.3%} right, {measures.top5:.3%} among the first five, "
            f"of {measures.images:,} pictures ({measures.unanswered:,} without an answer); "
            f"calibration error {measures.ece:.4f}; {report.images_per_s:,.1f} pictures/s"
        )
    typer.echo(f"report: {page}", err=True)
