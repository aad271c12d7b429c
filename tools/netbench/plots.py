# SPDX-License-Identifier: Apache-2.0
"""Bar charts as SVG: one group of bars for each size or load, one colour for each stack."""
import math
from xml.sax.saxutils import escape

COLOURS = ["#1b6ca8", "#5fa8d3", "#8a8a8a", "#d1495b", "#edae49"]
WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 900, 420, 70, 20, 60, 50


def nice(most):
    """The next 1, 2 or 5 of its power of ten."""
    power = 10 ** math.floor(math.log10(most))
    return next(step * power for step in (1, 2, 5, 10) if step * power >= most)


def bars(title, unit, groups, series, logarithmic=False):
    """`series`: {name: [a value for each group, or None]}."""
    values = [v for row in series.values() for v in row if v]
    top = nice(max(values, default=1))
    bottom = 10 ** math.floor(math.log10(min(values, default=1))) if logarithmic else 0
    if logarithmic and bottom >= top:
        bottom = top / 10
    height = HEIGHT - TOP - BOTTOM

    def y(value):
        part = math.log(max(value, bottom) / bottom) / math.log(top / bottom) if logarithmic else value / top
        return TOP + height * (1 - part)

    out = [f'<svg xmlns="http:' + f'//www.w3.org/2000/svg" width="{WIDTH}" height="{HEIGHT}" viewBox="0 0 {WIDTH} {HEIGHT}" '
           'font-family="sans-serif" font-size="12">',
           f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>',
           f'<text x="{LEFT}" y="22" font-size="16">{escape(title)}</text>']
    ticks = [top * i / 5 for i in range(6)]
    if logarithmic:
        ticks = [bottom * 10 ** i for i in range(int(math.log10(top / bottom)) + 1)]
    for tick in ticks:
        out.append(f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y(tick):.1f}" y2="{y(tick):.1f}" stroke="#dddddd"/>')
        out.append(f'<text x="{LEFT - 6}" y="{y(tick) + 4:.1f}" text-anchor="end">{tick:g}</text>')
    out.append(f'<text x="14" y="{TOP + height / 2:.0f}" transform="rotate(-90 14 {TOP + height / 2:.0f})" text-anchor="middle">{escape(unit)}</text>')
    room = (WIDTH - LEFT - RIGHT) / max(len(groups), 1)
    wide = room * 0.8 / max(len(series), 1)
    for at, group in enumerate(groups):
        for place, (name, row) in enumerate(series.items()):
            if not row[at]:
                continue
            x = LEFT + room * at + room * 0.1 + wide * place
            out.append(f'<rect x="{x:.1f}" y="{y(row[at]):.1f}" width="{wide * 0.92:.1f}" height="{max(TOP + height - y(row[at]), 0.5):.1f}" '
                       f'fill="{COLOURS[place % len(COLOURS)]}"><title>{escape(f"{name}, {group}: {row[at]:.4g} {unit}")}</title></rect>')
        out.append(f'<text x="{LEFT + room * (at + 0.5):.1f}" y="{HEIGHT - BOTTOM + 18}" text-anchor="middle">{escape(str(group))}</text>')
    x = LEFT
    for place, name in enumerate(series):
        out.append(f'<rect x="{x}" y="34" width="12" height="12" fill="{COLOURS[place % len(COLOURS)]}"/>')
        out.append(f'<text x="{x + 17}" y="44">{escape(name)}</text>')
        x += 40 + 7 * len(name)
    out.append("</svg>")
    return "\n".join(out) + "\n"


def all_of(report):
    """{file name: SVG}, of the parts that were measured."""
    titles = {s["name"]: s["title"] for s in report["stacks"]}

    def table(part, column, value):
        results = report[part]["results"]
        groups = list(dict.fromkeys(column(r) for r in results))
        names = list(dict.fromkeys(r["stack"] for r in results))
        found = {(r["stack"], column(r)): value(r) for r in results}
        return groups, {titles[n]: [found.get((n, g)) for g in groups] for n in names}

    made = {}
    if "rates" in report:
        size = lambda r: r["size"]
        made["rates"] = bars("Frames that arrive, by size", "Mpps", *table("rates", size, lambda r: r["mpps"]["median"]))
        made["cpu"] = bars("CPU time of a packet, switch and generator", "ns", *table("rates", size, lambda r: r["cpu_ns_per_packet"]))
    if "loss_free" in report:
        made["loss-free"] = bars("Highest rate without loss (RFC 2544)", "Mpps", *table("loss_free", lambda r: r["size"], lambda r: r["mpps"]))
    if report.get("latency", {}).get("results"):
        results = [{**r, "percentile": p} for r in report["latency"]["results"] for p in ("p50", "p99", "p99.9")]
        flat = {**report, "latency": {"results": results}}
        report = flat
        made["latency"] = bars("Latency one way", "us", *table("latency", lambda r: f"{r['load']}, {r['percentile']}", lambda r: r[r["percentile"]]), True)
    if "tcp" in report:
        made["tcp"] = bars("TCP, iperf3", "Gbit/s", *table("tcp", lambda r: f"{r['streams']} stream" + "s" * (r["streams"] > 1),
                                                           lambda r: r["gbit_s"]["median"]))
    return made
