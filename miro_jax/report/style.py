"""Style sheet of the report: one column of text, figures as wide as the page, light and dark.

Two series colours, blue and orange, are told apart in all common kinds of colour blindness, and by
their markers (disc and box) without any colour.
"""

PALETTE = """
:root {
  color-scheme: light dark;
  --paper: #ffffff; --raised: #f5f6f8; --line: #dfe3e8; --ink: #171a20; --quiet: #5a6270;
  --a: #1d63b7; --b: #b3540a; --up: 43 116 204; --down: 222 120 31;
}
@media (prefers-color-scheme: dark) {
  :root {
    --paper: #12151a; --raised: #1b2027; --line: #313944; --ink: #e7eaef; --quiet: #9ca6b4;
    --a: #74b1f7; --b: #f2a35e; --up: 75 149 235; --down: 219 122 44;
  }
}
"""

STYLE = (
    PALETTE
    + """* { box-sizing: border-box; }
html { -webkit-text-size-adjust: 100%; }
body {
  margin: 0; background: var(--paper); color: var(--ink);
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif;
}
header, nav, main { max-width: 1080px; margin: 0 auto; padding: 0 clamp(16px, 4vw, 40px); }
header { padding-top: clamp(28px, 6vw, 64px); }
.eyebrow { margin: 0; color: var(--quiet); font-size: 14px; letter-spacing: .02em; }
h1 { margin: 4px 0 14px; font-size: clamp(32px, 6vw, 48px); line-height: 1.1;
  letter-spacing: -.02em; overflow-wrap: anywhere; }
h2 { margin: 0 0 6px; font-size: 25px; line-height: 1.25; letter-spacing: -.01em; }
h3 { margin: 36px 0 8px; font-size: 18px; }
h4 { margin: 0 0 4px; font-size: 15px; display: flex; justify-content: space-between;
  flex-wrap: wrap; gap: 0 8px; }
h4 span { color: var(--quiet); font-weight: 400; font-variant-numeric: tabular-nums; }
p { margin: 0 0 12px; max-width: 68ch; }
.lead { color: var(--quiet); }
header .lead { font-size: 18px; color: var(--ink); }
section { padding: 44px 0 8px; scroll-margin-top: 8px; }
section + section { border-top: 1px solid var(--line); margin-top: 36px; }
nav { display: flex; flex-wrap: wrap; gap: 6px 20px; padding-top: 26px; padding-bottom: 4px;
  font-size: 15px; }
a { color: var(--a); text-decoration: none; }
a:hover, a:focus-visible { text-decoration: underline; text-underline-offset: 3px; }
code { font: .9em ui-monospace, SFMono-Regular, Menlo, Consolas, monospace; }
.verdict { margin-top: 18px; }
.missing { color: var(--quiet); background: var(--raised); padding: 12px 16px; border-radius: 6px; }

.tiles { list-style: none; margin: 28px 0 0; padding: 0; display: grid; gap: 1px;
  grid-template-columns: repeat(auto-fit, minmax(190px, 1fr)); background: var(--line);
  border: 1px solid var(--line); border-radius: 10px; overflow: hidden; }
.tiles li { background: var(--paper); padding: 16px 18px; display: flex; flex-direction: column; }
.tiles strong { font-size: 30px; line-height: 1.2; letter-spacing: -.02em;
  font-variant-numeric: tabular-nums; }
.tiles span { font-size: 15px; }
.tiles small { color: var(--quiet); font-size: 13px; }

figure { margin: 18px 0 0; }
figcaption { margin-top: 8px; color: var(--quiet); font-size: 14px; max-width: 76ch; }
.pair { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 360px), 1fr));
  gap: 12px 40px; }
.multiples { display: grid; gap: 22px 28px;
  grid-template-columns: repeat(auto-fill, minmax(min(100%, 215px), 1fr)); }

svg { display: block; width: 100%; height: auto; overflow: visible; }
svg text { fill: var(--quiet); font-size: 12px; font-variant-numeric: tabular-nums; }
svg text.label { fill: var(--ink); font-size: 12.5px; }
svg .grid { stroke: var(--line); stroke-width: 1; }
svg .axis, svg .tick { stroke: var(--quiet); stroke-width: 1; }
svg polyline { fill: none; stroke-linejoin: round; stroke-linecap: round; }
svg .raw { stroke: var(--a); stroke-width: 1; opacity: .32; }
svg .series { stroke-width: 2; }
svg .series.a { stroke: var(--a); }
svg .series.b { stroke: var(--b); stroke-dasharray: 1 5; }
svg .ideal { stroke: var(--quiet); stroke-width: 1.2; stroke-dasharray: 5 4; }
svg .point { stroke-width: 1.6; }
svg .point.a { stroke: var(--a); fill: var(--a); }
svg .point.b { stroke: var(--b); fill: var(--paper); stroke-width: 2; }
svg .band { fill: var(--line); opacity: .75; }
svg.mini { width: 320px; }
.means .strip { padding: 2px 0; }

.thumbs { display: grid; gap: 14px; }
.thumbs .row { display: grid; gap: 10px; align-items: start;
  grid-template-columns: 52px repeat(5, minmax(0, 1fr)); }
.thumbs + .missing { margin-top: 28px; }
.thumbs .side { color: var(--quiet); font-size: 14px; padding-top: 4px; }
.thumbs figure { margin: 0; min-width: 0; }
.thumbs img { width: 100%; aspect-ratio: 1; object-fit: contain; display: block;
  background: var(--raised); border-radius: 4px; image-rendering: pixelated; }
.thumbs img[src^="data:image/jpeg"] { image-rendering: auto; }
.thumbs figcaption { margin-top: 4px; font-size: 13px; line-height: 1.3; }
.thumbs figcaption b { color: var(--ink); font-variant-numeric: tabular-nums; }
.thumbs figcaption span { display: -webkit-box; -webkit-box-orient: vertical; overflow: hidden;
  -webkit-line-clamp: 3; overflow-wrap: anywhere; }
svg .bar { fill: var(--a); opacity: .8; }
svg .middle { stroke: var(--b); stroke-width: 2; }
svg .side { stroke: var(--b); stroke-width: 1.4; stroke-dasharray: 5 4; }
.dense td, .dense th { padding: 5px 14px 5px 0; font-size: 14px; }
.causes td small { white-space: normal; overflow-wrap: anywhere; }

.legend { list-style: none; display: flex; flex-wrap: wrap; gap: 4px 22px; margin: 14px 0 0;
  padding: 0; font-size: 15px; }
.legend li { display: flex; align-items: center; gap: 8px; }
.key { width: 11px; height: 11px; border: 2px solid; }
.key.a { color: var(--a); background: var(--a); }
.key.b { color: var(--b); }
.key.disc { border-radius: 50%; }

.gallery { display: grid; gap: 10px; align-items: center;
  grid-template-columns: minmax(90px, 118px) repeat(var(--columns), minmax(0, 1fr)); }
.gallery img { width: 100%; display: block; image-rendering: pixelated; }
.gallery .column, .gallery .corner { font-size: 14px; color: var(--quiet); align-self: end; }
.gallery .column { color: var(--ink); font-variant-numeric: tabular-nums; }
.gallery .column span { color: var(--quiet); }
.gallery .prompt { font-size: 15px; line-height: 1.3; }

.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-size: 15px; font-variant-numeric: tabular-nums; }
caption { text-align: left; color: var(--quiet); font-size: 14px; padding-bottom: 6px; }
.hidden { position: absolute; width: 1px; height: 1px; overflow: hidden; clip-path: inset(50%); }
th { text-align: left; font-weight: 500; padding: 8px 16px 8px 0; white-space: nowrap; }
thead th { color: var(--quiet); font-size: 14px; font-weight: 400; vertical-align: bottom;
  border-bottom: 1px solid var(--line); }
td { padding: 8px 20px 8px 0; vertical-align: middle; }
td small { display: block; color: var(--quiet); font-size: 12.5px; white-space: nowrap; }
tbody tr + tr > * { border-top: 1px solid var(--line); }
tbody th, thead th:first-child { position: sticky; left: 0; background: var(--paper); z-index: 1; }
.shares td { min-width: 112px; }
.shares b { font-size: 18px; font-weight: 600; }
.shares .overall b { color: var(--a); }
span.bar { display: block; height: 4px; border-radius: 2px; margin: 4px 0 2px; background:
  linear-gradient(var(--a), var(--a)) 0 / calc(var(--share) * 100%) 100% no-repeat var(--line); }
.heat { border-spacing: 2px; border-collapse: separate; }
.heat th, .heat td { border: 0 !important; }
.heat .corner { white-space: normal; min-width: 104px; }
.heat td { min-width: 74px; padding: 10px 8px; text-align: center; border-radius: 4px; }
.heat .up { background: rgb(var(--up) / calc(var(--strength) * .62)); }
.heat .down { background: rgb(var(--down) / calc(var(--strength) * .62)); }
.heat .own { outline: 2px solid var(--ink); outline-offset: -2px; font-weight: 600; }
.heat .unsure { color: var(--quiet); }
details { margin-top: 16px; }
summary { cursor: pointer; color: var(--a); font-size: 15px; }
details .scroll { margin-top: 8px; }

.facts { margin: 12px 0 0; display: grid; gap: 14px 40px;
  grid-template-columns: repeat(auto-fit, minmax(min(100%, 280px), 1fr)); }
.facts dt { color: var(--quiet); font-size: 14px; }
.facts dd { margin: 0; overflow-wrap: anywhere; }
main { padding-bottom: 80px; }
@media (max-width: 620px) {
  .gallery { grid-template-columns: repeat(var(--columns), minmax(0, 1fr)); gap: 6px; }
  .gallery .prompt, .gallery .corner { grid-column: 1 / -1; margin-top: 8px; }
  .gallery .column { font-size: 13px; line-height: 1.2; }
  .gallery .column span { display: block; }
  .multiples { grid-template-columns: repeat(auto-fill, minmax(min(100%, 150px), 1fr)); gap: 18px; }
  .multiples svg text { font-size: 15px; }
}
@media print { nav { display: none; } section { break-inside: avoid; } }
"""
)
