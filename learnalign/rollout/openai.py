"""The server engine: any server with OpenAI's completions endpoint (vLLM, SGLang), one or several of the same policy.

Prompts are sent as token ids, so that they are rendered here as for every engine. Token ids come back where the
server can tell them (`return_token_ids` of vLLM); else its text is tokenized here, which need not give the tokens
that were sampled, and log-probabilities are NaN. Log-probabilities at another temperature than that of the sampling
(see `temperature`) are left out. This module does not start servers.
"""

from __future__ import annotations

import asyncio
import math
import os
import time
from collections.abc import Callable, Sequence
from typing import Any, Self

from learnalign.config import Config
from learnalign.errors import EngineError, MissingPackageError
from learnalign.policy import Renderer
from learnalign.rollout.completions import Choice, only_choice
from learnalign.rollout.copies import Copies
from learnalign.rollout.engine import Response, Task, response
from learnalign.rollout.sampling import request_seed
from learnalign.rollout.temperature import TOP, of_the_sampling

RETRIED = frozenset({408, 425, 429, 500, 502, 503, 504})
"""Answers that another attempt may mend; any other refusal is final."""
ADVICE = {
    401: " (the key is read from the environment variable OPENAI_API_KEY)",
    404: " (rollout.served_model names the model)",
    422: " (prompts are sent as token ids, as vLLM and SGLang take them, and TGI does not)",
}
"""What to do about a refusal."""
FIRST_PAUSE, LONGEST_PAUSE = 0.5, 30.0
"""Seconds between attempts: doubled each time."""


