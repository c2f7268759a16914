"""Draw book/_static/paged_attention.svg, the animated picture of a paged cache.

Usage: python tools/draw_paged.py

The picture is drawn by a program because its story is a table of times: what is filled in which step. Readers who ask
for less motion see its still: A, B and C in the cache.
"""

from pathlib import Path

FILE = Path(__file__).resolve().parents[1] / "book/_static/paged_attention.svg"
SECONDS = 10
RESERVED = 22  # percent of the time that belongs to the reserved cache; the paged one has the rest
STEPS = 13
# For each request: its first step, its blocks, and the step in which each of its slots is filled.
REQUESTS = {
    "a": (1, (2, 7, 4, 11), (1, 1, 1, 1, 1, 1, 4, 5, 6, 7, 8, 9, 10, 11)),
    "b": (3, (2, 9, 0), (3, 3, 3, 3, 3, 4, 5, 6, 7, 8, 9, 10)),
    "c": (3, (5, 10), (3, 3, 3, 4, 5, 6, 7)),
    "d": (11, (10, 5), (11, 11, 11, 11, 11, 12, 13)),
}
GONE = 8  # the step in which C is done
# What is said from each step on; the reserved cache is before step 1.
SAYINGS = {
    0: ("Reserved: 16 slots for each request.", "15 are empty, and yet D finds no room"),
    1: ("Paged: A’s prompt fills", "one block, and half of another"),
    3: ("B begins with the same words:", "it shares block 2. C begins, too"),
    5: ("Each full block brings another,", "wherever one is free"),
    8: ("C is done:", "its blocks are free at once"),
    11: ("D takes the blocks that C had:", "nobody had to reserve them"),
}
STILL = ("A and B share block 2. Blocks lie", "anywhere; the tables list them")
DESC = """At first the cache is reserved: A, B and C have 16 slots each, of which 14, 12 and 7 are used, and D waits.
    Then the same cache is paged: twelve numbered blocks of four slots, and a block table for each request. A fills
    blocks 2, 7, 4 and 11. B begins with the same words, so it shares block 2 and goes on in 9 and 0. C fills blocks 5
    and 10; when it is done, they are free at once, and D takes them."""
STYLE = """
    #paged .page { fill: #f7f9fb; stroke: #c5ced6; }
    #paged text { font-family: system-ui, sans-serif; font-size: 17px; fill: #102a3c; text-anchor: middle; }
    #paged .head { font-size: 18px; font-weight: 600; text-anchor: start; }
    #paged .no { font-size: 14px; fill: #3c4d59; }
    #paged .who { font-weight: 700; fill: #fff; }
    #paged .entry { font-weight: 600; }
    #paged .block { fill: #fff; stroke: #7b8a97; stroke-width: 2; }
    #paged .a { fill: #0072b2; } #paged .b { fill: #b84a00; } #paged .c { fill: #00805d; } #paged .d { fill: #8c4f7c; }
    @media (prefers-color-scheme: dark) {
      #paged .page { fill: #16212b; stroke: #3a4a57; }
      #paged text { fill: #e6edf3; } #paged .no { fill: #b7c4cf; } #paged .who { fill: #fff; }
      #paged .block { fill: #263745; }
    }
    #paged .later { display: none; }
    @media (prefers-reduced-motion: no-preference) {
      #paged .later { display: inline; }
      #paged .still { display: none; }
      #paged [class*="from"], #paged .gone { animation: SECONDSs linear infinite; }"""


def at(step: int) -> float:
    """The percent of the time at which a step begins; step 0 is the reserved cache."""
    return RESERVED + step * (90 - RESERVED) / STEPS if step else 0


def keyframes(name: str, start: float, end: float) -> str:
    """Seen from `start` to `end`, in percent of the time."""
    before = f"0%,{start - 0.7:.1f}%{{opacity:0}}" if start else ""
    after = f"{end:.1f}%{{opacity:1}}{end + 0.7:.1f}%,to{{opacity:0}}"
    return (
        f"\n      #paged .{name}{{animation-name:paged-{name}}}"
        f"\n      @keyframes paged-{name}{{{before}{start:.1f}%,{after}}}"
    )


