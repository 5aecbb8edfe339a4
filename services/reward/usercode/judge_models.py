"""The two kinds of model behind a judge: an OpenAI-compatible endpoint, and our own inference service."""

import asyncio
import base64
import json
from typing import Any

import httpx

from moontune.clients.inference import InferenceClient
from moontune.errors import DeadlineExceeded, InvalidField, MoontuneError
from moontune.values.image import Image
from moontune.values.inference import InferenceRequest
from moontune.values.output import QueryOutput
from moontune.values.request import SkillRequest
from moontune.values.sampling import SamplingSettings
from moontune.values.skill import Skill
from services.reward.usercode.judge import JudgeFailed

TRIES = 3
MAX_WAIT_S = 10.0
MAX_BODY_BYTES = 1 << 20
MAX_TOKENS = 256
RETRIED = frozenset({408, 409, 429, 500, 502, 503, 504})
REFUSED = frozenset({400, 413, 422})
"""Statuses that are about one question: too long, say, or against the endpoint's rules."""


class OpenAiJudge:
    """`POST <endpoint>/chat/completions` at temperature 0, tried again where the endpoint says that it may be."""

    def __init__(self, endpoint: str, model: str, key: str, timeout_s: float) -> None:
        self._url, self._model = f"{endpoint.rstrip('/')}/chat/completions", model
        headers = {"authorization": f"Bearer {key}"} if key else {}
        self._timeout_s = timeout_s
        self._http = httpx.AsyncClient(headers=headers, timeout=timeout_s, trust_env=False, follow_redirects=False)

    async def __call__(self, question: str, image: Image | None) -> str:
        """See `Ask`."""
        content: list[dict[str, Any]] = [{"type": "text", "text": question}]
        if image is not None and image.data is not None:
            content.append({"type": "image_url", "image_url": {"url": _data_url(image.data)}})
        body = {
            "model": self._model,
            "messages": [{"role": "user", "content": content}],
            "temperature": 0,
            "max_tokens": MAX_TOKENS,
        }
        try:
            async with asyncio.timeout(self._timeout_s):
                return await self._tried(body)
        except TimeoutError:
            raise JudgeFailed(f"no answer within {self._timeout_s:g} s", late=True) from None

    async def close(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def _tried(self, body: dict[str, Any]) -> str:
        said = ""
        for attempt in range(TRIES):
            wait_s = 0.2 * 2.0**attempt
            try:
                status, payload, asked_s = await self._post(body)
            except httpx.HTTPError as error:
                said = f"{type(error).__name__} at {self._url}"
            else:
                if status == 200:
                    return _text(payload)
                said, wait_s = f"status {status} from {self._url}", max(wait_s, asked_s)
                if status in REFUSED:
                    raise JudgeFailed(said, refused=True)
                if status not in RETRIED:
                    break
            if attempt + 1 < TRIES:
                await asyncio.sleep(min(wait_s, MAX_WAIT_S))
        raise JudgeFailed(said)

    async def _post(self, body: dict[str, Any]) -> tuple[int, bytes, float]:
        """Status, at most 1 MiB of body, and the seconds that Retry-After asks for."""
        async with self._http.stream("POST", self._url, json=body) as response:
            payload = b""
            async for part in response.aiter_bytes():
                payload += part
                if len(payload) > MAX_BODY_BYTES:
                    raise JudgeFailed(f"more than {MAX_BODY_BYTES} bytes from {self._url}")
            after = response.headers.get("retry-after", "")
            return response.status_code, payload, float(after) if after.isdecimal() else 0.0


class OwnJudge:
    """A model of our inference service, asked as query; the caller's organisation goes with it."""

    def __init__(self, client: InferenceClient, model: str, timeout_s: float) -> None:
        self._client, self._model, self._timeout_s = client, model, timeout_s

    async def __call__(self, question: str, image: Image | None) -> str:
        """See `Ask`."""
        settings = SamplingSettings(temperature=0.0, max_tokens=MAX_TOKENS)
        request = SkillRequest(Skill.QUERY, image, question=question, settings=settings)
        try:
            request.validate("judge")
            result = await self._client.answer(InferenceRequest(self._model, request), deadline_s=self._timeout_s)
        except MoontuneError as error:
            late, refused = isinstance(error, DeadlineExceeded), isinstance(error, InvalidField)
            raise JudgeFailed(error.message, late=late, refused=refused) from error
        assert isinstance(result.output, QueryOutput)
        return result.output.answer

    async def close(self) -> None:
        """Close the connection."""
        await self._client.close()


def _text(payload: bytes) -> str:
    try:
        answer: Any = json.loads(payload)
        content = answer["choices"][0]["message"]["content"]
    except (ValueError, LookupError, TypeError, RecursionError):
        raise JudgeFailed("the answer is not a chat completion") from None
    if not isinstance(content, str):
        raise JudgeFailed("the answer has no text")
    return content


def _data_url(data: bytes) -> str:
    kind = "png" if data.startswith(b"\x89PNG") else "webp" if data[8:12] == b"WEBP" else "jpeg"
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"
