"""OpenAI's chat form, plain and streamed, as the official client parses it."""

import json

from moontune.errors import Unavailable
from tests.fakes.chassis import until
from tests.services.gateway.conftest import image_url
from tests.services.gateway.test_lost_answers import leave, send
from tests.services.gateway.test_tuning import error_of

PATH = "/v1/chat/completions"


def turn(*parts, role="user"):
    return {"role": role, "content": list(parts)}


def text(words):
    return {"type": "text", "text": words}


def image(url=None):
    return {"type": "image_url", "image_url": {"url": url or image_url()}}


async def events_of(running, path, body):
    lines = []
    async with running.client.stream("POST", path, json=body) as answer:
        assert answer.headers["content-type"].startswith("text/event-stream"), await answer.aread()
        async for line in answer.aiter_lines():
            assert line == "" or line.startswith("data: ")
            lines += [line[6:]] if line else []
    return lines


async def test_a_message_of_text_and_image(running):
    body = {"model": "moondream3-preview", "messages": [turn(text("what?"), image())], "stream": False}
    body |= {"temperature": 0.5, "top_p": 0.8, "max_completion_tokens": 9}
    answer = (await running.client.post(PATH, json=body)).json()
    (choice,) = answer["choices"]
    assert choice["message"] == {"role": "assistant", "content": "a red car"}
    assert (choice["finish_reason"], answer["object"], answer["model"]) == ("stop", "chat.completion", body["model"])
    assert answer["usage"] == {"prompt_tokens": 735, "completion_tokens": 4, "total_tokens": 739}
    (order,) = running.inference.orders
    assert (order.model, order.request.question) == ("moontune-tiny", "what?")
    settings = order.request.settings
    assert (settings.temperature, settings.top_p, settings.max_tokens) == (0.5, 0.8, 9)
    assert order.request.image is not None


async def test_streamed(running):
    body = {"messages": [turn(text("what?"), image())], "stream": True, "reasoning": True}
    lines = await events_of(running, PATH, body)
    assert lines[-1] == "[DONE]"
    events = [json.loads(line) for line in lines[:-1]]
    assert {event["object"] for event in events} == {"chat.completion.chunk"}
    deltas = [event["choices"][0]["delta"] for event in events]
    assert "".join(delta.get("content") or "" for delta in deltas) == "a red car"
    assert "".join(delta.get("reasoning_content") or "" for delta in deltas) == "hm"
    assert [event["choices"][0]["finish_reason"] for event in events[-2:]] == [None, "stop"]


async def test_a_conversation_is_one_question(running):
    messages = [
        {"role": "system", "content": "Be brief."},
        turn(text("Look."), image()),
        {"role": "assistant", "content": "A car."},
        {"role": "user", "content": "Which colour?"},
    ]
    assert (await running.client.post(PATH, json={"messages": messages})).status_code == 200
    asked = running.inference.orders[0].request
    assert asked.question == "Be brief.\nUser: Look.\nAssistant: A car.\nUser: Which colour?"
    assert asked.image is not None


async def test_refusals(running):
    ask = turn(text("what?"))
    cases = [
        ([], "messages"),
        ([{"role": "robot", "content": "x"}], "messages[0].role"),
        ([ask, {"role": "assistant", "content": "x"}], "messages[1].role"),
        ([turn(image())], "messages[0].content"),
        ([turn(text("what?"), image(), image())], "messages[0].content[2].image_url.url"),
        ([turn(text("what?"), image("https://example.com/x.png"))], "messages[0].content[1].image_url.url"),
        ([turn({"type": "audio"})], "messages[0].content[0]"),
        ([turn({"type": "text"})], "messages[0].content[0].text"),
        ([turn({"type": "image_url", "image_url": 7})], "messages[0].content[0].image_url"),
        ([{"role": "user", "content": 7}], "messages[0].content"),
        ([turn(image(), role="assistant"), ask], "messages[0].content[0]"),
    ]
    for messages, param in cases:
        answer = await running.client.post(PATH, json={"messages": messages})
        assert (answer.status_code, error_of(answer)["param"]) == (400, param), answer.text
    answer = await running.client.post(PATH, json={"messages": [ask], "temperature": 99.0})
    assert error_of(answer)["param"] == "settings.temperature"
    assert running.inference.orders == []


async def test_captions_stream_and_a_failure_half_way_ends_the_stream_with_its_error(running):
    running.inference.captions = True
    body = {"image_url": image_url(), "length": "short", "stream": True}
    events = [json.loads(line) for line in await events_of(running, "/v1/caption", body)]
    assert "".join(event["chunk"] for event in events) == "a red car"
    assert [event["completed"] for event in events] == [False, False, False, True]
    running.inference.fails = Unavailable("the worker went away")
    *_, last = [json.loads(line) for line in await events_of(running, "/v1/caption", body)]
    assert (last["completed"], last["error"]["code"]) == (True, "UNAVAILABLE")
    lines = await events_of(running, PATH, {"messages": [turn(text("what?"))], "stream": True})
    assert json.loads(lines[-1])["error"]["code"] == "UNAVAILABLE"


async def test_a_streamed_answer_stops_upstream_when_its_caller_leaves(running):
    running.inference.pause_s = 30.0
    for path, body in (
        ("/v1/query", {"question": "what?", "stream": True}),
        (PATH, {"messages": [turn(text("what?"))], "stream": True}),
    ):
        before = running.inference.cancelled
        reader, writer = await send(running.port, path, body)
        await reader.readuntil(b"a ")  # the first piece came, the second does not
        leave((reader, writer))
        await until(lambda before=before: running.inference.cancelled == before + 1)
