"""The event-stream format."""

import json

from hypothesis import given
from hypothesis import strategies as st

from secateur.sse import Message, parse


@given(st.lists(st.text()), st.sampled_from(["\n", "\r\n", "\r"]), st.data())
def test_messages_survive_any_cut_and_any_line_end(texts: list[str], end: str, data: st.DataObject) -> None:
    stream = "".join(
        f"id: {number}{end}data: {json.dumps(text, ensure_ascii=False)}{end}{end}" for number, text in enumerate(texts)
    )
    raw = stream.encode("utf-8", "surrogatepass")
    cuts = sorted(data.draw(st.lists(st.integers(0, len(raw)), max_size=8)))
    chunks = [raw[start:stop] for start, stop in zip([0, *cuts], [*cuts, len(raw)], strict=True)]
    # A message whose last line end is a lone CR at the very end cannot be told from half a CRLF.
    expected = texts[:-1] if end == "\r" else texts
    found = [message for message in parse(chunks) if message is not None]
    assert [json.loads(message.data) for message in found][: len(expected)] == expected
    assert [message.id for message in found][: len(expected)] == [str(number) for number in range(len(expected))]


def test_comments_are_heartbeats_and_a_cut_message_is_dropped() -> None:
    chunks = [b": ping\n\nevent: log\nid:7\ndata: a\ndata: b\n\n", b"data: half"]
    assert list(parse(chunks)) == [None, Message(event="log", data="a\nb", id="7")]


def test_ids_last_until_the_next_and_kinds_do_not() -> None:
    chunks = [b"id: 1\nevent: log\ndata: a\n\ndata: b\n\nevent: empty\n\n"]
    assert list(parse(chunks)) == [Message(event="log", data="a", id="1"), Message(event="message", data="b", id="1")]
