"""User code in JavaScript: `reward(out, gt, more)` in QuickJS. Runs in the batch's own process.

Every sample gets a context of its own, so that nothing of one can reach the next. `_quickjs` and not `quickjs`: the
package around it starts a thread when imported, and a process with threads must not be forked.
"""

import importlib
from json import dumps
from typing import Any

from services.reward.sandbox.inside import frames
from services.reward.sandbox.inside.zygote import Batch

_quickjs: Any = importlib.import_module("_quickjs")  # an extension without stubs
MESSAGE_CHARACTERS = 500

HARNESS = """
(function () {
  const {parse, stringify} = JSON, {isFinite} = Number, {entries} = Object, text = String, wrong = TypeError;
  const number = (value, what) => {
    if (typeof value !== "number" || !isFinite(value))
      throw new wrong("BAD_RESULT " + what + " is " + text(value) + " (" + typeof value + "); return a finite number");
    return value;
  };
  return function (reward, sample) {
    const {output, ground_truth, ...more} = parse(sample);
    const result = reward(output, ground_truth, more);
    if (typeof result !== "object" || result === null) return stringify({reward: number(result, "reward(out, gt)")});
    const components = {};
    for (const [name, part] of entries(result.components ?? {})) components[name] = number(part, "components." + name);
    return stringify({reward: number(result.reward, "reward"), components, reason: text(result.reason ?? "")});
  };
})()
"""
"""Built before user code runs, over the built-ins as they are then."""


def grade(batch: Batch, first: int, pipe: int) -> None:
    """Grade samples[first:] and write one answer each to the pipe."""
    try:
        _load(batch)
    except (_quickjs.JSException, _quickjs.StackOverflow) as error:
        frames.write_frame(pipe, f"LOAD_FAILED: {error}".encode()[:MESSAGE_CHARACTERS])
        return
    frames.write_frame(pipe, frames.LOADED)
    for text in batch.samples[first:]:
        frames.write_frame(pipe, _graded(batch, text.decode()))


def _load(batch: Batch) -> tuple[Any, Any]:
    """The harness and the user's function in a new context."""
    context = _quickjs.Context()
    context.set_memory_limit(batch.memory_bytes)
    harness = context.eval(HARNESS)
    context.eval(batch.source)
    reward = context.eval("typeof reward === 'function' ? reward : null")
    if reward is None:
        raise _quickjs.JSException("the file defines no function reward(out, gt)")
    return harness, reward


def _graded(batch: Batch, text: str) -> bytes:
    """One sample's answer, as JSON: {reward, components, reason} or {failure, message}."""
    try:
        harness, reward = _load(batch)
        return str(harness(reward, text)).encode()
    except MemoryError:
        return _failure("MEMORY_LIMIT", "ran out of memory")
    except (_quickjs.JSException, _quickjs.StackOverflow, UnicodeError, ValueError) as error:
        message = str(error).split("\n    at ")[0].strip()
        if "out of memory" in message:
            return _failure("MEMORY_LIMIT", "ran out of memory")
        _, bad, why = message.partition("BAD_RESULT ")
        return _failure("BAD_RESULT", why) if bad else _failure("RAISED", message)


def _failure(code: str, message: str) -> bytes:
    return dumps({"failure": code, "message": message[:MESSAGE_CHARACTERS]}).encode()
