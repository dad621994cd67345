"""A real ComfyUI server as a context manager, for the demo and the tests.

It runs in a base directory of its own (models, custom nodes, output, user settings), so that an existing ComfyUI is
only read, and it ends with the `with` block whatever happens in it.

    with ComfyServer(Path("base")) as server:
        outputs = server.queue(prompt)
        png = server.view(outputs["9"]["images"][0])
"""

from __future__ import annotations

import itertools
import json
import os
import shutil
import socket
import struct
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import websocket

from . import weights

ROOT = Path(__file__).resolve().parent.parent
PACK = "comfyui-spectrum-accelerate"
DEMO_PACKS = {"spectrum-demo-emoji": ROOT / "demo" / "emoji_nodes"}
MODEL = ROOT / "demo" / "model"
DEMO_MODELS = {"diffusion_models": [MODEL / "tiny_flux.safetensors"], "vae": [MODEL / "tiny_vae.safetensors"]}
# Without these two the page opens with a dialog that covers the canvas.
SETTINGS = {"Comfy.TutorialCompleted": True, "Comfy.InstalledVersion": "1.47.12"}
TEXT_EVENT = 3  # ComfyUI's protocol.py: BinaryEventTypes.TEXT

Prompt = Mapping[str, Any]


class ServerError(Exception):
    """The server did not start, died, or did not answer in time."""


class PromptError(Exception):
    """A prompt was refused or failed; the attributes hold what the server said.

    Attributes:
        node_errors: by node id, for a refused prompt.
        node_id, exception_type, traceback: of the node that failed, for a prompt that was begun.
    """

    def __init__(self, message: str, details: Mapping[str, Any] | None = None) -> None:
        details = details or {}
        super().__init__(message)
        self.node_errors: dict[str, Any] = details.get("node_errors") or {}
        self.node_id: str | None = details.get("node_id")
        self.exception_type: str | None = details.get("exception_type")
        self.traceback: str = "".join(details.get("traceback") or [])


class PromptInterrupted(PromptError):
    """A prompt was interrupted while it ran."""


def place(source: Path, target: Path) -> None:
    """Make `source` appear at `target`: a symlink, or a copy where the system does not allow one (Windows)."""
    target.parent.mkdir(parents=True, exist_ok=True)
    if target.is_symlink() or target.is_file():
        target.unlink()
    elif target.is_dir():
        shutil.rmtree(target)
    try:
        target.symlink_to(source.resolve(), target_is_directory=source.is_dir())
    except OSError:
        if source.is_dir():
            shutil.copytree(source, target, ignore=shutil.ignore_patterns(".*", "output", "__pycache__"))
        else:
            shutil.copy(source, target)


def free_port(wanted: int = 0) -> int:
    """The wanted TCP port of this machine, or any (0), after a check that nobody listens on it."""
    with socket.socket() as probe:
        # As the server does it: else a port would count as taken for a minute after its last use.
        if os.name != "nt":
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", wanted))
        except OSError as error:
            raise ServerError(f"port {wanted} cannot be used ({error.strerror}); choose another one") from None
        return int(probe.getsockname()[1])


