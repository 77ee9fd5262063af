"""The look of the report: design tokens for light and dark, then the rules that use them."""

from __future__ import annotations

_LIGHT = {
    "paper": "#f6f5f2",
    "surface": "#ffffff",
    "ink": "#171b20",
    "quiet": "#57606b",
    "line": "#e2dfd8",
    "grid": "#e9e7e1",
    "accent": "#0b6a70",
    "gain": "#23744a",
    "loss": "#b0392f",
    "warm": "#b4532a",
    "wash": "#eef4f3",
    "q": "#eef5f4 #d8eae8 #b9dad7 #94c6c3 #6bafad #2b7f82 #1c6a6e #0f565b #064045",
    "q-ink": "#171b20 #171b20 #171b20 #171b20 #0b1113 #ffffff #ffffff #ffffff #ffffff",
    "d": "#a13f16 #cb7650 #dd9c7c #efcdbb #f0eee9 #c3dedc #8ac0be #2f8083 #0f5e63",
    "d-ink": "#ffffff #171b20 #171b20 #171b20 #171b20 #171b20 #171b20 #ffffff #ffffff",
    "c": "#1c6a6e #c26a42 #7a6aa8 #b08a1e #4d7f3a #a64d79 #4a6fa5 #6b6b6b",
}
_DARK = {
    "paper": "#101316",
    "surface": "#181c20",
    "ink": "#e7eaed",
    "quiet": "#9ca6b0",
    "line": "#2a3036",
    "grid": "#242a2f",
    "accent": "#5cbcc2",
    "gain": "#6fc294",
    "loss": "#ee8b80",
    "warm": "#e39a6d",
    "wash": "#1b2527",
    "q": "#1e2629 #1f3437 #20464a #235b5f #2a7175 #44989b #63b2b3 #8fcccb #c4e8e5",
    "q-ink": "#e7eaed #e7eaed #e7eaed #f2f5f6 #ffffff #0d1113 #0d1113 #0d1113 #0d1113",
    "d": "#f0a987 #d68256 #9a5434 #5c3a2c #282c30 #23474b #2c6b6f #5aa8aa #a3dbd9",
    "d-ink": "#0d1113 #0d1113 #ffffff #e7eaed #e7eaed #e7eaed #ffffff #0d1113 #0d1113",
    "c": "#5cbcc2 #e39a6d #a99ad6 #d8b655 #86b974 #d987ad #84a9dd #a8a8a8",
}

