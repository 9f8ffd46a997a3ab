"""The page in a real browser, with a real controller and real workers."""

import json
import re
import shutil
import time
import urllib.request

import pytest
from PIL import Image

import mgm
from mgm.serve.router.app import Controller, build_controller_app
from mgm.serve.router.worker_registry import WorkerRegistry
from mgm.serve.worker.app import build_worker_app
from mgm.serve.worker.worker import Limits, Worker
from tests.serve.servers import ROOT, ask, free_port, running, wait_for
from tests.tiny_model import build

gradio = pytest.importorskip("gradio")
playwright = pytest.importorskip("playwright.sync_api")
CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="no browser: apt-get install chromium"),
]
NANO = ROOT / "playground" / "mgm-nano"
RECEIPT = ROOT / "images" / "receipt.png"
TOTAL = "The total is $18.50."


@pytest.fixture(scope="module")
def workers(tmp_path_factory):
    """A model that answers, and one that never stops."""
    endless = build(tmp_path_factory.mktemp("models") / "endless", positions=8192, endless=True)
    limits = Limits(max_concurrency=2, max_queue=1, max_tokens=4000)
    addresses = [
        Worker(mgm.load(NANO, device="cpu"), ("nano",), limits),
        Worker(mgm.load(endless, device="cpu"), ("endless",), limits),
    ]
    # The page requests 512 tokens, which a tiny model writes faster than a browser polls.
    scheduler = addresses[1].engine.scheduler
    step = scheduler.step

    def slowly() -> None:
        time.sleep(0.1)
        step()

    scheduler.step = slowly
    return addresses


@pytest.fixture(scope="module")
def registry():
    return WorkerRegistry()


@pytest.fixture(scope="module")
def controller(workers, registry):
    """The address of a controller with both workers."""
    with (
        running(build_worker_app(workers[0])) as first,
        running(build_worker_app(workers[1])) as second,
        running(build_controller_app(Controller(registry))) as address,
    ):
        for worker, worker_address in zip(workers, (first, second), strict=True):
            registry.register(worker_address, worker.status(), False)
        yield address


@pytest.fixture(scope="module")
def log_folder(tmp_path_factory):
    return tmp_path_factory.mktemp("log")


@pytest.fixture(scope="module")
def address(controller, log_folder):
    """The address of the page."""
    from mgm.serve.web.client import PageClient
    from mgm.serve.web.feedback_log import FeedbackLog
    from mgm.serve.web.handlers import Handlers
    from mgm.serve.web.page import Page, launch_options

    page = Page(Handlers(PageClient(controller), FeedbackLog(log_folder)), ROOT / "images")
    blocks = page.build(concurrency=8)
    port = free_port()
    blocks.launch(
        server_name="127.0.0.1",
        server_port=port,
        prevent_thread_lock=True,
        quiet=True,
        **launch_options(),
    )
    yield f"http://127.0.0.1:{port}"
    blocks.close()


@pytest.fixture(scope="module")
def browser():
    with playwright.sync_playwright() as started:
        launched = started.chromium.launch(
            executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"]
        )
        yield launched
        launched.close()


@pytest.fixture
def open_page(browser, address):
    """Open the page; fails on requests to other hosts and on script errors."""
    contexts, faults = [], []

    def open_it(query: str = "?model=nano", **options):
        context = browser.new_context(**({"viewport": {"width": 1280, "height": 1200}} | options))
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(60_000)
        page.on("pageerror", lambda error: faults.append(str(error)))
        page.on("request", lambda request: faults.append(request.url) if outside(request) else None)
        page.goto(address + query)
        page.wait_for_function("document.querySelector('#model input')?.value")
        return page

    def outside(request) -> bool:
        return not request.url.startswith((address, "data:", "blob:"))

    yield open_it
    for context in contexts:
        context.close()
    assert not faults


def put(page, text: str, *files) -> None:
    """Type a question, attach images, and send it with the keyboard."""
    if files:
        page.set_input_files("#box input[type=file]", [str(file) for file in files])
        page.wait_for_function(
            f"document.querySelectorAll('#box .thumbnail-item').length == {len(files)}"
        )
    page.fill("#box textarea", text)
    page.press("#box textarea", "Enter")


