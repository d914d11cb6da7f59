"""The server engine: any server with OpenAI's completions endpoint (vLLM, SGLang), one or several of the same policy.

Prompts are sent as token ids, so that they are rendered here as for every engine. Token ids come back where the
server can tell them (`return_token_ids` of vLLM); else its text is tokenized here, which need not give the tokens
that were sampled, and log-probabilities are NaN. Log-probabilities are the server's: those of vLLM are at
temperature 1 unless it runs with `--logprobs-mode processed_logprobs`. This module does not start servers.
"""

from __future__ import annotations

import asyncio
import json
import math
import os
import time
from collections.abc import Sequence
from typing import Any, Self

from learnalign.config import Config
from learnalign.errors import EngineError, MissingPackageError
from learnalign.policy import Renderer
from learnalign.rollout.engine import Response, Task, response
from learnalign.rollout.sampling import request_seed

RETRIED = frozenset({408, 425, 429, 500, 502, 503, 504})
"""Answers that another attempt may mend; any other refusal is final."""
FIRST_PAUSE, LONGEST_PAUSE = 0.5, 30.0
"""Seconds between attempts: doubled each time."""


class ServerEngine:
    """Samples over HTTP: one request a prompt, `concurrency` of them at a time, spread over the servers in turn."""

    def __init__(self, config: Config, renderer: Renderer) -> None:
        try:
            import httpx2
        except ImportError as error:
            raise MissingPackageError("rollout.engine=server", "server", error) from error
        self.http, self.config, self.renderer = httpx2, config.rollout, renderer
        self.urls = [url.rstrip("/") for url in config.rollout.base_urls.split()]
        self.model = config.rollout.served_model or config.policy.model
        self.tokens_told = True

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        pass

    def sample(self, tasks: Sequence[Task]) -> list[Response]:
        """All tasks. Raises `EngineError` where a server refuses, or none answers for `patience_seconds`."""
        return [r for group in asyncio.run(self._all(tasks)) for r in group]

    def facts(self) -> dict[str, Any]:
        """Engine, and where the token ids come from."""
        return {"engine": "server", "token_ids": "told by the server" if self.tokens_told else "by tokenizing text"}

    async def _all(self, tasks: Sequence[Task]) -> list[list[Response]]:
        key = os.environ.get("OPENAI_API_KEY")
        gate = asyncio.Semaphore(self.config.concurrency)
        async with self.http.AsyncClient(
            headers={"Authorization": f"Bearer {key}"} if key else {},
            timeout=self.http.Timeout(self.config.patience_seconds, connect=10.0),
            limits=self.http.Limits(max_connections=self.config.concurrency),
        ) as client:

            async def one(number: int, task: Task) -> list[Response]:
                async with gate:
                    return self._responses(task, await self._ask(client, number, self._body(task)))

            return await asyncio.gather(*(one(k, task) for k, task in enumerate(tasks)))

    async def _ask(self, client: Any, number: int, body: dict[str, Any]) -> dict[str, Any]:
        """The answer to one request; tried at the next server, after a pause, until it comes or patience ends."""
        started, pause = time.monotonic(), FIRST_PAUSE
        for attempt in range(number, 1 << 62):
            url = self.urls[attempt % len(self.urls)]
            try:
                answer = await client.post(f"{url}/completions", json=body)
            except self.http.TransportError as error:
                trouble = f"{type(error).__name__} {error}".strip()
            else:
                if answer.status_code == 200:
                    return _object(answer, url)
                trouble = f"HTTP {answer.status_code}: {' '.join(answer.text.split())[:200]}"
                if answer.status_code not in RETRIED:
                    raise EngineError(f"{url} refuses: {trouble} (rollout.served_model names the model)")
            if time.monotonic() + pause - started > self.config.patience_seconds:
                raise EngineError(
                    f"{url} does not answer for {self.config.patience_seconds:g} s ({trouble}): "
                    "start it and give the same command again; finished parts are kept"
                )
            await asyncio.sleep(pause)
            pause = min(2 * pause, LONGEST_PAUSE)
        raise AssertionError("unreachable")

    def _body(self, task: Task) -> dict[str, Any]:
        """Every sampling setting is named: a server's own defaults come from the model's generation_config."""
        return {
            "model": self.model,
            "prompt": task.tokens,
            "n": task.responses,
            "seed": request_seed(self.config.seed, task.prompt_id) + task.first,
            "max_tokens": self.config.max_new_tokens,
            "temperature": self.config.temperature,
            "top_p": 1.0,
            "top_k": -1,
            "min_p": 0.0,
            "repetition_penalty": 1.0,
            "stop_token_ids": list(self.renderer.eos_ids),
            "logprobs": 1,
            "return_token_ids": True,
        }

    def _responses(self, task: Task, answer: dict[str, Any]) -> list[Response]:
        choices = sorted(answer.get("choices", []), key=lambda choice: int(choice["index"]))
        if len(choices) != task.responses:
            raise EngineError(f"the server gave {len(choices)} responses where {task.responses} were asked for")
        return [self._response(task, task.first + k, choice) for k, choice in enumerate(choices)]

    def _response(self, task: Task, number: int, choice: dict[str, Any]) -> Response:
        tokens = choice.get("token_ids")
        if tokens is None:
            self.tokens_told = False
            tokens = self.renderer.tokenizer(choice["text"], add_special_tokens=False)["input_ids"]
            if choice["finish_reason"] == "stop":
                tokens = [*tokens, self.renderer.eos_ids[0]]
            made = response(self.renderer, task, number, tokens, [math.nan] * len(tokens))
            return made._replace(text=choice["text"])
        logs = (choice.get("logprobs") or {}).get("token_logprobs") or []
        if len(logs) != len(tokens):
            logs = [math.nan] * len(tokens)
        return response(self.renderer, task, number, tokens, logs)


def _object(answer: Any, url: str) -> dict[str, Any]:
    try:
        found: dict[str, Any] = answer.json()
    except json.JSONDecodeError as error:
        raise EngineError(f"{url} answers no JSON: is it the base URL of an OpenAI-compatible server?") from error
    return found