_RULES = """
*{box-sizing:border-box}
html{-webkit-text-size-adjust:100%}
body{margin:0;background:var(--paper);color:var(--ink);font:16px/1.55 system-ui,-apple-system,
"Segoe UI",Roboto,"Helvetica Neue",Arial,sans-serif}
main,header.top,footer{max-width:1120px;margin:0 auto;padding:0 24px}
header.top{padding-top:56px;padding-bottom:20px}
h1{font-size:clamp(30px,5vw,46px);line-height:1.1;margin:6px 0 10px;letter-spacing:-.02em;
overflow-wrap:anywhere}
h2{font-size:24px;letter-spacing:-.01em;margin:0 0 6px}
h3{font-size:18px;margin:30px 0 6px}
h4{font-size:15.5px;margin:24px 0 4px}
p{margin:6px 0 12px;max-width:72ch}
a{color:var(--accent)}
a:focus-visible,summary:focus-visible{outline:2px solid var(--accent);outline-offset:3px}
code,.mono{font:13px/1.5 ui-monospace,SFMono-Regular,Menlo,Consolas,monospace;
overflow-wrap:anywhere}
pre{background:var(--wash);border-radius:8px;padding:14px 16px;overflow-x:auto;margin:8px 0 14px}
pre code{overflow-wrap:normal}
.eyebrow{color:var(--accent);font-weight:600;font-size:14px;margin:0}
.quiet{color:var(--quiet)}
.lead{font-size:18px;color:var(--quiet);max-width:66ch}
.id{display:block;background:var(--surface);border:1px solid var(--line);border-radius:8px;
padding:10px 14px;margin-top:16px;max-width:none}
.id b{display:block;font:600 13px/1.4 system-ui,sans-serif;color:var(--quiet)}
nav ul{display:flex;flex-wrap:wrap;gap:4px 20px;list-style:none;padding:0;margin:18px 0 0}
section.card{background:var(--surface);border:1px solid var(--line);border-radius:14px;
padding:26px 28px 22px;margin:18px 0}
.tiles{display:grid;grid-template-columns:repeat(auto-fit,minmax(150px,1fr));gap:12px;
margin:22px 0 0}
.tile{background:var(--surface);border:1px solid var(--line);border-radius:12px;padding:14px 16px}
.tile b{display:block;font-size:26px;line-height:1.2;letter-spacing:-.01em;
font-variant-numeric:tabular-nums;overflow-wrap:anywhere}
.tile span{display:block;color:var(--quiet);font-size:14px;line-height:1.4}
.tile .gain{color:var(--gain)}.tile .loss{color:var(--loss)}
.scroll{overflow-x:auto;margin:10px 0 14px}
table{border-collapse:separate;border-spacing:0;width:100%;font-size:14.5px;
font-variant-numeric:tabular-nums}
caption{text-align:left;color:var(--quiet);padding-bottom:8px}
th,td{text-align:right;padding:6px 10px;border-bottom:1px solid var(--line);white-space:nowrap}
th{font-weight:600}
thead th{color:var(--quiet);font-size:13.5px;vertical-align:bottom}
th:first-child,td.text,th.text{text-align:left}
td.wrap{white-space:normal;overflow-wrap:anywhere;min-width:180px}
tr.final th,tr.final td{border-top:2px solid var(--accent)}
td.best{font-weight:700;box-shadow:inset 0 0 0 2px var(--ink)}
td.gain,span.gain{color:var(--gain);font-weight:600}
td.loss,span.loss{color:var(--loss);font-weight:600}
tr.group th{color:var(--quiet);font-weight:600;font-size:13.5px;padding-top:14px}
.heat td{border:2px solid var(--surface);border-radius:6px;text-align:center;min-width:62px}
.heat th{border-bottom-color:transparent}
.heat tbody th{font-weight:500}.heat tr.final th{font-weight:700;border-top:0}
.heat tr.final td{border-top:2px solid var(--surface)}
.maps{display:grid;grid-template-columns:repeat(auto-fill,minmax(300px,1fr));gap:20px 26px;
margin:14px 0 8px}
figure{margin:0}
figcaption{font-size:14.5px;font-weight:600;margin:0 0 6px;overflow-wrap:anywhere}
svg{display:block;width:100%;height:auto}
svg.ranges{min-width:480px;max-width:780px}svg.along{min-width:600px;max-width:900px}
svg text{font:11px system-ui,-apple-system,"Segoe UI",Roboto,Arial,sans-serif;fill:var(--quiet);
font-variant-numeric:tabular-nums}
svg .label{font-size:11.5px;fill:var(--ink)}
svg .end{text-anchor:end}
svg .tick{font-size:10.5px;text-anchor:middle}svg .tick.end{text-anchor:end}
svg .on{font-size:11px;text-anchor:middle}
svg.ranges text{font-size:12.5px}svg.along text{font-size:11.5px}
svg.fine rect{shape-rendering:crispEdges}
svg .grid{stroke:var(--grid);stroke-width:1}
svg .band{fill:var(--wash)}
svg .curve{fill:none;stroke:var(--accent);stroke-width:2;stroke-linejoin:round}
svg .point{fill:var(--accent)}
svg .mark{stroke:var(--surface);stroke-width:2}
svg .mark.base{fill:none;stroke:var(--quiet)}
svg .mark.best{fill:var(--warm)}
svg .mark.final{fill:var(--accent)}
svg .span{stroke-width:3;opacity:.55}svg .gain{stroke:var(--gain)}svg .loss{stroke:var(--loss)}
.key{display:flex;flex-wrap:wrap;gap:4px 18px;list-style:none;padding:0;margin:8px 0;font-size:14px;
color:var(--quiet)}
.key i{display:inline-block;width:12px;height:12px;border-radius:50%;margin-right:7px;
vertical-align:-1px;border:2px solid transparent}
.key i.base{border-color:var(--quiet)}.key i.best{background:var(--warm)}
.key i.final{background:var(--accent)}
.legend{display:flex;flex-wrap:wrap;align-items:center;gap:4px 10px;font-size:13.5px;
max-width:none;margin:2px 0 6px;font-variant-numeric:tabular-nums}
.ramp{display:inline-flex;border-radius:4px;overflow:hidden}
.ramp i{width:20px;height:12px}
.bar{display:block;height:8px;border-radius:4px;background:var(--accent);min-width:2px}
.track{display:block;width:72px;border-radius:4px;background:var(--wash)}
.flow{display:grid;grid-template-columns:1fr auto 1.5fr auto 1fr auto 1.2fr;gap:12px;
align-items:center;margin:14px 0 6px}
.flow .step{display:flex;flex-direction:column;gap:10px}
.box{border:1px solid var(--line);border-radius:10px;padding:10px 14px;background:var(--paper);
overflow-wrap:anywhere}
.box b{display:block}.box span{display:block;color:var(--quiet);font-size:13.5px;line-height:1.45}
.box.main{border:2px solid var(--accent)}
.arrow{color:var(--quiet);font-size:22px}
details{margin:10px 0}summary{cursor:pointer;color:var(--accent);font-weight:600}
ul.plain{padding-left:20px}
li{overflow-wrap:anywhere}
footer{color:var(--quiet);font-size:14px;padding-top:10px;padding-bottom:48px}
@media(max-width:760px){main,header.top,footer{padding-left:14px;padding-right:14px}
section.card{padding:18px 14px}.flow{grid-template-columns:1fr}.arrow{transform:rotate(90deg);
justify-self:center}}
@media print{section.card{break-inside:avoid;border:0}body{background:#fff}}
"""


def stylesheet() -> str:
    """The whole style, which follows `prefers-color-scheme`."""
    ramps = "".join(
        f".{prefix}{k}{{fill:var(--{prefix}{k});background:var(--{prefix}{k});"
        f"color:var(--{prefix}i{k})}}svg .on.{prefix}{k}{{fill:var(--{prefix}i{k})}}"
        for prefix in ("q", "d")
        for k in range(9)
    ) + "".join(f".c{k}{{fill:var(--c{k});background:var(--c{k})}}" for k in range(8))
    return (
        f":root{{color-scheme:light dark;{_variables(_LIGHT)}}}"
        f"@media(prefers-color-scheme:dark){{:root{{{_variables(_DARK)}}}}}{_RULES}{ramps}"
    )


def _variables(theme: dict[str, str]) -> str:
    found = []
    for name, colours in theme.items():
        listed = colours.split()
        if len(listed) == 1:
            found.append(f"--{name}:{colours}")
        else:
            prefix = name.replace("-ink", "i")
            found += [f"--{prefix}{k}:{colour}" for k, colour in enumerate(listed)]
    return ";".join(found)
