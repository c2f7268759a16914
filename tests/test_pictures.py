"""Every drawn picture: readable on a phone, in light and dark, by itself; used; and its figures are the package's."""

import importlib.util
import re
import xml.etree.ElementTree as ET
from pathlib import Path

import nbformat
import pytest

from llmhw_helpers.costs import inference, sequence
from llmhw_helpers.specs.accelerators import accelerator
from llmhw_helpers.specs.clusters import cluster
from llmhw_helpers.specs.models import model

ROOT = Path(__file__).parents[1]
FIGURES = sorted((ROOT / "notebooks/figures").glob("*.svg"))
PAGED, ARC = ROOT / "book/_static/paged_attention.svg", ROOT / "book/_static/arc.svg"
PICTURES = [*FIGURES, PAGED, ARC]
SVG = "{http://www.w3.org/2000/svg}"
PHONE = 342  # pixels that a page of the book leaves for a picture on a screen of 390
DARK = "@media (prefers-color-scheme: dark)"

each_picture = pytest.mark.parametrize("path", PICTURES, ids=lambda path: path.stem)


def blocks(css: str) -> list[tuple[str, str]]:
    """Pairs of what stands before a brace and what it holds, at the outermost level."""
    found, depth, start, head = [], 0, 0, ""
    for brace in re.finditer(r"[{}]", css):
        if brace[0] == "{":
            if not depth:
                head, start = css[start : brace.start()].strip(), brace.end()
            depth += 1
        else:
            depth -= 1
            if not depth:
                found.append((head, css[start : brace.start()]))
                start = brace.end()
    return found


def colours(picture, dark: bool) -> dict[str, dict[str, str]]:
    """What each selector says, in the light or the dark scheme."""
    found: dict[str, dict[str, str]] = {}

    def read(css):
        for head, body in blocks(css):
            if head == DARK and dark:
                read(body)
            elif not head.startswith("@"):
                declared = dict(re.findall(r"([\w-]+)\s*:\s*([^;]+)", body))
                for selector in head.replace("#paged ", "").split(","):
                    found.setdefault(selector.strip(), {}).update(declared)

    read(picture.findtext(f"{SVG}style"))
    return found


def painted(picture, dark: bool):
    """Each element in the order of drawing, with the colour that fills it."""
    css = colours(picture, dark)

    def walk(element, inherited):
        names = {element.tag.removeprefix(SVG)}, {f".{name}" for name in element.get("class", "").split()}
        fill = element.get("fill", inherited)
        for wanted in names:  # a class is stronger than a tag, and of two classes the later rule
            for selector, declared in css.items():
                fill = declared.get("fill", fill) if selector in wanted else fill
        yield element, fill
        for child in element:
            if child.tag not in {f"{SVG}defs", f"{SVG}style"}:
                yield from walk(child, fill)

    return walk(picture, "#000")


def luminance(colour: str) -> float:
    digits = colour.lstrip("#")
    digits = "".join(2 * c for c in digits) if len(digits) == 3 else digits
    linear = []
    for i in (0, 2, 4):
        c = int(digits[i : i + 2], 16) / 255
        linear.append(c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4)
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(a: str, b: str) -> float:
    """Of two colours, as the accessibility guidelines (WCAG 2) define it: 1 to 21."""
    low, high = sorted((luminance(a), luminance(b)))
    return (high + 0.05) / (low + 0.05)


def holds(shape, x: float, y: float) -> bool:
    n = {key: float(shape.get(key, 0)) for key in ("x", "y", "width", "height", "cx", "cy", "r")}
    if shape.tag == f"{SVG}circle":
        return (x - n["cx"]) ** 2 + (y - n["cy"]) ** 2 <= n["r"] ** 2
    return n["x"] <= x <= n["x"] + n["width"] and n["y"] <= y <= n["y"] + n["height"]


def texts_and_grounds(picture, dark: bool):
    """Each text with its colour and that of the shape right under it."""
    shapes = []
    for element, fill in painted(picture, dark):
        if element.tag in {f"{SVG}rect", f"{SVG}circle"}:
            shapes.append((element, fill))
        elif element.tag == f"{SVG}text":
            x, y = float(element.get("x")), float(element.get("y")) - 4
            under = [ground for shape, ground in shapes if holds(shape, x, y)]
            yield element.text, fill, under[-1] if under else "#ffffff"


def test_contrast_is_that_of_the_guidelines():
    assert contrast("#000", "#ffffff") == pytest.approx(21)
    assert contrast("#777777", "#fff") == pytest.approx(4.48, abs=0.01)


@each_picture
def test_it_says_what_it_shows_and_loads_nothing(path):
    text, picture = path.read_text(encoding="utf-8"), ET.parse(path).getroot()
    title, desc = (picture.find(f"{SVG}{part}") for part in ("title", "desc"))
    assert len(title.text) > 10
    assert len(desc.text) > 60
    assert picture.get("role") == "img"
    assert picture.get("aria-labelledby").split() == [title.get("id"), desc.get("id")]
    assert "<script" not in text
    assert "<image" not in text
    assert not re.findall(r"https?://(?!www\.w3\.org/2000/svg)|@import|href|url\((?!#)", text)