class ServerEngine:
    """Samples over HTTP: one request a response, `concurrency` of them at a time, spread over the servers in turn."""

    def __init__(self, config: Config, renderer: Renderer, say: Callable[[str], None] = lambda _: None) -> None:
        try:
            import httpx2
        except ImportError as error:
            raise MissingPackageError("rollout.engine=server", "server", error) from error
        self.http, self.config, self.renderer = httpx2, config.rollout, renderer
        self.urls = [url.rstrip("/") for url in config.rollout.base_urls.split()]
        self.model = config.rollout.served_model or config.policy.model
        self.tokens_told = True
        self.comparable = True if config.rollout.temperature == 1 else None
        """Whether log-probabilities are at the temperature of the sampling; None until it is found out."""
        self.say, self.troubled, self.copies = say, set[str](), Copies()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        pass

    def sample(self, tasks: Sequence[Task]) -> list[Response]:
        """All tasks. Raises `EngineError` where a server refuses, or none answers for `patience_seconds`."""
        made = asyncio.run(self._all(tasks))
        self.copies.look(made)
        return made

    def facts(self) -> dict[str, Any]:
        """Engine, and where the token ids come from."""
        return {
            "engine": "server",
            "token_ids": "told by the server" if self.tokens_told else "by tokenizing text",
            "log_probabilities": "at the sampling temperature" if self.comparable and self.tokens_told else "none",
        }

    async def _all(self, tasks: Sequence[Task]) -> list[Response]:
        key = os.environ.get("OPENAI_API_KEY")
        gate = asyncio.Semaphore(self.config.concurrency)
        jobs = [(task, number) for task in tasks for number in range(task.first, task.first + task.responses)]
        async with self.http.AsyncClient(
            headers={"Authorization": f"Bearer {key}"} if key else {},
            timeout=self.http.Timeout(self.config.patience_seconds, connect=10.0),
            limits=self.http.Limits(max_connections=self.config.concurrency),
        ) as client:
            if self.comparable is None:
                self.comparable = all([await self._is_comparable(client, k, tasks[0]) for k in range(len(self.urls))])

            async def one(turn: int, task: Task, number: int) -> Response:
                async with gate:
                    return self._response(task, number, *await self._ask(client, turn, self._body(task, number)))

            return await asyncio.gather(*(one(turn, *job) for turn, job in enumerate(jobs)))

    async def _ask(self, client: Any, turn: int, body: dict[str, Any]) -> tuple[Choice, str]:
        """The answer to one request and who gave it; tried at the next server, after a pause, until patience ends."""
        started, pause = time.monotonic(), FIRST_PAUSE
        for attempt in range(turn, 1 << 62):
            url = self.urls[attempt % len(self.urls)]
            try:
                answer = await client.post(f"{url}/completions", json=body)
            except (self.http.InvalidURL, self.http.UnsupportedProtocol, self.http.LocalProtocolError) as error:
                raise EngineError(f"{url} is no address of a server ({error}): see rollout.base_urls") from error
            except self.http.TransportError as error:
                trouble = f"{type(error).__name__} {error}".strip()
                if "[SSL" in trouble:
                    raise EngineError(f"{url} cannot be reached by https ({trouble}): see rollout.base_urls") from error
            else:
                if answer.status_code == 200:
                    return only_choice(_json(answer, url), url), url
                trouble = f"HTTP {answer.status_code}: {' '.join(answer.text.split())[:200]}"
                if answer.status_code not in RETRIED:
                    raise EngineError(f"{url} refuses: {trouble}{ADVICE.get(answer.status_code, '')}")
            if time.monotonic() + pause - started > self.config.patience_seconds:
                raise EngineError(
                    f"{url} does not answer for {self.config.patience_seconds:g} s ({trouble}): "
                    "start it and give the same command again; finished parts are kept"
                )
            self._tell(url, trouble)
            await asyncio.sleep(pause)
            pause = min(2 * pause, LONGEST_PAUSE)
        raise AssertionError("unreachable")

    async def _is_comparable(self, client: Any, turn: int, task: Task) -> bool:
        """Whether a server tells log-probabilities at the temperature of the sampling; says so where it does not."""
        body = {**self._body(task, task.first), "max_tokens": 1, "logprobs": TOP}
        sampled, url = await self._ask(client, turn, body)
        plain, _ = await self._ask(client, turn, {**body, "temperature": 1.0})
        found = of_the_sampling(sampled.top, plain.top, self.config.temperature)
        if not found:
            what = "at temperature 1" if found is False else "at a temperature that cannot be told"
            self.say(
                f"rollout: {url} tells log-probabilities {what}, not at rollout.temperature: its responses will not be "
                "compared with the policy (vLLM: --logprobs-mode processed_logprobs)"
            )
        return bool(found)

    def _tell(self, url: str, trouble: str) -> None:
        """Say the first trouble with every server at once, so that nobody waits for nothing."""
        if url not in self.troubled:
            self.troubled.add(url)
            self.say(f"rollout: {url}: {trouble}; trying again for up to {self.config.patience_seconds:g} s")

    def _body(self, task: Task, number: int) -> dict[str, Any]:
        """One response, since some servers give all n of a request the same seed, and so n copies of one.

        Every sampling setting is named: a server's own defaults come from the model's generation_config.
        """
        return {
            "model": self.model,
            "prompt": task.tokens,
            "n": 1,
            "seed": request_seed(self.config.seed, task.prompt_id) + number,
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

    def _response(self, task: Task, number: int, choice: Choice, url: str) -> Response:
        """A response with its end token, as training would see it. Raises `EngineError` for foreign token ids."""
        ends, told = self.renderer.eos_ids, choice.tokens is not None
        self.tokens_told = self.tokens_told and told
        tokens = choice.tokens or ([] if told else self._tokenized(choice.text))
        foreign = next((token for token in tokens if not 0 <= token < self.renderer.vocabulary), None)
        if foreign is not None:
            raise EngineError(
                f"{url} gives token id {foreign}, and the policy {self.renderer.name!r} knows "
                f"{self.renderer.vocabulary:,} tokens: it serves another policy (see rollout.served_model)"
            )
        if choice.ended and not (tokens and tokens[-1] in ends):
            tokens = [*tokens, choice.end if choice.end in ends else ends[0]]
        if not tokens:
            raise EngineError(f"{url} gives an empty response to prompt {task.prompt_id!r} that nothing ended")
        logs = choice.log_probabilities if told and self.comparable else []
        logs = [*logs, math.nan] if len(logs) == len(tokens) - 1 else logs
        made = response(
            self.renderer, task, number, tokens, logs if len(logs) == len(tokens) else [math.nan] * len(tokens)
        )
        return made if told else made._replace(text=choice.text)

    def _tokenized(self, text: str) -> list[int]:
        return list(self.renderer.tokenizer(text, add_special_tokens=False)["input_ids"])


def _json(answer: Any, url: str) -> Any:
    try:
        return answer.json()
    except ValueError as error:
        raise EngineError(f"{url} answers no JSON: is it the base URL of an OpenAI-compatible server?") from error
