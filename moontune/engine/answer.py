"""From a record of decisions to what callers get: rollouts, pieces of a stream, usage. On the caller's thread."""

from collections.abc import Sequence

from moontune.engine.entry import Entry
from moontune.engine.pieces import Pieces
from moontune.model.answers import read_output
from moontune.model.base_model import BaseModel
from moontune.values.inference import Usage
from moontune.values.output import Output
from moontune.values.rollout import Decision, FinishReason, Head, Rollout


def stream_pieces(entry: Entry, base: BaseModel) -> None:
    """Wait for an entry's outcome, sending what a streamed one says meanwhile.

    A caller that reads slowly holds up this thread alone.
    """
    pieces, said, ended = Pieces(), list[Decision](), False
    while not ended:
        # Several steps may have passed while the last piece was sent: they are read together.
        news = [entry.news.get()]
        while not entry.news.empty():
            news.append(entry.news.get())
        ended = news[-1] is None
        said += [decision for record in news if record is not None for decision in record.decisions()]
        if entry.order.stream and entry.error is None:
            output, _ = _read(entry, said, base)
            for piece in pieces.more(output, last=ended):
                entry.context.emit(piece)


def rollout_of(entry: Entry, index: int, base: BaseModel) -> Rollout:
    """Rollout number `index` of an entry that has all its records."""
    record, order = entry.records[index], entry.order
    assert record is not None, "the rollout has not ended"
    decisions, settings = record.decisions(), order.request.settings
    output, thinking = _read(entry, decisions, base)
    return Rollout(
        skill=order.request.skill,
        output=output,
        decisions=decisions,
        finish_reason=FinishReason.STOP if record.stopped else FinishReason.LENGTH,
        policy=order.policy,
        seed=entry.plan.starts[index].seed,
        temperature=settings.temperature,
        top_p=settings.top_p,
        thinking_count=thinking,
    )


def usage_of(entry: Entry, rollouts: Sequence[Rollout]) -> Usage:
    """What an answer took. prefill_s ends with the first decision, so queue_s + prefill_s is the time to it."""
    times = entry.times
    return Usage(
        input_tokens=entry.plan.length,
        output_tokens=sum(len(rollout.decisions) for rollout in rollouts),
        queue_s=times.admitted - times.queued,
        prefill_s=times.first_decision - times.admitted,
        decode_s=times.ended - times.first_decision,
    )


def _read(entry: Entry, decisions: Sequence[Decision], base: BaseModel) -> tuple[Output, int]:
    """What decisions say, and how many of them are thinking tokens."""
    request, thinking = entry.order.request, 0
    if request.reasoning:
        separator = base.config.tokenizer.answer_id
        ends = (i for i, each in enumerate(decisions) if each.head is Head.TOKEN and each.choice == separator)
        thinking = next(ends, len(decisions))
    output = read_output(
        request.skill,
        decisions,
        base.config,
        base.tokenizer,
        reasoning=request.reasoning,
        thinking_count=thinking,
    )
    return output, thinking
