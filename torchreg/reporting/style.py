"""The look of the report: on a wide screen, a narrow one, in the dark, and on paper."""

#: One column of text, figures beside each other where there is room. Below 40 em a table's row
#: becomes a list. Contrasts are at least 4.5 for text and 3 for what is drawn (WCAG 2.2, AA).
STYLE = """
:root {
  color-scheme: light dark;
  --paper: #ffffff; --ink: #1b1f24; --quiet: #57606a; --line: #d8dee4; --wash: #f4f6f8;
  --fit: #0072b2; --held-out: #d55e00; --severe: #b3261e; --warning: #8a5a00; --info: #0b5c8f;
  --font: system-ui, -apple-system, "Segoe UI", Roboto, "DejaVu Sans", sans-serif;
}
@media (prefers-color-scheme: dark) {
  :root {
    --paper: #14181d; --ink: #e6eaef; --quiet: #a3adb8; --line: #39424d; --wash: #1c2229;
    --fit: #4fa9dd; --held-out: #f07d2e; --severe: #ff8a80; --warning: #f0b95a; --info: #7cc4ee;
  }
}
* { box-sizing: border-box; }
html { -webkit-text-size-adjust: 100%; text-size-adjust: 100%; }
body {
  margin: 0 auto; padding: 1.5rem 1rem 3rem; max-width: 64rem;
  background: var(--paper); color: var(--ink); font: 1rem/1.5 var(--font);
  overflow-wrap: anywhere;
}
h1 { font-size: 1.7rem; line-height: 1.2; margin: 0 0 .3rem; }
h2 {
  font-size: 1.25rem; margin: 2.2rem 0 .8rem; padding-top: .6rem;
  border-top: 1px solid var(--line);
}
h3 { font-size: 1rem; margin: 0 0 .3rem; }
p { margin: .4rem 0; max-width: 46rem; }
.lead, figcaption, caption { color: var(--quiet); }
a { color: var(--info); }
dl.key { display: grid; grid-template-columns: repeat(auto-fit, minmax(8.5rem, 1fr));
  gap: .6rem; margin: 1.2rem 0 0; }
dl.key div { background: var(--wash); border-radius: .5rem; padding: .5rem .7rem; }
dl.key dt { color: var(--quiet); font-size: .85rem; }
dl.key dd { margin: 0; font-size: 1.1rem; font-weight: 600; font-variant-numeric: tabular-nums; }
.finding { margin: 0 0 .9rem; padding: .1rem 0 .1rem .9rem; border-left: .3rem solid var(--info); }
.finding.severe { border-color: var(--severe); }
.finding.warning { border-color: var(--warning); }
.finding .severity { font-weight: 600; color: var(--info); }
.finding.severe .severity { color: var(--severe); }
.finding.warning .severity { color: var(--warning); }
.finding .numbers { color: var(--quiet); font-size: .85rem; }
.figures { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 25rem), 1fr));
  gap: 1.8rem 1.6rem; align-items: start; }
figure { margin: 0; min-width: 0; max-width: 36rem; }
figure svg { display: block; width: 100%; height: auto; }
figure svg * { stroke-linejoin: round; stroke-linecap: butt; }
figcaption { font-size: .85rem; }
pre {
  margin: .6rem 0; padding: .8rem; background: var(--wash); border-radius: .5rem;
  font: .85rem/1.45 ui-monospace, SFMono-Regular, Menlo, Consolas, "DejaVu Sans Mono", monospace;
  white-space: pre-wrap; overflow-wrap: anywhere;
}
pre.code { user-select: all; -webkit-user-select: all; }
table { border-collapse: collapse; margin: 1rem 0; font-size: .9rem; max-width: 100%; }
caption { text-align: left; padding: 0 0 .3rem; }
th, td { text-align: left; vertical-align: top; padding: .25rem 1rem .25rem 0;
  border-bottom: 1px solid var(--line); }
th { font-weight: 600; }
th, td { overflow-wrap: anywhere; }
thead th { overflow-wrap: normal; }
tbody th { min-width: 11em; }
tbody td:not(.number) { min-width: 6em; }
.number { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
th.number { text-align: right; }
@media screen and (max-width: 40em) {
  table, caption, tbody, tr, th[scope="row"] { display: block; width: 100%; }
  thead { position: absolute; width: 1px; height: 1px; overflow: hidden; clip-path: inset(50%); }
  tr { padding: .35rem 0; border-bottom: 1px solid var(--line); }
  th, td { border: 0; padding: .05rem 0; }
  td { display: flex; justify-content: space-between; gap: 1rem; text-align: right; }
  td::before { content: attr(data-title); color: var(--quiet); text-align: left; flex: none; }
  .number { white-space: normal; }
  tbody th, tbody td:not(.number) { min-width: 0; }
}
@media print {
  @page { size: A4; margin: 16mm 14mm; }
  :root {
    color-scheme: light;
    --paper: #ffffff; --ink: #000000; --quiet: #444444; --line: #d0d0d0; --wash: #f2f2f2;
    --fit: #0072b2; --held-out: #d55e00; --severe: #b3261e; --warning: #8a5a00; --info: #0b5c8f;
  }
  body { max-width: none; padding: 0; font-size: 10pt; }
  h2, h3, caption, thead { break-after: avoid; }
  table:not(:has(tbody tr:nth-child(20))) { break-inside: avoid; }
  figure, .finding, tr, dl.key { break-inside: avoid; }
  .figures { grid-template-columns: 1fr 1fr; gap: 1rem; }
  pre, dl.key div { print-color-adjust: exact; -webkit-print-color-adjust: exact; }
}
""".strip()
