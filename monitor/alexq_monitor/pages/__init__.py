"""The pages beside Flower's own, and where they are."""

from __future__ import annotations

from typing import Any, Final

from tornado.routing import Rule
from tornado.web import RequestHandler, StaticFileHandler

from alexq_monitor.dashboard import Dashboard
from alexq_monitor.look import STATIC, prefixed
from alexq_monitor.pages.base import Refusal, StartPage
from alexq_monitor.pages.batches import BatchesPage
from alexq_monitor.pages.dead import DeadPage, Redrive
from alexq_monitor.pages.export import ExportPage
from alexq_monitor.pages.job import ImagePage, JobPage
from alexq_monitor.pages.models import Activate, ModelsPage, Rollback
from alexq_monitor.pages.overview import OverviewPage
from alexq_monitor.pages.results import ResultsPage
from alexq_monitor.pages.submissions import CancelSubmission, SubmissionPage, SubmissionsPage
from alexq_monitor.protection import Refused

PAGES: Final[tuple[tuple[str, type[RequestHandler]], ...]] = (
    (r"/", StartPage),
    (r"/overview", OverviewPage),
    (r"/results", ResultsPage),
    (r"/results/export\.(csv|ndjson)", ExportPage),
    (r"/results/([^/]+)", JobPage),
    (r"/results/([^/]+)/image", ImagePage),
    (r"/submissions", SubmissionsPage),
    (r"/submissions/([^/]+)", SubmissionPage),
    (r"/submissions/([^/]+)/cancel", CancelSubmission),
    (r"/batches", BatchesPage),
    (r"/dead", DeadPage),
    (r"/dead/redrive", Redrive),
    (r"/models", ModelsPage),
    (r"/models/activate", Activate),
    (r"/models/rollback", Rollback),
)


def handlers(dashboard: Dashboard) -> list[Any]:
    """Return the rules to add to Flower's. They come before its own, of which only ``/`` is replaced."""
    given: dict[str, Any] = {"dashboard": dashboard}
    rules: list[Any] = [(prefixed(dashboard.url_prefix, path), page, given) for path, page in PAGES]
    static = prefixed(dashboard.url_prefix, r"/alexq-static/(.*)")
    return [*rules, (static, StaticFileHandler, {"path": str(STATIC)})]


def refusal(dashboard: Dashboard, *, has_basic_auth: bool, has_auth: bool) -> Rule:
    """Return the rule that comes before all others, Flower's too: what is refused wherever it leads."""
    for_programs = [prefixed(dashboard.url_prefix, path) for path in ("/metrics", "/healthcheck")]
    refused = Refused(
        {"dashboard": dashboard}, for_programs, has_basic_auth=has_basic_auth, has_auth=has_auth
    )
    return Rule(refused, Refusal)