class ComfyServer:
    """One ComfyUI process and a client of it.

    Args:
        base: directory for models, custom nodes, output and settings; made if missing, and left in place.
        comfyui: ComfyUI's folder; the environment variable COMFYUI_PATH (set by dev.py) if not given.
        packs: custom nodes besides this repository, by folder name; the demo's emoji node if not given.
        models: model files by folder of ComfyUI's `models`; the demo's tiny models if not given.
        with_pack: whether this repository itself is loaded as a custom node pack.
        cpu: compute on the CPU, which gives the same bits everywhere.
        port: 0 picks a free one.
        arguments: further command line arguments for main.py.
        environment: further environment variables.
        start_timeout: seconds until the server must answer.
    """

    def __init__(
        self,
        base: Path,
        *,
        comfyui: Path | None = None,
        packs: Mapping[str, Path] | None = None,
        models: Mapping[str, Sequence[Path]] | None = None,
        with_pack: bool = True,
        cpu: bool = True,
        port: int = 0,
        arguments: Sequence[str] = (),
        environment: Mapping[str, str] | None = None,
        start_timeout: float = 180.0,
    ) -> None:
        self.base = Path(base).resolve()
        self.comfyui = Path(comfyui or os.environ["COMFYUI_PATH"]).resolve()
        self.packs = dict(DEMO_PACKS if packs is None else packs)
        if with_pack:
            self.packs[PACK] = ROOT
        self.models = DEMO_MODELS if models is None else models
        self.cpu = cpu
        self.port = free_port(port)
        self.arguments = list(arguments)
        self.environment = dict(environment or {})
        self.start_timeout = start_timeout
        self.log_file = self.base / "server.log"
        self.client_id = uuid.uuid4().hex
        # Everything the websocket said, oldest first: {"type", "data", "time"} with time.monotonic() seconds.
        self.messages: list[dict[str, Any]] = []
        self._news = threading.Condition()
        self._process: subprocess.Popen[bytes] | None = None
        self._socket: websocket.WebSocket | None = None
        self._reader: threading.Thread | None = None

    @property
    def url(self) -> str:
        """The address of the page."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def running(self) -> bool:
        """Whether the process lives."""
        return self._process is not None and self._process.poll() is None

    # --- life -----------------------------------------------------------------------------------------------------

    def __enter__(self) -> ComfyServer:
        try:
            self.start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()

    def prepare(self) -> None:
        """Lay out the base directory, without what an earlier server with other packs or models left there."""
        for name in ("custom_nodes", "models"):
            folder = self.base / name
            if folder.is_dir():
                for link in [path for path in folder.rglob("*") if path.is_symlink()]:
                    link.unlink()
            folder.mkdir(parents=True, exist_ok=True)
        for name in ("input", "output"):
            (self.base / name).mkdir(exist_ok=True)
        for name, source in self.packs.items():
            place(source, self.base / "custom_nodes" / name)
        for kind, files in self.models.items():
            for file in files:
                target = self.base / "models" / kind / file.name
                if file.parent == MODEL:  # stored in few bits
                    if not target.is_file() or target.stat().st_mtime < file.stat().st_mtime:
                        target.parent.mkdir(parents=True, exist_ok=True)
                        weights.expand(file, target)
                else:
                    place(file, target)
        settings = self.base / "user" / "default" / "comfy.settings.json"
        settings.parent.mkdir(parents=True, exist_ok=True)
        settings.write_text(json.dumps(SETTINGS))

    def start(self) -> None:
        """Start the process and return when it answers, all packs loaded and the websocket connected."""
        self.prepare()
        command = [sys.executable, str(self.comfyui / "main.py"), "--listen", "127.0.0.1", "--port", str(self.port)]
        command += ["--disable-auto-launch", "--base-directory", str(self.base)]
        # An in-memory database, because the default one is a file in ComfyUI's folder that only one server may hold.
        command += ["--database-url", "sqlite:///:memory:", "--disable-api-nodes"]
        command += (["--cpu"] if self.cpu else []) + self.arguments
        threads = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"} if self.cpu else {}
        environment = {**os.environ, **threads, **self.environment}
        # ComfyUI owns top-level names like `nodes`: what helps our own scripts to find modules must not reach it.
        given = environment.pop("PYTHONPATH", "").split(os.pathsep)
        packages = [path for path in given if path and Path(path).resolve() != ROOT]
        if packages:
            environment["PYTHONPATH"] = os.pathsep.join(packages)
        with self.log_file.open("wb") as log:
            self._process = subprocess.Popen(
                command, cwd=self.base, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT
            )
        deadline = time.monotonic() + self.start_timeout
        while not self._answers():
            self._check_alive()
            if time.monotonic() > deadline:
                raise ServerError(f"ComfyUI did not answer within {self.start_timeout:.0f} s:\n{self._log_tail()}")
            time.sleep(0.2)
        self._check_packs()
        self._connect()

    def stop(self) -> None:
        """End the process, gently first."""
        if self._process is not None and self._process.poll() is None:
            self._process.terminate()
            try:
                self._process.wait(10)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        self._process = None
        if self._reader is not None:
            self._reader.join(10)
            self._reader = None
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def log_text(self) -> str:
        """What the server has written so far."""
        return self.log_file.read_text(encoding="utf-8", errors="replace") if self.log_file.is_file() else ""

    def _log_tail(self, lines: int = 40) -> str:
        return "\n".join(self.log_text().splitlines()[-lines:])

    def _answers(self) -> bool:
        try:
            stats = json.loads(self._get("/system_stats", timeout=5))
        except (OSError, ValueError):
            return False
        # Another server may have taken the port since it was chosen; ours then ends by itself.
        return str(self.base) in stats["system"]["argv"]

    def _check_alive(self) -> None:
        if self._process is None:
            raise ServerError("the server is not running")
        status = self._process.poll()
        if status is not None:
            raise ServerError(f"ComfyUI ended with status {status}:\n{self._log_tail()}")

    def _check_packs(self) -> None:
        """A pack that fails to import does not stop the server: ComfyUI only says so in its log."""
        lines = self.log_text().splitlines()
        failed = [line for line in lines if "IMPORT FAILED" in line and any(name in line for name in self.packs)]
        if failed:
            raise ServerError("\n".join(["a node pack could not be loaded:", *failed, *lines[-60:]]))

    # --- websocket ------------------------------------------------------------------------------------------------

    def _connect(self) -> None:
        self._socket = websocket.create_connection(
            f"ws://127.0.0.1:{self.port}/ws?clientId={self.client_id}", timeout=30, enable_multithread=True
        )
        self._socket.settimeout(None)
        self._reader = threading.Thread(target=self._read, args=(self._socket,), daemon=True)
        self._reader.start()

    def _read(self, connection: websocket.WebSocket) -> None:
        """Collect messages until the connection ends, which it does with the server."""
        while True:
            try:
                raw = connection.recv()
            except (OSError, websocket.WebSocketException):
                raw = ""
            if not raw:
                with self._news:
                    self._news.notify_all()
                return
            message = json.loads(raw) if isinstance(raw, str) else self._decode(raw)
            with self._news:
                self.messages.append({**message, "time": time.monotonic()})
                self._news.notify_all()

    @staticmethod
    def _decode(raw: bytes) -> dict[str, Any]:
        """A binary message: its event number; for progress text the length of the node id, the node id and the text."""
        (event,) = struct.unpack_from(">I", raw)
        if event != TEXT_EVENT:
            return {"type": f"binary_{event}", "data": {"size": len(raw) - 4}}
        (length,) = struct.unpack_from(">I", raw, 4)
        node_id, text = raw[8 : 8 + length], raw[8 + length :]
        return {"type": "progress_text", "data": {"node_id": node_id.decode(), "text": text.decode()}}

    def messages_of(self, kind: str) -> list[dict[str, Any]]:
        """The messages of a type so far, as they came."""
        with self._news:
            return [message["data"] for message in self.messages if message["type"] == kind]

    def node_seconds(self, prompt_id: str) -> dict[str, float]:
        """Seconds that each executed node of a finished prompt took, seen from here."""
        with self._news:
            marks = [
                (message["data"]["node"], message["time"])
                for message in self.messages
                if message["type"] == "executing" and message["data"].get("prompt_id") == prompt_id
            ]
        return {node: end - begin for (node, begin), (_, end) in itertools.pairwise(marks) if node is not None}

    # --- prompts --------------------------------------------------------------------------------------------------

    def queue(self, prompt: Prompt, *, timeout: float = 600.0) -> dict[str, Any]:
        """Run a prompt (API format) to its end; the result is what each node showed, by node id."""
        return self.wait(self.submit(prompt), timeout=timeout)

    def submit(self, prompt: Prompt) -> str:
        """Put a prompt into the queue; the result is its id."""
        try:
            answer = self._post("/prompt", {"prompt": prompt, "client_id": self.client_id})
        except urllib.error.HTTPError as error:
            details = json.loads(error.read() or b"{}")
            raise PromptError(self._refusal(details, prompt), details) from None
        return str(answer["prompt_id"])

    def wait(self, prompt_id: str, *, timeout: float = 600.0) -> dict[str, Any]:
        """Wait for the end of a prompt; the result is what each node showed, by node id."""
        deadline = time.monotonic() + timeout
        while True:
            with self._news:
                # The node None comes after the history is written; execution_success comes before.
                if self._last("executing", prompt_id, node=None) is not None:
                    break
                self._news.wait(0.5)
            self._check_alive()
            if self._reader is None or not self._reader.is_alive():
                raise ServerError(f"the server closed the websocket:\n{self._log_tail()}")
            if time.monotonic() > deadline:
                raise ServerError(f"the prompt was not done within {timeout:.0f} s:\n{self._log_tail()}")
        interrupted = self._last("execution_interrupted", prompt_id)
        if interrupted is not None:
            raise PromptInterrupted(f"interrupted in node {interrupted.get('node_id')}", interrupted)
        failure = self._last("execution_error", prompt_id)
        if failure is not None:
            where = f"node {failure.get('node_id')} ({failure.get('node_type')})"
            what = f"{failure.get('exception_type')}: {str(failure.get('exception_message')).strip()}"
            raise PromptError(f"{where}: {what}", failure)
        outputs = self.history(prompt_id)["outputs"]
        return dict(outputs)

    def _last(self, kind: str, prompt_id: str, **wanted: object) -> dict[str, Any] | None:
        """The data of the newest message of this kind about this prompt."""
        with self._news:
            for message in reversed(self.messages):
                data = message["data"]
                if message["type"] == kind and data.get("prompt_id") == prompt_id:
                    if all(data.get(key) == value for key, value in wanted.items()):
                        return dict(data)
                    return None
        return None

    @staticmethod
    def _refusal(details: Mapping[str, Any], prompt: Prompt) -> str:
        """The server's reasons for not taking a prompt, one line for each."""
        error = details.get("error") or {}
        lines = [f"{error.get('message', 'the server refused the prompt')} {error.get('details', '')}".strip()]
        for node_id, entry in (details.get("node_errors") or {}).items():
            kind = prompt.get(node_id, {}).get("class_type", "?")
            for reason in entry.get("errors", []):
                lines.append(f"node {node_id} ({kind}): {reason.get('message')}: {reason.get('details')}")
        return "\n".join(lines)

    def history(self, prompt_id: str) -> dict[str, Any]:
        """Everything that the server remembers of a finished prompt."""
        return dict(json.loads(self._get(f"/history/{prompt_id}"))[prompt_id])

    def view(self, file: Mapping[str, str]) -> bytes:
        """The content of a file that a node saved: {"filename", "subfolder", "type"} of its output."""
        keys = ("filename", "subfolder", "type")
        return self._get("/view?" + urllib.parse.urlencode({key: file[key] for key in keys}))

    def object_info(self) -> dict[str, Any]:
        """The schema of every node that the server knows."""
        return dict(json.loads(self._get("/object_info")))

    def interrupt(self) -> None:
        """Stop the prompt that runs now."""
        self._post("/interrupt", {})

    def _get(self, path: str, timeout: float = 60.0) -> bytes:
        with urllib.request.urlopen(self.url + path, timeout=timeout) as answer:
            return bytes(answer.read())

    def _post(self, path: str, data: Mapping[str, Any]) -> Any:
        body = json.dumps(data).encode()
        request = urllib.request.Request(self.url + path, body, {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=60) as answer:
            content = answer.read()
        return json.loads(content) if content else None