def slot(block: int, i: int) -> tuple[float, int]:
    """Left and upper edge of a slot: blocks stand four in a row."""
    return 20 + 98 * (block % 4) + 22 * i, 52 + 66 * (block // 4)


def words(lines: tuple[str, str], kind: str) -> str:
    first, second = lines
    return f'\n  <g class="{kind}"><text x="210" y="424">{first}</text><text x="210" y="447">{second}</text></g>'


def slots(name: str) -> str:
    """The slots of a request. B's shared slots cover the lower half of A's."""
    _, blocks, steps = REQUESTS[name]
    drawn = ""
    for i, step in enumerate(steps):
        x, y = slot(blocks[i // 4], i % 4)
        half = name == "b" and i < 4
        drawn += f'<rect class="from{step}" x="{x}" y="{y + 18 * half}" width="20" height="{18 if half else 36}"/>'
    return f'\n  <g class="{group(name)}">{drawn}</g>'


def table(name: str, row: int) -> str:
    """The block table of a request."""
    first, blocks, steps = REQUESTS[name]
    y = 286 + 32 * row
    drawn = f'<circle class="from{first}" cx="34" cy="{y}" r="14"/>'
    drawn += f'<text class="who from{first}" x="34" y="{y + 6}">{name.upper()}</text>'
    for i, block in enumerate(blocks):
        drawn += f'<text class="entry from{steps[4 * i]}" x="{80 + 44 * i}" y="{y + 6}">{block}</text>'
    return f'\n  <g class="{group(name)}">{drawn}</g>'


def group(name: str) -> str:
    return name + {"c": " gone", "d": " later"}.get(name, "")


def reserved() -> str:
    """The cache as it is without blocks: a row of 16 slots for each request."""
    drawn = '<rect class="page" x="8" y="8" width="404" height="384" style="stroke:none"/>'
    drawn += '<text class="head" x="18" y="34">A reserved cache, for comparison</text>'
    for row, name in enumerate("abc"):
        used, y = len(REQUESTS[name][2]), 50 + 66 * row
        drawn += f'<rect class="block" x="18" y="{y}" width="384" height="40" rx="5"/>'
        drawn += f'<rect class="{name}" x="20" y="{y + 2}" width="{used * 23.75:g}" height="36"/>'
        drawn += f'<text class="no" x="210" y="{y + 56}">{name.upper()}: 16 reserved, {used} used</text>'
    drawn += '<circle class="d" cx="34" cy="286" r="14"/><text class="who" x="34" y="292">D</text>'
    return f'\n  <g class="later from0">{drawn}<text x="84" y="292">waits</text></g>'


def picture() -> str:
    """The whole file."""
    ends = [*list(SAYINGS)[1:], None]
    moving = keyframes("from0", 0, RESERVED) + keyframes("gone", 0, at(GONE))
    for step in sorted({step for _, _, steps in REQUESTS.values() for step in steps}):
        moving += keyframes(f"from{step}", at(step), 97)
    for step, end in zip(SAYINGS, ends, strict=True):
        if step:
            moving += keyframes(f"said-from{step}", at(step), at(end) if end else 97)
    blocks = ""
    for n in range(12):
        x, y = slot(n, 0)
        blocks += f'<rect class="block" x="{x - 2}" y="{y - 2}" width="90" height="40" rx="5"/>'
        blocks += f'<text class="no" x="{x + 43}" y="{y + 54}">{n}</text>'
    parts = [f'\n  <text class="head" x="18" y="34">A paged cache: 12 blocks of 4 slots</text>\n  {blocks}']
    parts += [slots(name) for name in REQUESTS] + ['\n  <text class="head" x="18" y="264">Block tables</text>']
    parts += [table(name, row) for row, name in enumerate(REQUESTS)] + [reserved()]
    for step, lines in SAYINGS.items():
        parts.append(words(lines, f"later said-from{step}" if step else "later from0"))
    return (
        '<svg xmlns="http://www.w3.org/2000/svg" id="paged" viewBox="0 0 420 462" width="420" height="462" role="img" '
        'aria-labelledby="paged-title paged-desc">\n  <title id="paged-title">A reserved cache, and a paged one at work'
        f'</title>\n  <desc id="paged-desc">{DESC}</desc>\n  <style>{STYLE.replace("SECONDS", str(SECONDS))}{moving}\n'
        '    }\n  </style>\n  <rect class="page" x="1" y="1" width="418" height="460" rx="10"/>'
        f"{''.join(parts)}{words(STILL, 'still')}\n</svg>\n"
    )


if __name__ == "__main__":
    FILE.write_text(picture(), encoding="utf-8")
