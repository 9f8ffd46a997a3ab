import pytest
from PIL import Image

import mgm
from mgm import MGMError, Request
from mgm.serve.terminal.chat import Chat

QUESTION = "w" * 60
SETTINGS = Request("", max_new_tokens=20)


@pytest.fixture
def engine(tiny_folder):
    """An engine of the tiny model that records requests."""
    engine = mgm.load(tiny_folder, device="cpu")
    engine.requests = []
    stream = engine.stream

    def noted(request):
        engine.requests.append(request)
        return stream(request)

    engine.stream = noted
    return engine


@pytest.fixture
def chat(engine):
    """A chat about an image; `chat.reports` has its messages."""
    reports = []
    chat = Chat(engine, [Image.new("RGB", (40, 30), "red")], SETTINGS, reports.append)
    chat.reports = reports
    return chat


def ask(chat, question):
    return "".join(chat.ask(question)).strip()


def test_long_conversations_are_truncated(chat, engine):
    engine.model.config.text_config.max_position_embeddings = 400
    for number in range(12):
        answer = ask(chat, f"{number} {QUESTION}")
        assert engine.requests[-1].prompt == f"{number} {QUESTION}"
        assert engine.remaining_tokens(engine.requests[-1]) >= 20
        assert answer
    kept = [question.split()[0] for question, _ in engine.requests[-1].history]
    assert kept[0] == "0"
    assert kept[1:] == [str(number) for number in range(12 - len(kept), 11)]
    assert 2 < len(kept) < 9
    prompt = engine.prompt(engine.requests[-1])
    assert prompt.startswith("<s><|user|><image>\n0 ")
    assert chat.reports
    assert all("dropped 1 earlier turn" in report for report in chat.reports)


def test_first_turn_is_dropped_last(chat, engine):
    ask(chat, "x" * 485)
    ask(chat, "sure?")
    assert engine.requests[-1].history == ()
    assert engine.prompt(engine.requests[-1]).startswith("<s><|user|><image>\nsure?")
    assert chat.reports == ["the conversation exceeds the model's context; dropped 1 earlier turn"]
    ask(chat, "sure?")
    assert [question for question, _ in engine.requests[-1].history] == ["sure?"]


def test_too_long_question_leaves_the_history(chat, engine):
    ask(chat, "what?")
    with pytest.raises(MGMError, match="the prompt takes"):
        ask(chat, "x" * 600)
    assert chat.reports == []
    ask(chat, "sure?")
    assert [question for question, _ in engine.requests[-1].history] == ["what?"]


def test_image_markers_in_the_first_question(chat, engine):
    with pytest.raises(MGMError, match="the question has 2 <image> for 1 image; write as many"):
        ask(chat, "<image> or <image>?")
    ask(chat, "what is <image>?")
    assert engine.prompt(engine.requests[-1]).startswith("<s><|user|>what is <image>?<|end|>")
    with pytest.raises(MGMError, match="in the first question only"):
        ask(chat, "and <image>?")
    ask(chat, "sure?")
    assert engine.prompt(engine.requests[-1]).startswith("<s><|user|>what is <image>?<|end|>")


def test_markers_without_images(engine):
    chat = Chat(engine, [], SETTINGS, print)
    with pytest.raises(MGMError, match="there is no image; leave it out"):
        ask(chat, "what is <image>?")


def test_marker_in_an_answer_is_not_an_image(chat, engine, monkeypatch):
    class Spelled:
        def __iter__(self):
            yield "an <image>"

        def close(self):
            pass

        answer = mgm.Answer("an <image>", (1, 2), "stop", 9)

    monkeypatch.setattr(engine, "stream", lambda request: Spelled())
    ask(chat, "what?")
    monkeypatch.undo()
    ask(chat, "sure?")
    assert engine.requests[-1].history == (("what?", "an"),)