def answers(page, side: str = "left") -> list[str]:
    return [
        message.inner_text().strip()
        for message in page.query_selector_all(f"#chat_{side} .bot.message")
    ]


def answered(page, text: str, side: str = "left") -> None:
    """Wait for a complete answer."""
    script = "([side, text]) => document.querySelector(`#chat_${side}`).innerText.includes(text)"
    page.wait_for_function(script, arg=[side, text])
    page.wait_for_selector("#box .submit-button")


def choose(page, name: str, which: str = "model") -> None:
    page.click(f"#{which} input")
    page.click(f"#{which} [role=option]:has-text('{name}'), [role=option]:has-text('{name}')")
    page.wait_for_function(f"document.querySelector('#{which} input').value == '{name}'")


def wait_for_toast(page, text: str) -> None:
    """Wait for a notification."""
    page.wait_for_selector(f".toast-body >> text={text}")


def test_upload_ask_and_retry(open_page, workers):
    page = open_page()
    put(page, "What is the total?", RECEIPT)
    answered(page, TOTAL)
    assert page.query_selector("#chat_left img")
    request = mgm.Request("What is the total?", images=[RECEIPT])
    assert workers[0].engine.answer([request])[0].text == TOTAL
    put(page, "Which item costs $6.90?")
    answered(page, "Honey")
    assert len(answers(page)) == 2
    page.click("#chat_left button[title=Retry]")  # of the last answer
    answered(page, "Honey")
    assert len(answers(page)) == 2


@pytest.mark.slow
def test_paste_and_drop_images(open_page):
    page = open_page()
    for event in ("paste", "drop"):
        name = "pair_a" if event == "paste" else "pair_b"
        content = list((ROOT / "images" / f"{name}.png").read_bytes())
        page.evaluate(
            """([event, content, name]) => {
                const data = new DataTransfer();
                const file = new File([new Uint8Array(content)], name, {type: "image/png"});
                data.items.add(file);
                const options = {bubbles: true, cancelable: true};
                const domEvent = event == "paste"
                    ? new ClipboardEvent("paste", {clipboardData: data, ...options})
                    : new DragEvent("drop", {dataTransfer: data, ...options});
                document.querySelector("#box textarea").dispatchEvent(domEvent);
            }""",
            [event, content, f"{name}.png"],
        )
        count = 1 if event == "paste" else 2
        page.wait_for_function(
            f"document.querySelectorAll('#box .thumbnail-item').length == {count}"
        )
    page.fill("#box textarea", "Are both pictures the same?")
    page.press("#box textarea", "Enter")
    page.wait_for_function("document.querySelectorAll('#chat_left .bot.message').length == 1")
    page.wait_for_selector("#box .submit-button")
    assert len(page.query_selector_all("#chat_left .user img")) == 2
    assert answers(page)[0]


def test_streaming_and_stop(open_page, workers):
    page = open_page("?model=endless")
    put(page, "go on")
    page.wait_for_function(
        "document.querySelector('#chat_left .bot.message')?.innerText.length > 20"
    )
    first = len(answers(page)[0])
    page.wait_for_function(
        f"document.querySelector('#chat_left .bot.message').innerText.length > {first + 10}"
    )
    assert workers[1].limiter.length == 1
    page.click("#box .stop-button")
    page.wait_for_selector("#box .submit-button")
    wait_for(lambda: workers[1].limiter.length == 0, 20)  # no sequence is running
    shown = answers(page)[0]
    assert "▌" not in shown
    time.sleep(0.5)
    assert answers(page)[0] == shown
    page.click("#clear")  # else the history would be part of the next prompt
    page.wait_for_function("!document.querySelector('#chat_left .bot.message')")
    choose(page, "nano")
    put(page, "What is the total?", RECEIPT)
    answered(page, TOTAL)  # the same page goes on


@pytest.mark.slow
def test_edit_and_undo(open_page):
    page = open_page()
    put(page, "Which item costs $6.90?", RECEIPT)
    answered(page, "Honey")
    page.click("#chat_left button[title=Edit]")
    page.fill("#chat_left textarea", "What is the total?")
    page.click("#chat_left button[title=Submit]")
    answered(page, TOTAL)
    assert len(answers(page)) == 1
    page.click("#chat_left button[title=Undo]")
    page.wait_for_function("document.querySelector('#box textarea').value == 'What is the total?'")
    assert not answers(page)
    assert len(page.query_selector_all("#box .thumbnail-item")) == 1
    page.press("#box textarea", "Enter")
    answered(page, TOTAL)
    page.click("#clear")
    page.wait_for_function("!document.querySelector('#chat_left .bot.message')")


