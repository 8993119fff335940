"use strict";
// The page's controls: redraws figures from the embedded rows when the cell, the axes, the arms or the theme change.
(() => {
  const C = JSON.parse(document.getElementById("content").textContent);
  const $ = (id) => document.getElementById(id);
  const all = (query, from = document) => [...from.querySelectorAll(query)];
  const make = (name, properties = {}, ...children) => {
    const element = Object.assign(document.createElement(name), properties);
    element.append(...children.filter((c) => c !== null && c !== undefined));
    return element;
  };
  const rowsOf = (table) => table.rows.map((r) => Object.fromEntries(table.columns.map((c, i) => [c, r[i]])));
  const DATA = Object.fromEntries(Object.entries(C.data).map(([name, table]) => [name, rowsOf(table)]));
  const metric = (name) => C.metrics.findIndex((m) => m.name === name);
  const state = { ...C.state, off: new Set() };
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const theme = () => {
    const said = document.documentElement.dataset.theme;
    return said === "auto" ? (dark.matches ? "dark" : "light") : said;
  };
  const titleOf = (name, split) => {
    const found = C.metrics[metric(name)];
    return found ? (split === "test" ? found.test : found.words) : String(name);
  };
  const number = (v) =>
    typeof v !== "number" ? (v ?? "") : Number.isInteger(v) ? String(v)
      : Math.abs(v) >= 1e-3 && Math.abs(v) < 1e4 ? v.toFixed(4) : v.toPrecision(4);

  // ---- the rows of a figure ----

  function rowsFor(figure) {
    const on = (row) => !state.off.has(row.arm);
    if (figure.data === "plane" || figure.data === "path") {
      const split = figure.data === "plane" ? state.split : "val";
      const x = metric(state.x), y = metric(state.y);
      const here = DATA.points.filter((p) => p.cell === state.cell && on(p) &&
        (figure.data === "plane" ? p.used : p.status === "finished"));
      const unchosen = new Set(here.filter((p) => !p.selected).map((p) => p.arm));
      return here
        .map((p) => ({ ...p, x: p[split][x], y: p[split][y], chosen: p.selected && unchosen.has(p.arm) ? 1 : 0 }))
        .filter((p) => p.x !== null && p.y !== null);
    }
    const wanted = Object.entries(figure.where).map(([k, v]) => [k, String(v).startsWith("@") ? state[v.slice(1)] : v]);
    const name = figure.data === "confusion" ? "matrices" : figure.data;
    const rows = DATA[name].filter((r) => wanted.every(([k, v]) => r[k] === v));
    return figure.data === "confusion" ? rows.flatMap(tiles) : rows.filter(on);
  }

  function tiles(row) {
    return row.counts.flatMap((counts, i) => {
      const total = counts.reduce((a, b) => a + b, 0);
      return counts.map((count, j) => ({
        group: row.group, true: row.labels[i], predicted: row.labels[j], count,
        share: total ? Math.round((count / total) * 1e4) / 1e4 : 0, order: i, column: j, classes: counts.length,
      }));
    });
  }

  const splitOf = (figure) => (["plane", "amount-x", "amount-y"].includes(figure.id) ? state.split : "val");

  function fill(spec, values) {
    if (Array.isArray(spec)) {
      if (spec.length === 1 && Array.isArray(values[spec[0]])) return values[spec[0]];
      return spec.map((s) => fill(s, values));
    }
    if (spec && typeof spec === "object") return Object.fromEntries(Object.entries(spec).map(([k, v]) => [k, fill(v, values)]));
    return typeof spec === "string" && Object.hasOwn(values, spec) && !Array.isArray(values[spec]) ? values[spec] : spec;
  }

  function specFor(figure, rows, width) {
    const look = C.themes[theme()];
    const arms = C.arms.filter((a) => rows.some((r) => r.arm === a));
    const split = splitOf(figure);
    const x = titleOf(state.x, split), y = titleOf(state.y, split);
    const spec = fill(figure.spec, {
      "@x": x, "@y": y, "mean @x": "mean " + x, "mean @y": "mean " + y, "std @x": "std " + x, "std @y": "std " + y,
      "@measure": C.measures[state.measure] ?? "", "@on": look.on, "@off": look.off,
      "@arms": arms,
      "@colours": arms.map((a) => look.colours[C.arms.indexOf(a)]),
      "@shapes": arms.map((a) => C.shapes[C.arms.indexOf(a)]),
    });
    const signs = { xsign: state.x, ysign: state.y };
    for (const p of spec.params ?? []) if (p.name in signs) p.value = { max: 1, min: -1 }[C.metrics[metric(signs[p.name])]?.better] ?? 0;
    if (spec.height?.step) {
      const bands = new Set(rows.map((r) => r[figure.data === "differences" ? "arm" : "group"])).size;
      spec.height = Math.max(64, spec.height.step * bands);
    }
    const config = structuredClone(look.config);
    config.aria = false; // the figure has a label and a table; a label for each mark would be noise
    config.legend.columns = Math.max(1, Math.floor(width / 150));
    if (width < 420) config.axis.labelLimit = 96;
    return { ...spec, width: "container", datasets: { rows }, config };
  }

  const figures = new Map();
  for (const element of all("[data-figure]")) {
    const figure = C.figures.find((f) => f.id === element.dataset.figure);
    figures.set(element, { figure, element, chart: element.querySelector(".chart"), inner: make("div", { ariaHidden: "true" }), stale: true, seen: false, view: null, turn: 0 });
  }

  const heading = (figure) => {
    const text = figure.title.replace("@x", titleOf(state.x, splitOf(figure))).replace("@y", titleOf(state.y, splitOf(figure)));
    return text.charAt(0).toUpperCase() + text.slice(1);
  };

  async function draw(item) {
    const turn = ++item.turn;
    item.stale = false;
    const rows = (item.rows = rowsFor(item.figure));
    const title = heading(item.figure);
    item.chart.setAttribute("aria-label", `${title}. ${inWords(item.figure, rows)}`);
    const details = item.element.querySelector(".rows");
    if (details.open) tabulate(item);
    for (const b of all("[data-save]", item.element)) b.disabled = !rows.length;
    if (!rows.length) {
      item.view?.finalize();
      item.view = null;
      item.chart.replaceChildren(make("p", { className: "empty", textContent: "No run has data for this choice." }));
      return;
    }
    const spec = specFor(item.figure, rows, item.chart.clientWidth);
    try {
      // Vega labels the element that it draws into; the figure's own label is on the element around it
      if (item.inner.parentNode !== item.chart) item.chart.replaceChildren(item.inner);
      const made = await vegaEmbed(item.inner, spec, { renderer: "svg", actions: false });
      item.inner.querySelector(".vega-bindings")?.remove();
      if (turn !== item.turn) return made.view.finalize();
      item.view?.finalize();
      item.view = made.view;
      item.width = item.chart.clientWidth;
      item.chart.dataset.drawn = theme();
    } catch (error) {
      item.chart.replaceChildren(make("p", { className: "empty", textContent: "This figure could not be drawn; its data are below." }));
      console.error(error);
    }
  }

  function inWords(figure, rows) {
    if (!rows.length) return "Nothing to show.";
    const names = [...new Set(rows.map((r) => r.group ?? r.arm))];
    const shown = names.slice(0, 8).join(", ") + (names.length > 8 ? ` and ${names.length - 8} more` : "");
    const mean = (list) => number(list.reduce((a, b) => a + b, 0) / list.length);
    const of = (column) => names.slice(0, 8).map((n) => `${n} ${mean(rows.filter((r) => (r.group ?? r.arm) === n).map((r) => r[column]))}`);
    if (figure.data === "plane") {
      const x = titleOf(state.x, state.split), y = titleOf(state.y, state.split);
      return `Means: ${names.slice(0, 8).map((n) => {
        const mine = rows.filter((r) => r.group === n);
        return `${n}: ${x} ${mean(mine.map((r) => r.x))}, ${y} ${mean(mine.map((r) => r.y))}`;
      }).join("; ")}. The data are in the table below.`;
    }
    if (figure.data === "forgetting") return `Means: ${of("value").join(", ")}. The data are in the table below.`;
    if (figure.data === "differences") return `Means: ${of("mean").join(", ")}. The data are in the table below.`;
    return `Of ${shown}. The data are in the table below.`;
  }

  const watch = new IntersectionObserver((entries) => {
    for (const entry of entries) {
      const item = figures.get(entry.target);
      item.seen = entry.isIntersecting;
      if (item.seen && item.stale) draw(item);
    }
  }, { rootMargin: "300px" });

  function refresh() {
    for (const item of figures.values()) {
      item.stale = true;
      item.element.querySelector("h3").textContent = heading(item.figure);
      if (item.seen) draw(item);
    }
    const here = (e) => e.dataset.cell === undefined || Number(e.dataset.cell) === state.cell;
    for (const e of all(".card[data-cell], tr[data-cell]")) e.hidden = !here(e);
    for (const e of all("tr[data-arm]")) e.hidden = !here(e) || state.off.has(e.dataset.arm);
    for (const e of all("[data-answer]")) e.classList.toggle("current", C.cells.length > 1 && Number(e.dataset.answer) === state.cell);
    groups();
    classes();
    samples();
    configs();
  }

  let resizing;
  addEventListener("resize", () => {
    clearTimeout(resizing);
    resizing = setTimeout(() => {
      for (const item of figures.values()) {
        if (Math.abs((item.width ?? 0) - item.chart.clientWidth) < 2) continue;
        item.stale = true;
        if (item.seen) draw(item);
      }
    }, 150);
  });

  // ---- tables and downloads ----

  const cellOf = (v) => make("td", { className: typeof v === "number" ? "num" : "", textContent: number(v) });

  function table(columns, rows, heads = columns) {
    const head = make("tr", {}, ...heads.map((h, i) => make("th", { scope: "col", className: typeof rows[0]?.[columns[i]] === "number" ? "num" : "", textContent: h })));
    const body = rows.map((r) => make("tr", {}, ...columns.map((c) => cellOf(r[c]))));
    return make("table", {}, make("thead", {}, head), make("tbody", {}, ...body));
  }

  function headsOf(figure) {
    const split = splitOf(figure);
    return figure.fields.map((f) => (f === "x" ? titleOf(state.x, split) : f === "y" ? titleOf(state.y, split) : f));
  }

  const tabulate = (item) =>
    item.element.querySelector(".rows .scroll").replaceChildren(table(item.figure.fields, item.rows ?? rowsFor(item.figure), headsOf(item.figure)));

  const quoted = (v) => {
    const text = v === null || v === undefined ? "" : String(v);
    return /[",\n\r]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
  };
  const csv = (heads, lines) => [heads, ...lines].map((l) => l.map(quoted).join(",")).join("\n") + "\n";

  function save(name, href) {
    const link = make("a", { href, download: name });
    document.body.append(link);
    link.click();
    link.remove();
  }
  const saveText = (name, text, type) => {
    const href = URL.createObjectURL(new Blob([text], { type }));
    save(name, href);
    setTimeout(() => URL.revokeObjectURL(href), 10000);
  };
  const slug = (text) => text.toLowerCase().replace(/[^a-z0-9.]+/g, "-").replace(/^-+|-+$/g, "").slice(0, 100);
  const nameOf = (item, kind) => slug([item.figure.id, C.cells.length > 1 ? C.cells[state.cell].label : ""].join("-")) + "." + kind;

  async function download(item, kind) {
    if (item.stale || !item.rows) await draw(item);
    if (kind === "csv") {
      const rows = item.rows.map((r) => item.figure.fields.map((f) => r[f]));
      return saveText(nameOf(item, kind), csv(headsOf(item.figure), rows), "text/csv");
    }
    if (!item.view) return;
    if (kind === "svg") return saveText(nameOf(item, kind), await item.view.toSVG(), "image/svg+xml");
    save(nameOf(item, kind), await item.view.toImageURL("png", 2));
  }

  for (const item of figures.values()) {
    for (const b of all("[data-save]", item.element)) {
      b.setAttribute("aria-label", `${b.textContent} of ${item.figure.title.replace("@x", "learned").replace("@y", "kept")}`);
      b.addEventListener("click", () => download(item, b.dataset.save));
    }
    item.element.querySelector(".rows").addEventListener("toggle", (e) => e.target.open && tabulate(item));
    watch.observe(item.element);
  }

  // ---- controls ----

  const options = (select, entries, value) => {
    select.replaceChildren(...entries.map(([v, text]) => make("option", { value: v, textContent: text, selected: String(v) === String(value) })));
  };

  function symbol(arm) {
    const i = C.arms.indexOf(arm), ns = "http://www.w3.org/2000/svg";
    const svg = document.createElementNS(ns, "svg"), path = document.createElementNS(ns, "path");
    for (const [k, v] of Object.entries({ width: 14, height: 14, viewBox: "-7 -7 14 14", "aria-hidden": "true" })) svg.setAttribute(k, v);
    path.setAttribute("d", SHAPES[C.shapes[i]] ?? SHAPES.circle);
    path.setAttribute("fill", C.themes[theme()].colours[i]);
    svg.append(path);
    return svg;
  }
  const SHAPES = {
    circle: "M-5,0a5,5 0 1,0 10,0a5,5 0 1,0 -10,0", square: "M-4.6,-4.6h9.2v9.2h-9.2z", "triangle-up": "M0,-5.6L5.6,4.6H-5.6z",
    "triangle-down": "M0,5.6L5.6,-4.6H-5.6z", "triangle-right": "M5.6,0L-4.6,5.6V-5.6z", diamond: "M0,-6.4L5,0L0,6.4L-5,0z",
    cross: "M-2,-5.6h4v3.6h3.6v4h-3.6v3.6h-4v-3.6h-3.6v-4h3.6z",
  };

  function arms() {
    $("arms").replaceChildren(...C.arms.map((arm) => {
      const b = make("button", { type: "button", className: "arm" }, symbol(arm), arm);
      b.setAttribute("aria-pressed", String(!state.off.has(arm)));
      b.addEventListener("click", () => {
        const hidden = state.off.has(arm);
        if (hidden) state.off.delete(arm);
        else state.off.add(arm);
        b.setAttribute("aria-pressed", String(hidden));
        $("said").textContent = `${arm} is ${hidden ? "shown" : "hidden"}`;
        refresh();
      });
      return b;
    }));
    for (const s of all(".swatch")) s.replaceChildren(symbol(s.dataset.arm));
  }

  function setCell(cell) {
    state.cell = cell;
    Object.assign(state, { rest: C.cells[cell].rest, split: C.cells[cell].split });
    $("said").textContent = C.cells.length > 1 ? `Showing ${C.cells[cell].label}` : "";
    refresh();
  }

  function groups() {
    const select = $("pick-group");
    if (!select) return;
    const names = [...new Set([...DATA.matrices, ...DATA.samples].filter((r) => r.cell === state.cell && !state.off.has(r.arm)).map((r) => r.group))];
    if (!names.includes(state.group)) state.group = names[0] ?? null;
    options(select, names.map((n) => [n, n]), state.group);
  }

  // What each class lost and gained: classes are forgotten alike in all seeds, samples are not, so classes come first.
  function classes() {
    const box = $("classes");
    if (!box) return;
    const found = DATA.classes.filter((r) => r.cell === state.cell && r.group === state.group);
    $("classes-card").hidden = !found.length;
    const points = (v) => (v > 0 ? "+" : v < 0 ? "−" : "") + Math.abs(100 * v).toFixed(1);
    const count = (v) => String(Math.round(v * 10) / 10);
    const spread = (r) => (r.std !== null ? `± ${(100 * r.std).toFixed(1)}` : `[${points(r.low)}, ${points(r.high)}]`);
    const cell = (text) => make("td", { className: "num", textContent: text });
    const heads = ["samples", "lost", "gained", "change, points", found.some((r) => r.std !== null) ? "± over seeds" : "95 % interval", "seeds that lost"];
    box.replaceChildren(make("table", {},
      make("thead", {}, make("tr", {}, make("th", { scope: "col", textContent: "class" }), ...heads.map((h) => make("th", { scope: "col", className: "num", textContent: h })))),
      make("tbody", {}, ...found.map((r) => make("tr", {}, make("th", { scope: "row", textContent: r.label }),
        cell(count(r.n)), cell(count(r.lost)), cell(count(r.gained)), cell(points(r.change)), cell(spread(r)), cell(`${r.worse} of ${r.of}`))))));
    $("classes-said").textContent = found.some((r) => r.of > 1)
      ? "Lost: right before tuning and wrong after it; gained: the reverse. Means over seeds."
      : "Lost: right before tuning and wrong after it; gained: the reverse. The interval is paired over these samples, and not corrected for the number of classes.";
  }

  function samples() {
    const box = $("samples");
    if (!box) return;
    const found = DATA.samples.find((r) => r.cell === state.cell && r.group === state.group);
    const total = found?.total;
    const count = (v) => String(Math.round(v * 10) / 10);
    const lost = (s) => s.on === "retention" || typeof s.score_before === "number";
    const became = found?.samples.every(lost) ? "are answered worse" : "changed";
    $("changed-said").textContent = !found ? "No run has data about samples."
      : !found.samples.length ? "No sample that was right before tuning is wrong after it."
      : `${total === null ? "Some samples" : `${count(total)}${found.compared ? ` of ${count(found.compared)}` : ""} samples`} ${became}` +
        `${found.of > 1 ? ` in the mean of ${found.of} seeds` : ""}; those that most seeds agree on come first` +
        `${total > found.samples.length ? `, and ${found.samples.length} are shown` : ""}.`;
    box.replaceChildren(...(found?.samples ?? []).map((s) => {
      const sure = (v) => (typeof v === "number" ? `${Math.round(100 * v)} %` : "");
      const image = typeof s.image === "string" && s.image.startsWith("data:image/png;base64,")
        ? make("img", { src: s.image, alt: s.name ?? "sample", width: 96, height: 96, loading: "lazy" }) : null;
      const sound = typeof s.sound === "string" && /^data:audio\/(mpeg|wav);base64,/.test(s.sound)
        ? make("audio", { src: s.sound, controls: true, preload: "none", ariaLabel: s.name ?? "sample" }) : null;
      const name = make("p", { textContent: `${s.name ?? ""}${found.of > 1 ? ` · ${s.seeds} of ${found.of} seeds` : ""}` });
      if (typeof s.score_after === "number" || Array.isArray(s.after) || s.on === "outputs") {
        const right = (v) => (typeof v === "number" ? ` (${Math.round(100 * v)} % right)` : "");
        const parts = [["before", s.before, right(s.score_before)], ["after", s.after, right(s.score_after)], ["true", s.label, ""]];
        if (s.form === "choice" && Array.isArray(s.choices)) return make("article", { className: "sample wide" },
          s.question ? make("p", { className: "said", textContent: s.question }) : null, chosen(s), name);
        return make("article", { className: "sample wide" }, overlaid(s) ?? image, sound,
          s.question ? make("p", { className: "said", textContent: s.question }) : null,
          s.text && !s.words && s.form !== "answer" ? make("blockquote", { textContent: s.text, tabIndex: 0 }) : null,
          ...parts.filter((p) => p[1] !== undefined).flatMap(([when, said, how]) => [
            make("p", { textContent: `${when}${how}` }), spoken(s, said, when)]), name);
      }
      return make("article", { className: "sample" }, image, sound,
        s.text ? make("blockquote", { textContent: s.text, tabIndex: 0 }) : null,
        make("p", { className: "said", textContent: `${s.before ?? "?"} → ${s.after ?? "?"}` }),
        sure(s.confidence_after) ? make("p", { textContent: `sure: ${sure(s.confidence_before) || "?"} → ${sure(s.confidence_after)}` }) : null,
        s.label !== undefined ? make("p", { textContent: `true: ${s.label}` }) : make("p", { textContent: "on the new task's input; its source label is not known" }),
        name);
    }));
  }

  // A question's choices in their order, with notes on the right one and on those chosen before and after tuning.
  function chosen(s) {
    const roles = [["true", s.label], ["before", s.before], ["after", s.after]];
    return make("ol", { className: "choices", start: 0 }, ...s.choices.map((text, i) => {
      const notes = roles.filter(([, at]) => at !== undefined && String(at) === String(i)).map(([role]) => role);
      return make("li", {}, notes.length ? make("mark", { textContent: text }) : text, notes.length ? ` [${notes.join(", ")}]` : null);
    }));
  }

  // The image with masks or boxes drawn over it: the true ones, those found before tuning and those found after it.
  function overlaid(s) {
    const shown = [["true", "truth"], ["before", "before"], ["after", "after"]]
      .filter(([, key]) => /^data:image\/jpeg;base64,/.test(s.pictures?.[key] ?? ""));
    if (!shown.length) return null;
    return make("div", {},
      make("div", { className: "pictures" }, ...shown.map(([title, key]) => make("figure", {},
        make("img", { src: s.pictures[key], alt: `${s.name ?? "sample"}, ${title}`, loading: "lazy" }), make("figcaption", { textContent: title })))),
      make("p", { className: "colours" }, ...(s.colours ?? []).map(([label, colour]) => make("span", {},
        make("i", { style: `background:${colour}`, ariaHidden: "true" }), label))));
  }

  // What is said of a sample: tags in the text, an answer in its paragraph, or a text whose new words, or labels, are marked.
  function spoken(s, said, when) {
    const box = (...parts) => make("blockquote", { className: "spoken", tabIndex: 0 }, ...parts);
    const mark = (text, title) => make("mark", title ? { textContent: text, title } : { textContent: text });
    if (Array.isArray(said)) {
      const words = Array.isArray(s.words) ? s.words : said;
      const parts = [];
      words.forEach((word, i) => {
        const typed = (tag) => (tag ?? "O").replace(/^[A-Z]-/, ""), tag = said[i] ?? "O";
        const inside = /^[IEL]-/.test(tag) && i > 0 && typed(said[i - 1]) === typed(tag);
        parts.push(tag === "O" ? word : mark(inside ? word : `${word} [${typed(tag)}]`, tag), " ");
      });
      return box(...parts);
    }
    const at = s.form === "answer" && typeof s.text === "string" && said ? placed(s.text, said, s[`start_${when}`]) : -1;
    if (at >= 0) {
      const from = Math.max(0, at - 90), to = Math.min(s.text.length, at + said.length + 90);
      return box((from ? "…" : "") + s.text.slice(from, at), mark(said), s.text.slice(at + said.length, to) + (to < s.text.length ? "…" : ""));
    }
    if (!String(said).trim()) return box(make("i", { textContent: s.form === "answer" ? "no answer" : "nothing" }));
    if (when !== "after" || typeof s.before !== "string") return box(String(said));
    const apart = s.form === "labels" ? /(, )/ : /(\s+)/, known = new Set(s.before.split(apart));
    return box(...String(said).split(apart).map((w, i) => (i % 2 || !w || known.has(w) ? w : mark(w))));
  }

  // Where an answer stands in its text: at `start`, counted in whole characters, else where it is not a part of a word; -1 if
  // the text is cut before it.
  function placed(text, said, start) {
    if (Number.isInteger(start)) {
      const at = [...text].slice(0, start).join("").length;
      if (text.startsWith(said, at)) return at;
      if (at + said.length > text.length) return -1;
    }
    const letter = (c) => /[\p{L}\p{N}]/u.test(c);
    for (let i = text.indexOf(said); i >= 0; i = text.indexOf(said, i + 1)) {
      if (!letter(text.charAt(i - 1)) && !letter(text.charAt(i + said.length))) return i;
    }
    return text.indexOf(said);
  }

  function configs() {
    const shown = DATA.configs.filter((r) => r.cell === state.cell && !state.off.has(r.arm));
    const keys = [...new Set(shown.flatMap((r) => Object.keys(r.values)))]
      .filter((k) => new Set(shown.map((r) => r.values[k])).size > 1 || shown.some((r) => /, | … /.test(r.values[k] ?? "")));
    if (!shown.length || !keys.length) {
      $("configs").replaceChildren(make("p", { className: "absent", textContent: shown.length ? "The arms shown do not differ in any setting." : "No run shown has a config.yaml." }));
      return;
    }
    const head = make("tr", {}, make("th", { scope: "col", textContent: "setting" }), ...shown.map((r) => make("th", { scope: "col", textContent: r.group })));
    const body = keys.map((k) => make("tr", {}, make("th", { scope: "row", textContent: k }),
      ...shown.map((r) => make("td", { className: "value", textContent: r.values[k] ?? "–" }))));
    $("configs").replaceChildren(make("table", {}, make("thead", {}, head), make("tbody", {}, ...body)));
  }

  // ---- all points ----

  const points = (() => {
    const about = [...(C.cells.length > 1 ? ["cell"] : []), "point", "arm", "setting", "seed", "chosen", "status", "steps"];
    const heads = [...about];
    const lines = DATA.points.map((p) => about.map((c) => (c === "cell" ? C.cells[p.cell].label : c === "chosen" ? (p.selected ? "yes" : "") : p[c])));
    for (const split of ["test", "val"]) {
      C.metrics.forEach((m, i) => {
        if (!DATA.points.some((p) => p[split][i] !== null)) return;
        heads.push(split === "val" ? m.name : "test/" + m.name.replace(/^val\//, ""));
        DATA.points.forEach((p, j) => lines[j].push(p[split][i]));
      });
    }
    return { heads, lines, sort: null, up: true };
  })();

  function pointsShown() {
    const words = $("filter").value.toLowerCase().split(/\s+/).filter(Boolean);
    const text = (l) => l.map((v) => String(v ?? "")).join(" ").toLowerCase();
    const shown = words.length ? points.lines.filter((l) => { const t = text(l); return words.every((w) => t.includes(w)); }) : [...points.lines];
    if (points.sort !== null) {
      const i = points.sort, known = (v) => v !== null && v !== undefined && v !== "";
      shown.sort((a, b) => {
        if (!known(a[i]) || !known(b[i])) return known(b[i]) - known(a[i]);
        const numbers = !Number.isNaN(Number(a[i])) && !Number.isNaN(Number(b[i]));
        const order = numbers ? Number(a[i]) - Number(b[i]) : String(a[i]).localeCompare(String(b[i]));
        return points.up ? order : -order;
      });
    }
    return shown;
  }

  function pointsBody() {
    const shown = pointsShown();
    $("points-said").textContent = `${shown.length} of ${points.lines.length} runs`;
    $("points-table").querySelector("tbody").replaceChildren(...shown.map((l) => make("tr", {}, ...l.map(cellOf))));
  }

  function pointsTable() {
    const numeric = points.heads.map((_, i) => points.lines.some((l) => typeof l[i] === "number"));
    const heads = points.heads.map((h, i) => {
      const b = make("button", { type: "button", textContent: h });
      const th = make("th", { scope: "col", className: numeric[i] ? "num" : "" }, b);
      b.addEventListener("click", () => {
        points.up = points.sort === i ? !points.up : !numeric[i];
        points.sort = i;
        for (const other of heads) other.removeAttribute("aria-sort");
        th.setAttribute("aria-sort", points.up ? "ascending" : "descending");
        pointsBody();
      });
      return th;
    });
    $("points-table").replaceChildren(make("table", {}, make("thead", {}, make("tr", {}, ...heads)), make("tbody")));
    $("filter").addEventListener("input", pointsBody);
    $("points-csv").addEventListener("click", () => saveText("points.csv", csv(points.heads, pointsShown()), "text/csv"));
    pointsBody();
  }

  // ---- begin ----

  for (const b of all("[data-theme-is]")) {
    b.addEventListener("click", () => {
      document.documentElement.dataset.theme = b.dataset.themeIs;
      for (const other of all("[data-theme-is]")) other.setAttribute("aria-pressed", String(other === b));
      arms();
      refresh();
    });
  }
  dark.addEventListener("change", () => { arms(); refresh(); });
  for (const axis of ["x", "y"]) {
    options($(`pick-${axis}`), C.metrics.map((m) => [m.name, m.words]), state[axis]);
    $(`pick-${axis}`).addEventListener("change", (e) => { state[axis] = e.target.value; refresh(); });
  }
  $("pick-cell")?.addEventListener("change", (e) => setCell(Number(e.target.value)));
  $("pick-group")?.addEventListener("change", (e) => { state.group = e.target.value; refresh(); });
  const measure = $("pick-measure");
  if (measure) {
    options(measure, Object.entries(C.measures), state.measure);
    measure.addEventListener("change", (e) => { state.measure = e.target.value; refresh(); });
  }
  document.querySelector(".controls").addEventListener("submit", (e) => e.preventDefault());
  arms();
  refresh();
  pointsTable();
  document.documentElement.dataset.ready = "yes";
})();
