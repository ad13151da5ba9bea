"""Model servers with dynamic batching: Mosec, LitServe, Ray Serve and BentoML."""

from __future__ import annotations

import secrets
import shutil
import tempfile
from pathlib import Path
from typing import Any, ClassVar

from alexq.stack.environment import free_port
from benchmarks.throughput.contender import Work
from benchmarks.throughput.peers.http_client import Form
from benchmarks.throughput.peers.http_peer import HttpPeer

SERVERS = "benchmarks.throughput.peers"


class Mosec(HttpPeer):
    """Decode processes, then inference processes that batch; a Rust front passes the bytes on."""

    name = "Mosec"
    distribution = ("Mosec", "mosec")
    requirements = ("mosec==0.9.8",)
    path = "/inference"
    tunings: ClassVar[list[dict[str, Any]]] = [
        {},
        {"workers": 1, "max_batch": 64},
        {"workers": 1, "torch_threads": None, "max_batch": 64},
        {"max_batch": 64},
    ]

    defaults: ClassVar[dict[str, Any]] = {
        "decode_processes": None,
        "workers": None,
        "torch_threads": 1,
        "max_batch": 32,
        "wait_ms": 50,
        "connections": 0,
    }

    def argv(self, python: Path, port: int) -> list[str]:
        """Return the server's command; a request may wait for a minute instead of 3 s."""
        options = ["--address", "127.0.0.1", "--port", str(port), "--timeout", "60000"]
        options += ["--capacity", "16384", "--log-level", "error"]
        return [str(python), "-m", f"{SERVERS}.mosec_server", *options]

    def more_environment(self, folder: Path, port: int) -> dict[str, str]:
        """Put Mosec's sockets below ``folder``."""
        return {"MOSEC_PATH": str(folder / "sockets")}


class LitServe(HttpPeer):
    """One process takes the requests, others batch, decode in threads and infer."""

    name = "LitServe"
    distribution = ("LitServe", "litserve")
    requirements = ("litserve==0.2.19",)
    path = "/predict"
    tunings: ClassVar[list[dict[str, Any]]] = [
        {},
        {"workers": 1, "decode_threads": None, "torch_threads": None, "max_batch": 64},
        {"decode_threads": None},
        {"max_batch": 64},
        {"fast_queue": False},
    ]

    defaults: ClassVar[dict[str, Any]] = {
        "workers": None,
        "decode_threads": 1,
        "torch_threads": 1,
        "max_batch": 32,
        "wait_ms": 50,
        "api_servers": 1,
        "fast_queue": True,
        "connections": 0,
    }

    def argv(self, python: Path, port: int) -> list[str]:
        """Return the server's command."""
        return [str(python), "-m", f"{SERVERS}.litserve_server"]


class RayServe(HttpPeer):
    """A proxy process, and replicas that decode in threads and batch in front of the model."""

    name = "Ray Serve"
    distribution = ("Ray", "ray")
    requirements = ("ray[serve]==2.60.0",)
    path = "/classify"
    tunings: ClassVar[list[dict[str, Any]]] = [
        {},
        {"torch_threads": 1},
        {"max_batch": 32},
        {"workers": None, "decode_threads": 1, "torch_threads": 1, "max_batch": 32, "direct": False},
    ]

    defaults: ClassVar[dict[str, Any]] = {
        "workers": 1,
        "decode_threads": None,
        "torch_threads": None,
        "max_batch": 64,
        "wait_ms": 50,
        "optimized": True,
        "direct": True,
        "connections": 0,
    }

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self._files = ""

    def start(self, work: Work, folder: Path) -> None:
        """Start Ray with its files in a folder of its own: a socket's path has 107 bytes at most."""
        self._files = tempfile.mkdtemp(prefix="ray-")
        super().start(work, folder)

    def stop(self) -> None:
        """End Ray and remove its files."""
        super().stop()
        if self._files:
            shutil.rmtree(self._files, ignore_errors=True)

    def argv(self, python: Path, port: int) -> list[str]:
        """Return the server's command."""
        return [str(python), "-m", f"{SERVERS}.ray_server"]

    def more_environment(self, folder: Path, port: int) -> dict[str, str]:
        """Keep Ray's ports on loopback, and ask for throughput, as it documents."""
        env = super().more_environment(folder, port)
        env["BENCH_RAY_DIR"] = self._files
        env["RAY_USAGE_STATS_ENABLED"] = "0"
        env["RAY_AUTH_MODE"] = "token"
        env["RAY_AUTH_TOKEN"] = secrets.token_hex(32)  # else it writes one into the home folder
        env["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"  # else its ports are on all addresses
        # Throughput-optimized Ray has the replicas themselves take HTTP; the proxy gets another port then.
        env["RAY_SERVE_THROUGHPUT_OPTIMIZED"] = str(int(self.settings["optimized"]))
        env["RAY_SERVE_ENABLE_DIRECT_INGRESS"] = str(int(self.settings["direct"]))
        env["RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S"] = "0"
        if self.settings["direct"]:
            env["RAY_SERVE_DIRECT_INGRESS_MIN_HTTP_PORT"] = str(port)
            env["RAY_SERVE_DIRECT_INGRESS_MAX_HTTP_PORT"] = str(port + 1)
            env["BENCH_PORT"] = str(free_port("127.0.0.1"))
        return env


class BentoML(HttpPeer):
    """Worker processes, each with an adaptive batcher that learns how long to wait."""

    name = "BentoML"
    distribution = ("BentoML", "bentoml")
    requirements = ("bentoml==1.4.39",)
    path = "/classify"
    form = Form("images")
    tunings: ClassVar[list[dict[str, Any]]] = [
        {},
        {"workers": 1, "decode_threads": None, "torch_threads": None, "max_batch": 64},
        {"decode_threads": None},
        {"max_batch": 64},
    ]

    defaults: ClassVar[dict[str, Any]] = {
        "workers": None,
        "decode_threads": 1,
        "torch_threads": 1,
        "max_batch": 32,
        "max_latency_ms": 60_000,
        "connections": 0,
    }

    def argv(self, python: Path, port: int) -> list[str]:
        """Return the server's command."""
        service = f"{SERVERS}.bento_service:Classifier"
        return [str(python), "-m", "bentoml", "serve", service, "--host", "127.0.0.1", "--port", str(port)]

    def more_environment(self, folder: Path, port: int) -> dict[str, str]:
        """Keep BentoML's files below ``folder``, and do not report its use."""
        return {"BENTOML_DO_NOT_TRACK": "True", "BENTOML_HOME": str(folder / "bentoml")}