def logged(folder) -> list[dict]:
    return [json.loads(line) for file in folder.glob("*-conv.json") for line in file.open("rb")]


@pytest.mark.slow
def test_only_votes_are_logged(open_page, log_folder):
    before = len(logged(log_folder))
    page = open_page()
    put(page, "What is the total?", RECEIPT)
    answered(page, TOTAL)
    assert len(logged(log_folder)) == before
    page.click("#chat_left button[title=Like]")
    wait_for_toast(page, "vote was saved")
    page.click("#chat_left button[title=Dislike]")
    wait_for(lambda: len(logged(log_folder)) == before + 2, 10)
    page.click("#chat_left button[title=Feedback]")
    page.click("#chat_left .extra-feedback-option")
    wait_for(lambda: len(logged(log_folder)) == before + 3, 10)
    entries = logged(log_folder)[before:]
    assert [entry["type"] for entry in entries] == ["upvote", "downvote", "flag"]
    expected = [["USER", "What is the total?"], ["ASSISTANT", TOTAL]]
    assert all(entry["state"]["messages"] == expected for entry in entries)
    assert all(entry["model"] == "nano" for entry in entries)
    assert not (log_folder / "serve_images").exists()


@pytest.mark.slow
def test_two_models_side_by_side(open_page, log_folder):
    page = open_page("?model=nano&compare=endless")
    put(page, "What is the total?", RECEIPT)
    page.wait_for_function("document.querySelector('#chat_left').innerText.includes('18.50')")
    page.wait_for_function(
        "document.querySelector('#chat_right .bot.message')?.innerText.length > 20"
    )
    page.click("#box .stop-button")
    page.wait_for_selector("#box .submit-button")
    assert answers(page) == [TOTAL]
    page.click("#outcome >> text=Left is better")
    wait_for_toast(page, "vote was saved")
    entry = logged(log_folder)[-1]
    assert (entry["type"], entry["model"]) == ("compare: left", "nano, endless")
    assert len(entry["state"]["messages"]) == 4


@pytest.mark.slow
def test_errors_are_shown(open_page, workers, registry, tmp_path):
    empty = open_page()
    empty.press("#box textarea", "Enter")
    wait_for_toast(empty, "Write a question first")
    page = open_page()
    fake = tmp_path / "fake.png"
    fake.write_text("no image")
    put(page, "what?", fake)
    wait_for_toast(page, "fake.png")
    assert not answers(page)
    page.click("#box .delete-button")
    registered = dict(registry.workers)
    registry.workers.clear()
    try:
        put(page, "hello")
        answered(page, "the model 'nano' does not exist")
        page.click("#reload")
        page.wait_for_selector("text=No model is being served")
    finally:
        registry.workers.update(registered)
    page.click("#reload")
    page.wait_for_function("document.querySelector('#model input').value")
    page.click("#chat_left button[title=Retry]")
    page.wait_for_function("!document.querySelector('#chat_left').innerText.includes('no worker')")


@pytest.mark.slow
def test_full_queue(open_page, workers):
    pages = [open_page("?model=endless") for _ in range(4)]
    for number, page in enumerate(pages[:3], start=1):
        put(page, f"go on {number}")
        wait_for(lambda number=number: workers[1].limiter.length == number, 20)
    put(pages[3], "me too")
    answered(pages[3], "⚠️")
    assert re.search("full|busy|wait|later", answers(pages[3])[0])
    for page in pages[:3]:
        page.click("#box .stop-button")
    wait_for(lambda: workers[1].limiter.length == 0, 20)


@pytest.mark.slow
def test_closing_the_page_cancels_the_request(open_page, workers):
    page = open_page("?model=endless")
    put(page, "go on")
    wait_for(lambda: workers[1].limiter.length == 1, 20)
    page.close()
    wait_for(lambda: workers[1].limiter.length == 0, 30)


