"""A real server of OpenAI's chat completions on loopback that says what a test wants."""

import json
import threading
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Reply = tuple[int, dict[str, str], bytes]


def said(text: str, finish: str = "stop") -> Reply:
    choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": finish}
    return 200, {}, json.dumps({"object": "chat.completion", "choices": [choice]}).encode()


def refused(code: int, **headers: str) -> Reply:
    body = json.dumps({"error": {"message": "no\nsuch thing"}}).encode()
    return code, {name.replace("_", "-"): value for name, value in headers.items()}, body


class Model:
    """A real server of chat completions: a script a prompt, whose last reply stands; it keeps what it was asked."""

    def __init__(self, **script: list[Reply]) -> None:
        self.script = script
        self.asked: dict[str, list[dict[str, Any]]] = defaultdict(list)
        self.instructions: set[str] = set()
        self.keys: set[str | None] = set()
        self.paths: set[str] = set()
        self.most_at_once = 0
        self._now = 0
        self._lock = threading.Lock()
        self.first: datetime | None = None

    @contextmanager
    def served(self) -> Iterator[str]:
        model = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                with model._lock:
                    model.first = model.first or datetime.now(UTC)
                    model.keys.add(self.headers["Authorization"])
                    model.paths.add(self.path)
                    model._now += 1
                    model.most_at_once = max(model.most_at_once, model._now)
                    code, headers, body = model.reply(asked)
                if code == 0:
                    time.sleep(float(body))
                    self.close_connection = True
                else:
                    time.sleep(0.01)
                    self.send_response(code)
                    for name, value in headers.items():
                        self.send_header(name, value)
                    self.send_header("Content-Length", str(len(body)))
                    self.end_headers()
                    self.wfile.write(body)
                with model._lock:
                    model._now -= 1

            def log_message(self, *_: object) -> None:
                pass

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/v1"
        finally:
            server.shutdown()
            server.server_close()
            thread.join()

    def reply(self, asked: dict[str, Any]) -> Reply:
        [message] = asked["messages"]
        self.instructions.add(message["content"].partition("\n\n")[0])
        prompt = message["content"].partition("\n\n")[2]
        replies = self.script.get(prompt.replace(" ", "_"), [said("一只猫坐在红色的椅子上")])
        self.asked[prompt].append(asked)
        return replies[min(len(self.asked[prompt]), len(replies)) - 1]