@each_picture
def test_its_letters_are_large_enough_on_a_phone(path):
    picture = ET.parse(path).getroot()
    width = float(picture.get("viewBox").split()[2])
    sizes = [float(size) for size in re.findall(r"font(?:-size)?:[^;]*?(\d+)px", picture.findtext(f"{SVG}style"))]
    assert sizes, "no size of letters is given"
    assert min(sizes) * min(1, PHONE / width) >= 9.9


@each_picture
@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_its_words_stand_out_from_their_ground(path, dark):
    found = list(texts_and_grounds(ET.parse(path).getroot(), dark))
    assert len(found) >= 6
    for text, colour, ground in found:
        assert contrast(colour, ground) >= 4.5, f"{text!r}: {colour} on {ground}"


def test_every_picture_is_used_and_every_picture_used_is_there():
    used = {}
    for path in sorted((ROOT / "notebooks").glob("*.ipynb")):
        for cell in nbformat.read(path, as_version=4).cells:
            if cell.cell_type == "markdown":
                for alt, name in re.findall(r"!\[([^\]]*)\]\(figures/([^)]+)\)", cell.source):
                    used[name] = alt
    assert set(used) == {path.name for path in FIGURES}
    assert min(map(len, used.values())) > 60, "a text for those who do not see it"


def said(stem: str) -> set[str]:
    """The words of a picture."""
    return {text.text for text in ET.parse(ROOT / f"notebooks/figures/{stem}.svg").iter(f"{SVG}text")}


def test_the_shapes_of_the_block_and_of_lora_are_those_of_the_model():
    smol, n = model("SmolLM2-135M"), 5
    kv_width = smol.n_kv_heads * smol.head_dim
    assert said("transformer_block") >= {
        f"One of {smol.n_layers} blocks, for {n} tokens",
        f"stream [{n}, {smol.d_model}]",
        f"[{smol.n_heads}, {n}, {smol.head_dim}]",
        f"[{smol.n_kv_heads}, {n}, {smol.head_dim}]",
        f"scores, softmax [{smol.n_heads}, {n}, {n}]",
        f"gate [{n}, {smol.d_ff}]",
        f"down [{n}, {smol.d_model}]",
    }
    assert said("lora") >= {
        f"{kv_width} × {smol.d_model} = {kv_width * smol.d_model:,} numbers",
        f"A: 8 × {smol.d_model} = {8 * smol.d_model:,} numbers",
        f"B: {kv_width} × 8 = {8 * kv_width:,} numbers",
    }


def test_the_work_over_time_is_that_of_the_formulas():
    smol = model("SmolLM2-135M")
    prefill, step = inference.prefill_work(smol, 1, 128, "fp32"), inference.decode_work(smol, 1, 128, "fp32")
    assert said("prefill_and_decode") >= {
        f"{prefill.flops / 1e9:.1f} GFLOP",
        f"{step.flops / 1e9:.2f} GFLOP each",
        f"{prefill.bytes / 1e6:.0f} MB",
        f"{step.bytes / 1e6:.0f} MB each",
    }
    heights = [
        float(each.get("height"))
        for each in ET.parse(ROOT / "notebooks/figures/prefill_and_decode.svg").iter(f"{SVG}rect")
        if each.get("class") == "orange"
    ]
    assert heights[0] / heights[1] == pytest.approx(prefill.flops / step.flops, rel=0.01)
    depth = sequence.attention(seq_len=5, d_model=256).depth
    assert f"in a chain of {depth} products, whatever the length" in said("rnn_and_transformer")


def test_the_cluster_is_the_lectures():
    alvis, words = cluster("Alvis"), said("cluster")
    for name, others, shown in (("A100-40GB", ("A100-80GB",), "InfiniBand"), ("A40", (), "Ethernet")):
        node = alvis.node(name)
        n_gpus = sum(alvis.node(each).n_gpus.known() for each in (name, *others))
        assert f"{n_gpus / node.gpus_per_node[0].known():.0f} of these" in words
        assert f"{4 * node.cores_per_gpu.known():.0f} cores" in words
        assert shown in node.network or shown in node.network_bits_per_s.meaning
        bits = node.network_bits_per_s.known()
        assert f"{bits / 1e9:.0f} Gbit: {bits / 8e9:.1f} GB/s" in words
    rates = [accelerator(name).bytes_per_s.known() / 1e12 for name in ("A100-40GB", "A100-80GB", "A40")]
    assert {f"memory {rates[0]:.1f}–{rates[1]:.1f} TB/s", f"memory {rates[2]:.1f} TB/s"} <= words


def test_the_animation_is_what_its_program_draws():
    spec = importlib.util.spec_from_file_location("draw_paged", ROOT / "tools/draw_paged.py")
    program = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(program)
    assert PAGED.read_text(encoding="utf-8") == program.picture()
    used = [len(steps) for _, _, steps in program.REQUESTS.values()][:3]
    assert f"{3 * 16 - sum(used)} are empty" in program.SAYINGS[0][1]
    lies = {
        name: [(blocks[i // 4], i % 4) for i in range(len(steps))]
        for name, (_, blocks, steps) in program.REQUESTS.items()
    }
    assert lies["a"][:4] == lies["b"][:4], "the words that A and B share"
    for third in "cd":  # C is gone when D comes
        together = lies["a"] + lies["b"][4:] + lies[third]
        assert len(set(together)) == len(together), "two requests in one slot"
    assert program.REQUESTS["d"][0] > program.GONE