@pytest.mark.slow
def test_attribution_panel(open_page):
    page = open_page()
    page.click("#mined >> text=See what was mined")
    page.click("#mined_show")
    wait_for_toast(page, "Ask about an image first")
    put(page, "What is the total?", RECEIPT)
    answered(page, TOTAL)
    page.click("#mined_show")
    page.wait_for_selector("#mined_window img")
    page.wait_for_selector("#mined_description >> text=/covers 32 × 32 pixels/")
    number = "#mined_row input[type=number]", "#mined_column input[type=number]"
    # The answer is the total, in the lower part of the receipt.
    assert int(page.input_value(number[0])) >= 8
    before_click = page.inner_text("#mined_description")
    box = page.query_selector("#mined_overview img").bounding_box()
    side = min(box["width"], box["height"])
    corner = (box["x"] + (box["width"] - side) / 2, box["y"] + (box["height"] - side) / 2)
    page.mouse.click(corner[0] + side * 3.5 / 12, corner[1] + side * 2.5 / 12)
    page.wait_for_function("document.querySelector('#mined_row input[type=number]').value == 2")
    assert page.input_value(number[1]) == "3"
    wait_for(lambda: page.inner_text("#mined_description") != before_click, 10)
    before = page.get_attribute("#mined_window img", "src")
    page.focus("#mined_column input[type=range]")
    page.keyboard.press("ArrowRight")
    page.wait_for_function("document.querySelector('#mined_column input[type=number]').value == 4")
    wait_for(lambda: page.get_attribute("#mined_window img", "src") != before, 10)


@pytest.mark.slow
def test_phone_and_keyboard(open_page):
    page = open_page(viewport={"width": 390, "height": 844}, is_mobile=True, has_touch=True)
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    page.set_input_files("#box input[type=file]", str(RECEIPT))
    page.wait_for_selector("#box .thumbnail-item")
    page.focus("#box textarea")
    page.keyboard.type("What is the total?")
    page.keyboard.press("Enter")
    answered(page, TOTAL)
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    page.focus("#chat_left button[title=Like]")
    page.keyboard.press("Enter")
    wait_for_toast(page, "vote was saved")


@pytest.mark.slow
def test_link_and_export(open_page, controller):
    page = open_page()
    choose(page, "endless")
    page.click("#link")
    page.wait_for_function("new URL(location).searchParams.get('model') == 'endless'")
    page.wait_for_selector("#address textarea, #address input")
    query = page.url.partition("?")[2]
    assert open_page(f"?{query}").input_value("#model input") == "endless"
    assert open_page("?model=unknown").input_value("#model input") != "unknown"
    choose(page, "nano")
    put(page, "What is the total?", RECEIPT)
    answered(page, TOTAL)
    with page.expect_download() as waited:
        page.click("#export")
    body = json.loads(waited.value.path().read_text(encoding="utf-8"))
    assert body["messages"][-1] == {"role": "assistant", "content": TOTAL}
    again = {"model": body["model"], "messages": body["messages"][:-1], "temperature": 0}
    status, answer = ask(f"{controller}/v1/chat/completions", again)
    assert status == 200
    assert answer["choices"][0]["message"]["content"] == TOTAL


def test_server_files_cannot_be_read(address, tmp_path):
    """By forged bodies, or by the address of uploaded files."""
    secret = tmp_path / "secret.png"
    Image.new("RGB", (8, 8)).save(secret)
    for path in ("/etc/passwd", str(secret)):
        status, _ = ask(f"{address}/gradio_api/file={path}")
        assert status in (403, 404)
        file = {"path": path, "meta": {"_type": "gradio.FileData"}}
        config = json.load(urllib.request.urlopen(f"{address}/config"))
        asks = next(one for one in config["dependencies"] if one["targets"][0][1] == "submit")
        values = [{"text": "what?", "files": [file]}, None, False, "nano", "nano"]
        body = {
            "data": [*values, 0.2, 0.7, 9, False, False],
            "fn_index": asks["id"],
            "session_hash": f"hash{len(path)}",
        }
        status, _ = ask(f"{address}/gradio_api/queue/join", body)
        if status == 200:
            url = f"{address}/gradio_api/queue/data?session_hash={body['session_hash']}"
            with urllib.request.urlopen(url, timeout=20) as response:
                body = response.read().decode()
            assert '"success":false' in body.replace(" ", "")
            assert "18.50" not in body
