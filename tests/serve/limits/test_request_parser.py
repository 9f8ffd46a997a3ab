"""How much of a chunked body is parsed, depending on its share of content."""

import h11
import pytest

from mgm.serve.limits.request_parser import MAX_FRAMING_BYTES, RequestParser

HEAD = b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
END = b"0\r\n\r\n"


def parse(parser: RequestParser, data: bytes) -> tuple[int, int]:
    """Chunks and bytes of content in what comes."""
    parser.receive_data(data)
    chunks = content = 0
    while (event := parser.next_event()) not in (h11.NEED_DATA, h11.PAUSED):
        if isinstance(event, h11.Data):
            chunks, content = chunks + 1, content + len(event.data)
    return chunks, content


def chunk(size: int, extension: bytes = b"") -> bytes:
    return b"%x%s\r\n%s\r\n" % (size, extension, b"x" * size)


@pytest.mark.parametrize("size", [1, 8, 32, 64])
def test_tiny_chunks_are_rejected_early(size):
    """In packets of any size, at most a few thousand chunks are parsed."""
    parser = RequestParser()
    parse(parser, HEAD)
    counts: list[int] = []
    with pytest.raises(h11.RemoteProtocolError, match="larger chunks"):
        counts.extend(parse(parser, chunk(size) * 100)[0] for _ in range(500))
    assert sum(counts) < MAX_FRAMING_BYTES
    assert parser.error is not None
    assert parser.error.error_status_hint == 413


@pytest.mark.parametrize(
    "body",
    [
        chunk(1) * 1000,
        chunk(1, b";name=value") * 500,
        chunk(100) * 20_000,
        chunk(2**18) * 4,
        b"".join(chunk(size) for size in range(1, 1500)),
    ],
)
@pytest.mark.parametrize("portion", [1000, 2**20])
def test_chunks_of_regular_clients_are_parsed(body, portion):
    parser = RequestParser()
    data = HEAD + body + END
    results = [parse(parser, data[at : at + portion]) for at in range(0, len(data), portion)]
    assert sum(content for _, content in results) == body.count(b"x")
    assert parser.their_state is h11.DONE


def test_allowance_is_per_request():
    parser = RequestParser()
    for _ in range(5):
        assert parse(parser, HEAD + chunk(1) * 2000 + END) == (2000, 2000)
        parser.send(h11.Response(status_code=200, headers=[("Content-Length", "0")]))
        parser.send(h11.EndOfMessage())
        parser.start_next_cycle()
