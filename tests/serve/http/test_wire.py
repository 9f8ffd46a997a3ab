"""Frames and worker addresses in published formats."""

import json

import pytest

from mgm.errors import MGMError
from mgm.serve.http.wire import encode_frame, parse_worker_address


@pytest.mark.parametrize(
    ("address", "parsed"),
    [
        ("http://localhost:40000", "http://localhost:40000"),
        ("http://localhost:40000/", "http://localhost:40000"),
        ("HTTPS://Worker-1.Example.com", "https://worker-1.example.com"),
        ("http://my_worker:080", "http://my_worker:80"),
        ("http://10.0.0.7:65535", "http://10.0.0.7:65535"),
        ("http://[::1]:21002", "http://[::1]:21002"),
        ("http://[2001:DB8::1]", "http://[2001:db8::1]"),
    ],
)
def test_worker_addresses(address, parsed):
    assert parse_worker_address(address) == parsed


@pytest.mark.parametrize(
    "address",
    [
        *(None, 7, [], {}, "", "localhost:1", "ftp://a:1", "file:///etc/passwd", "http://"),
        *("http://a:0", "http://a:65536", "http://a:99999", "http://a:123456", "http://a:-1"),
        *("http://a:", "http://a:1:2", "http://a:\u0661", "http://a:1e3", "http://a:+1"),
        *("http://user@a:1", "http://user:word@a:1", "http://@a:1", "http://a:1@b:2"),
        *("http://a:1/path", "http://a:1//", "http://a:1?x", "http://a:1#x", "http://a:1/?x=1"),
        *(" http://a:1", "http://a:1 ", "http://a :1", "http://a:1\n", "http://a\r\nX: y:1"),
        *("http://a\x00:1", "http://a%20b:1", "http://a\\b:1", "http://a,b:1", "http:/a:1"),
        *("http://\u00e4:1", "http\u017f://a:1", "http://a\ud800:1", "http://a\u202eb:1"),
        *("http://[::1", "http://[::1%eth0]:1", "http://[:::1]:1", "http://[1.2.3.4]:1"),
        *("http://-a:1", "http://a-:1", "http://a..b:1", "http://.a:1", "http://" + "a" * 64),
        "http://" + ".".join(["a" * 60] * 5),
        "http://" + "a." * 100_000 + "a",
        "http://[" + ":" * 100_000 + "]",
    ],
)
def test_invalid_worker_addresses(address):
    with pytest.raises(MGMError, match="give ") as caught:
        parse_worker_address(address)
    text = str(caught.value)
    assert len(text) < 200
    assert text.isprintable()


@pytest.mark.parametrize("text", ["plain", "\u00e4\u6f22\U0001f600", "half \ud83d", "\0\n\\ud83d"])
def test_frames_of_any_text(text):
    frame = encode_frame(text, 3, extra=1)
    assert frame.endswith(b"\0")
    assert frame.count(b"\0") == 1
    assert json.loads(frame[:-1]) == {"text": text, "error_code": 3, "extra": 1}
