"""A server with OpenAI's completions endpoint on loopback, which samples with the demo policy and fails on request."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self

import torch

from learnalign.config import RolloutConfig
from learnalign.policy import Policy
from learnalign.rollout.engine import Response, Task
from learnalign.rollout.transformers import LocalEngine

Answer = tuple[int, Any]


class CompletionsServer:
    """`requests` holds every body that came. trouble(number): the answer to request `number` instead of a true one.

    tells_tokens: answer with token ids and log-probabilities, as vLLM does. raw: log-probabilities at temperature 1
    whatever the sampling's, as vLLM's are by default.
    """

    def __init__(
        self,
        policy: Policy,
        trouble: Callable[[int], Answer | None] = lambda _: None,
        tells_tokens: bool = True,
        raw: bool = False,
    ) -> None:
        self.policy, self.trouble, self.tells_tokens, self.raw = policy, trouble, tells_tokens, raw
        self.requests: list[dict[str, Any]] = []
        self.most_at_once = self.now = 0
        self.lock, self.sampling = threading.Lock(), threading.Lock()
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self.server.daemon_threads = True

    @property
    def url(self) -> str:
        """Base URL."""
        return f"http://127.0.0.1:{self.server.server_port}/v1"

    def __enter__(self) -> Self:
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *error: object) -> None:
        self.server.shutdown()
        self.server.server_close()

    def answer(self, body: dict[str, Any]) -> Answer:
        """One request, counted and answered."""
        with self.lock:
            number = len(self.requests)
            self.requests.append(body)
            self.now += 1
            self.most_at_once = max(self.most_at_once, self.now)
        try:
            return self.trouble(number) or (200, self._sample(body))
        finally:
            with self.lock:
                self.now -= 1

    def _sample(self, body: dict[str, Any]) -> dict[str, Any]:
        settings = RolloutConfig(temperature=body["temperature"], max_new_tokens=body["max_tokens"], seed=body["seed"])
        with self.sampling:
            made = LocalEngine(self.policy, settings).sample([Task("", body["prompt"], body["n"])])
        choices = []
        for r in reversed(made):  # an index says which is which, not the order
            choice: dict[str, Any] = {"index": r.number, "text": r.text, "finish_reason": r.finish}
            if self.tells_tokens:
                logs = {"token_logprobs": r.log_probabilities}
                if self.raw or body["logprobs"] > 1:
                    logs = self._logs(r, 1.0 if self.raw else body["temperature"], body["logprobs"])
                choice |= {"token_ids": r.tokens, "logprobs": logs}
            choices.append(choice)
        return {"choices": choices}

    def _logs(self, r: Response, temperature: float, top: int) -> dict[str, Any]:
        """Log-probabilities of the sampled tokens, and the likeliest ones, by one forward pass."""
        with self.sampling, torch.inference_mode():
            logits = self.policy.model(torch.tensor([[*r.prompt_tokens, *r.tokens]])).logits[0]
        every = (logits[len(r.prompt_tokens) - 1 : -1] / temperature).log_softmax(-1)
        best = every.topk(top, -1)
        rows = zip(best.indices.tolist(), best.values.tolist(), strict=True)
        return {
            "token_logprobs": every.gather(1, torch.tensor(r.tokens)[:, None])[:, 0].tolist(),
            "top_logprobs": [{f"token {i}": x for i, x in zip(*row, strict=True)} for row in rows],
        }

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                status, content = outer.answer(body) if self.path == "/v1/completions" else (404, {})
                data = json.dumps(content).encode()
                self.send_response(status)
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, *_: object) -> None:
                pass

        return Handler
