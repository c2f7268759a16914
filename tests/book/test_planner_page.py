"""The planner's page in headless Chromium: its Python answers as ours does, and a reader can use it in every way."""

import importlib.util
import io
import json
import random
import shlex
import subprocess
import sys
import time
import zipfile
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import urlencode

import pytest

from llmhw_helpers.costs.planner import answer
from llmhw_helpers.costs.requests import FIELDS, METHODS, NEEDED, USUAL, Request, read_request
from llmhw_helpers.planning import cli
from llmhw_helpers.specs.accelerators import ACCELERATORS
from llmhw_helpers.specs.clusters import CLUSTERS
from llmhw_helpers.specs.models import MODELS

ROOT = Path(__file__).resolve().parents[2]
FORM = ROOT / "book/_static/planner/form.html"
PAGE = "book/planner.html"
FIRST = {"model": "Llama-3.1-70B", "task": "serve", "where": "Alvis"}
TINY = {  # a Llama of nobody's, as a file says it: with a number that JavaScript would write in another way
    **{"model_type": "llama", "hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32},
    **{"num_attention_heads": 32, "num_key_value_heads": 8, "vocab_size": 128256, "rope_theta": 500000.0},
    **{"max_position_embeddings": 8192, "rms_norm_eps": 1e-05, "tie_word_embeddings": False, "hidden_act": "silu"},
}
PERCENT = ("max_loss", "utilisation")

browser = pytest.mark.browser


def load_extension():
    spec = importlib.util.spec_from_file_location("planner_page", ROOT / "book/_ext/planner_page.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class Fields(HTMLParser):
    """Collects the named fields of a form, with the value that each shows at first."""

    def __init__(self):
        super().__init__()
        self.found, self.usual = {}, {}

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        if "name" in attrs and (attrs.get("type") != "radio" or "checked" in attrs):
            self.found[attrs["name"]] = attrs.get("value")
        if "data-usual" in attrs:
            self.usual[attrs["name"]] = json.loads(attrs["data-usual"])


def test_the_form_has_a_field_for_every_wish_and_shows_the_usual_values():
    fields = Fields()
    fields.feed(load_extension().form(FORM.read_text()))
    assert set(fields.found) == {*NEEDED, *FIELDS, "config"}
    shown = {
        name: float(value) for name, value in fields.found.items() if name in FIELDS and value and name != "formats"
    }
    usual = {name: value for name, value in vars(Request).items() if name in shown}
    assert shown == {name: value * 100 if name in PERCENT else value for name, value in usual.items()}
    assert len(shown) == 6


def test_an_empty_field_tells_what_the_planner_takes():
    fields = Fields()
    fields.feed(FORM.read_text())
    assert set(fields.usual) == {"seq_len", "batch_tokens", "n_tokens", "days"}
    for task in ("fine-tune", "train"):
        usual = read_request({"model": "Llama-3.1-8B", "task": task, "where": "Alvis"})
        for name, said in fields.usual.items():
            each = usual.model.n_params if "for a parameter" in said[task] else 1
            assert float(said[task].split()[0]) * each == getattr(usual, name)


def test_the_form_offers_what_the_package_knows():
    filled = load_extension().form(FORM.read_text())
    for name in (*MODELS, *CLUSTERS, *ACCELERATORS, *METHODS):
        assert f'<option value="{name}"' in filled
    for name in USUAL:
        assert f'name="formats" value="{name}"' in filled
    assert "<!-- " not in filled


def test_the_planner_runs_on_nothing_but_the_files_that_the_book_carries(tmp_path):
    zipfile.ZipFile(io.BytesIO(load_extension().planner_zip())).extractall(tmp_path)
    code = f"""
import json, sys
sys.path.insert(0, {str(tmp_path)!r})
from llmhw_helpers.costs.planner import answer
print(json.dumps(answer({FIRST!r})))
"""
    run = subprocess.run([sys.executable, "-I", "-S", "-c", code], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    assert json.loads(run.stdout) == as_json(answer(FIRST))


def as_json(reply):
    return json.loads(json.dumps(reply, allow_nan=False))


@pytest.fixture
def planner(book, tab):
    """The page with its planner started, and the list of all that went wrong."""
    page, faults = tab
    page.emulate_media(reduced_motion="reduce")
    page.goto(book.address + PAGE, wait_until="load")
    wait_for(page, answer(FIRST)["headline"])
    return page, faults


def wait_for(page, text):
    """Until the line that a screen reader hears says so."""
    page.wait_for_function(
        "text => document.getElementById('planner-status').textContent === text", arg=text, timeout=120_000
    )
    page.wait_for_function("document.getElementById('planner-results').ariaBusy !== 'true'")


def random_request(draw):
    """A request that the form can make: good ones mostly, and some that nothing can do."""
    task = draw.choice(["serve", "serve", "fine-tune", "train"])
    cluster = CLUSTERS["Alvis"]
    where = draw.choice([*CLUSTERS, f"Alvis {draw.choice(list(cluster.nodes))}", draw.choice(list(ACCELERATORS))])
    request = {"model": draw.choice(list(MODELS)), "task": task, "where": where}
    wishes = {
        "n_gpus": lambda: draw.randint(1, 64),
        "formats": lambda: sorted(draw.sample(USUAL, draw.randint(1, 3)), key=USUAL.index),
        "max_loss": lambda: draw.randint(0, 10) / 100,
        "prompt": lambda: draw.randint(1, 20_000),
        "answer": lambda: draw.randint(1, 2_000),
        "users": lambda: draw.randint(0, 200),
        "tokens_per_s": lambda: draw.choice([0, 5, 30, 1000]),
        "first_token_s": lambda: draw.choice([0.5, 5, 60]),
        "utilisation": lambda: draw.randint(50, 98) / 100,
        "seq_len": lambda: draw.choice([512, 2048, 8192]),
        "batch_tokens": lambda: draw.choice([2**15, 2**20]),
        "n_tokens": lambda: draw.choice([10**6, 10**9, 10**12]),
        "days": lambda: draw.choice([1, 30.5]),
        "method": lambda: draw.choice(METHODS),
    }
    asked = [name for name in wishes if task in FIELDS[name][3] and draw.random() < 0.5]
    return request | {name: wishes[name]() for name in asked}


def link_to(request):
    shown = {name: value * 100 if name in PERCENT else value for name, value in request.items()}
    return "?" + urlencode(
        {name: f"{value:g}" if isinstance(value, float) else value for name, value in shown.items()}, doseq=True
    )


def ask(page, links):
    """What the page's own form and planner make of links, one after the other."""
    asked = """async (links) => {
      const { form, planner } = await import(new URL("../_static/planner/page.mjs", location.href));
      const replies = [];
      for (const link of links) {
        form.read(new URL(link, location.href));
        replies.push(await planner.ask(form.request()));
      }
      return JSON.stringify(replies);
    }"""
    return json.loads(page.evaluate(asked, links))


@browser
@pytest.mark.slow
def test_answers_equal_pythons(planner, book):
    """50 links, read by the form and answered beside the page. Sums may differ in the last bits: another C library."""
    page, faults = planner
    draw = random.Random(16)
    requests = [random_request(draw) for _ in range(50)]
    replies = ask(page, [link_to(request) for request in requests])
    for request, reply in zip(requests, replies, strict=True):
        assert_same(reply, as_json(answer(request)), request)
    good = sum(reply["ok"] for reply in replies)
    assert 15 <= good <= 45, f"the sample holds both kinds: {good} of {len(replies)} have plans"
    assert not faults


def assert_same(one, other, where):
    if isinstance(other, dict):
        assert one.keys() == other.keys(), where
        for key in other:
            assert_same(one[key], other[key], f"{where}, {key}")
    elif isinstance(other, list):
        assert len(one) == len(other), where
        for i, (left, right) in enumerate(zip(one, other, strict=True)):
            assert_same(left, right, f"{where}[{i}]")
    elif isinstance(other, float):
        assert one == pytest.approx(other, rel=1e-12), where
    else:
        assert one == other, where


@browser
def test_the_first_answer_is_there_at_once_and_is_pythons(book, tab, capsys):
    page, faults = tab
    began = time.perf_counter()
    page.goto(book.address + PAGE, wait_until="commit")
    wait_for(page, answer(FIRST)["headline"])
    shown = time.perf_counter() - began
    [reply] = ask(page, [""])
    started = time.perf_counter() - began
    assert_same(reply, as_json(answer(FIRST)), "computed in the page")
    built = json.loads(page.locator("#planner-first").text_content())
    assert built == as_json(answer(FIRST))
    with capsys.disabled():
        print(f"\nthe planner's page: first answer after {shown:.1f} s, Python ready after {started:.1f} s")
    assert not faults


@browser
def test_an_answer_shows_its_memory_its_plans_and_why_others_fail(planner):
    page, faults = planner
    expected = answer(FIRST)
    plan = expected["plans"][0]
    assert page.locator("#planner-results > ul li").all_inner_texts() == expected["reasons"]
    assert page.locator(".planner-one h2").inner_text() == plan["name"]
    parts = page.locator(".planner-one .planner-bar i").evaluate_all("all => all.map(i => parseFloat(i.style.width))")
    held = [
        *plan["memory"]["parts"].values(),
        plan["memory"]["reserve"][0],
        plan["memory"]["reserve"][1] - plan["memory"]["reserve"][0],
    ]
    limit = page.locator(".planner-one .planner-bar b").evaluate("line => parseFloat(line.style.left)")
    assert [width / limit for width in parts] == pytest.approx([n / plan["memory"]["limit"] for n in held], abs=1e-4)
    rows = page.locator(".planner-plans tbody tr")
    page.get_by_role("button", name="Show all").click()
    names = rows.locator("th button").all_inner_texts()
    assert names == [each["name"] for each in expected["plans"]]
    starred = [row.locator("abbr").count() == 1 for row in rows.all()]
    assert starred == [each["pareto"] for each in expected["plans"]]
    page.get_by_text("Why others fail").click()
    refused = page.locator("details[open] li").all_inner_texts()
    assert refused == [
        f"{each['what']}: {each['why']}" + (f" ({each['source']})" if each["source"] else "")
        for each in expected["refused"]
    ]
    assert not faults


@browser
def test_the_keyboard_alone_is_enough(planner):
    page, faults = planner
    page.locator("#planner-model").focus()
    page.keyboard.type("Llama-3.1-8B")
    page.keyboard.press("Tab")  # the task
    page.keyboard.press("Tab")  # where
    assert page.evaluate("document.activeElement.id") == "planner-where"
    page.keyboard.press("Tab")  # how many
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")  # unfolds
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.id") == "planner-prompt"
    page.keyboard.press("ControlOrMeta+A")
    page.keyboard.type("500")
    wait_for(page, answer(FIRST | {"model": "Llama-3.1-8B", "prompt": 500})["headline"])
    page.keyboard.press("Tab")
    page.keyboard.press("ArrowRight")  # the slider
    assert 500 < float(page.locator("#planner-prompt").input_value()) < 600
    plans = page.locator(".planner-plans th button")
    for _ in range(60):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.matches('.planner-plans tr:nth-child(2) button')"):
            break
    page.keyboard.press("Enter")
    assert plans.nth(1).get_attribute("aria-pressed") == "true"
    assert page.locator(".planner-one h2").inner_text() == plans.nth(1).inner_text()
    assert not faults


@browser
def test_every_field_has_a_name(planner):
    page, _ = planner
    nameless = page.locator(":is(#planner-form, #planner-results) :is(input, select, textarea, button)").evaluate_all(
        "all => all.filter(e => !e.labels?.length && !e.ariaLabel && !e.textContent.trim()).map(e => e.outerHTML)"
    )
    assert not nameless
    assert page.locator("#planner-status").get_attribute("role") == "status"


CONTRAST = """() => {
  const rgb = (text) => text.match(/[\\d.]+/g).map(Number);
  const light = ([r, g, b]) => [r, g, b].map(c => c / 255)
    .map(c => (c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4))
    .reduce((sum, c, i) => sum + c * [0.2126, 0.7152, 0.0722][i], 0);
  const ground = (e) => {
    for (; e; e = e.parentElement) {
      const colour = rgb(getComputedStyle(e).backgroundColor);
      if (colour.length === 3 || colour[3] > 0) return colour;
    }
    return [255, 255, 255];
  };
  const read = "p, li, label, legend, summary, button, th, td, small, select, input:not([type=range]), span, h2";
  return [...document.querySelectorAll(`.planner :is(${read})`)]
    .filter(e => e.checkVisibility() && (e.textContent.trim() || e.value))
    .map(e => {
      const [one, two] = [light(rgb(getComputedStyle(e).color)), light(ground(e))].sort((a, b) => b - a);
      return [(one + 0.05) / (two + 0.05), e.outerHTML.slice(0, 80)];
    })
    .filter(([ratio]) => ratio < 4.5);
}"""


@browser
def test_a_phone_and_the_dark_show_all_of_it(planner, keep_screenshot):
    page, faults = planner
    for width in (390, 1280):
        page.set_viewport_size({"width": width, "height": 800})
        for scheme in ("light", "dark"):
            page.emulate_media(color_scheme=scheme, reduced_motion="reduce")
            page.wait_for_function("scheme => document.documentElement.dataset.theme === scheme", arg=scheme)
            for unfolded in (False, True):
                page.evaluate(
                    "open => document.querySelectorAll('.planner details').forEach(e => e.open = open)", unfolded
                )
                keep_screenshot(page, f"planner-{'unfolded' if unfolded else 'folded'}", width, scheme)
                assert page.evaluate("document.scrollingElement.scrollWidth") <= width
                assert page.evaluate(CONTRAST) == [], f"too pale at {width} px, {scheme}"
    assert not faults


@browser
def test_the_first_answer_needs_no_scrolling_on_a_laptop(planner):
    page, _ = planner
    page.set_viewport_size({"width": 1280, "height": 720})
    page.evaluate("scrollTo(0, 0)")
    bar = page.locator(".planner-one .planner-bar").bounding_box()
    assert bar["y"] + bar["height"] < 720


@browser
def test_a_link_brings_everything_back(planner, book):
    page, faults = planner
    page.locator("#planner-model").select_option("Llama-3.1-8B")
    page.locator("#planner-where").select_option("A40")
    page.locator("#planner-gpus").fill("2")
    page.locator(".planner-more > summary").click()
    page.locator("#planner-users").fill("4")
    page.locator("#planner-loss").fill("0")
    page.get_by_label("bf16").check()
    asked = {
        "model": "Llama-3.1-8B",
        "task": "serve",
        "where": "A40",
        "n_gpus": 2,
        "users": 4,
        "max_loss": 0,
        "formats": ["bf16"],
    }
    wait_for(page, answer(asked)["headline"])
    assert page.url.endswith("?model=Llama-3.1-8B&where=A40&n_gpus=2&users=4&max_loss=0&formats=bf16")
    command = shlex.split(page.locator(".planner-one code").inner_text())
    assert (command[0], command[-1]) == ("llmhw-plan", "--script")
    assert cli._request(cli._parser().parse_args(command[1:])) == asked
    page.context.grant_permissions(["clipboard-read", "clipboard-write"], origin=book.address)
    page.get_by_role("button", name="Copy the link").click()
    link = page.evaluate("navigator.clipboard.readText()")
    assert link == page.url
    again = page.context.new_page()
    again.goto(link)
    wait_for(again, answer(asked)["headline"])
    assert again.locator("#planner-users").input_value() == "4"
    assert again.get_by_label("bf16").is_checked()
    again.close()
    page.get_by_role("button", name="Back to the first values").click()
    wait_for(page, answer(FIRST)["headline"])
    assert page.url == book.address + PAGE
    assert not faults


@browser
def test_a_link_that_asks_for_the_impossible_gets_one_line(book, tab):
    page, faults = tab
    impossible = {
        "?model=Llama-3.1-9B": {"model": "Llama-3.1-9B"},
        "?where=Alviss": {"where": "Alviss"},
        "?task=tarin": {"task": "tarin"},
        "?user=8": {"user": "8"},
        "?users=many": {"users": "many"},
        "?users=0": {"users": 0},
    }
    replies = [answer(FIRST | asked) for asked in impossible.values()]
    assert not any(reply["ok"] for reply in replies)
    page.goto(book.address + PAGE + next(iter(impossible)))
    wait_for(page, replies[0]["error"])
    assert page.locator("#planner-status").get_attribute("class") == "error"
    assert page.locator("#planner-model").input_value() == "Llama-3.1-9B", "the form shows what is asked"
    assert ask(page, list(impossible)) == replies
    assert not faults


@browser
def test_where_nothing_fits_the_nearest_possible_is_said(book, tab):
    page, faults = tab
    page.goto(book.address + PAGE + "?model=Llama-3.1-405B&where=T4")
    refused = answer({"model": "Llama-3.1-405B", "task": "serve", "where": "T4"})
    wait_for(page, refused["error"])
    assert page.locator("#planner-results").inner_text() == f"Nearest: {refused['nearest']}"
    assert not page.locator(".planner-bar").count()
    assert not faults


@browser
def test_a_config_is_pasted_or_read_from_its_file(planner, tmp_path):
    page, faults = planner
    page.locator("#planner-model").select_option("config.json")
    wait_for(page, "Paste the model's config.json, or choose its file.")
    page.locator("#planner-config").fill(json.dumps(TINY, indent=2))
    expected = answer(FIRST | {"model": TINY})
    assert expected["ok"]
    wait_for(page, expected["headline"])
    again = page.context.new_page()
    again.goto(page.url)
    wait_for(again, expected["headline"])
    again.close()
    file = tmp_path / "config.json"
    file.write_text(json.dumps(TINY | {"num_hidden_layers": 16}))
    page.locator("#planner-file").set_input_files(file)
    wait_for(page, answer(FIRST | {"model": TINY | {"num_hidden_layers": 16}})["headline"])
    assert not faults


@browser
def test_a_bad_config_gets_one_line(planner):
    page, faults = planner
    named = TINY | {"model_type": "<img src=x onerror=alert(1)>"}
    page.locator("#planner-model").select_option("config.json")
    for text, said in {
        '{"model_type": "llama", "hidden_size": }': "This config.json is no JSON: ",
        "[1, 2]": "A config.json is an object",
        "{}": answer(FIRST | {"model": {}})["error"],
        json.dumps(named): answer(FIRST | {"model": named})["error"],
    }.items():
        page.locator("#planner-config").fill(text)
        page.wait_for_function(
            "said => document.getElementById('planner-status').textContent.startsWith(said)", arg=said, timeout=120_000
        )
        assert "\n" not in page.locator("#planner-status").inner_text()
    assert not page.locator(".planner img").count(), "what a file says stays text"
    assert not faults


@browser
def test_it_goes_on_without_the_network(planner):
    page, faults = planner
    ask(page, [""])  # its Python is there
    page.context.set_offline(True)
    try:
        page.locator("#planner-where").select_option("Arrhenius")
        wait_for(page, answer(FIRST | {"where": "Arrhenius"})["headline"])
    finally:
        page.context.set_offline(False)
    of_icon = [fault for fault in faults if "favicon" in fault]  # which the browser asks for when the address changes
    assert len(faults) == 2 * len(of_icon), "each failed request is said again in the console"


@browser
def test_a_planner_that_cannot_start_says_so(book, tab):
    page, _ = tab
    page.route("**/llmhw_planner.zip", lambda route: route.fulfill(status=404))
    page.goto(book.address + PAGE + "?users=9")
    wait_for(page, "The planner failed: the course's package is not there (404)")


@browser
def test_opened_as_a_file_it_says_what_it_needs(book):
    page = book.window.new_page()
    page.goto((ROOT / "_build/html" / PAGE).as_uri())
    status = page.locator("#planner-status")
    assert "`make serve`" in status.inner_text()
    assert status.inner_text().count("\n") == 0
    page.close()


@browser
def test_on_paper_stands_what_was_folded(planner):
    page, faults = planner
    page.emulate_media(media="print")
    page.evaluate("dispatchEvent(new Event('beforeprint'))")
    assert page.locator("#planner-results details:not([open])").count() == 0
    assert not page.locator("#planner-copy").is_visible()
    assert page.locator(".planner-plans table").is_visible()
    page.evaluate("dispatchEvent(new Event('afterprint'))")
    assert page.locator("#planner-results details[open]").count() == 0
    assert not faults
