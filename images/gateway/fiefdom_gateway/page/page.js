// The page: asks its gateway every two seconds and writes into the document what changed, so that focus and selection
// stay. Everything that comes from the gateway is text and becomes text, never markup.

const EVERY_MS = 2000;
const LATE_MS = 8000;
const BACKOFF_MS = [2000, 4000, 8000, 15000];
const POINTS = 60;
const FORMAT = 1;

const at = (id) => document.getElementById(id);
const past = new Map();
let shown = null;
let files = null;
let failures = 0;
let silentSince = null;
let answeredAt = null;
let timer = null;
let asking = null;

// --- Writing into the document

function write(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

function mark(node, name, value) {
  if (value === null || value === undefined) node.removeAttribute(name);
  else if (node.getAttribute(name) !== value) node.setAttribute(name, value);
}

function make(tag, about = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(about)) mark(node, name, value);
  node.append(...children);
  return node;
}

// Makes the children of a node those of a list, by key, in its order; `fresh` makes one and `fill` brings it up to date.
function keyed(parent, items, key, fresh, fill) {
  const focused = parent.contains(document.activeElement) ? document.activeElement : null;
  const there = new Map([...parent.children].map((node) => [node.dataset.key, node]));
  const taken = new Set();
  let place = parent.firstElementChild;
  for (const item of items) {
    let name = key(item);
    while (taken.has(name)) name += " again";
    taken.add(name);
    let node = there.get(name);
    if (node === undefined) {
      node = fresh(item);
      node.dataset.key = name;
    }
    there.delete(name);
    fill(node, item);
    if (node === place) place = place.nextElementSibling;
    else parent.insertBefore(node, place);
  }
  for (const node of there.values()) node.remove();
  if (focused !== null && document.activeElement !== focused && focused.isConnected) focused.focus({ preventScroll: true });
}

// A table by its columns: {title, cell(row, td), number, wide, head}. Roles are said, for as cards they would be lost.
function table(id, columns, empty) {
  const node = at(id);
  mark(node, "role", "table");
  const heads = columns.map((c) => make("th", { scope: "col", role: "columnheader", class: c.number ? "number" : null }, c.title));
  node.append(make("thead", { role: "rowgroup" }, make("tr", { role: "row" }, ...heads)), make("tbody", { role: "rowgroup" }));
  const body = node.tBodies[0];
  const fresh = () => {
    const row = make("tr", { role: "row" });
    for (const c of columns) {
      const about = c.head ? { scope: "row", role: "rowheader" } : { role: "cell", "data-label": c.title };
      const kind = [c.number && "number", c.wide && "wide", c.nowrap && "nowrap"].filter(Boolean).join(" ");
      row.append(make(c.head ? "th" : "td", { ...about, class: kind || null }));
    }
    return row;
  };
  const fill = (row, item) => {
    columns.forEach((c, place) => c.cell(item, row.children[place]));
  };
  return (rows, key) => {
    if (rows.length > 0) return keyed(body, rows, key, fresh, fill);
    const none = () => make("tr", { role: "row" }, make("td", { role: "cell", colspan: String(columns.length), class: "empty" }));
    return keyed(body, [empty], () => "", none, (row, words) => write(row.firstChild, typeof words === "function" ? words() : words));
  };
}

const text = (of) => (row, cell) => write(cell, of(row));

function button(cell, words, note) {
  if (cell.firstChild === null) {
    const pressed = make("button", { type: "button", class: "filtering" });
    pressed.addEventListener("click", () => filterBy(pressed.textContent));
    cell.append(pressed, " ", make("span", { class: "note" }));
  }
  write(cell.firstChild, words);
  write(cell.lastChild, note);
}

function tags(cell, items, words) {
  keyed(cell, items, (item) => words(item).join(" "), (item) => {
    const [name, rest] = words(item);
    return make("span", { class: "tag" }, make("b", {}, name), ` ${rest}`);
  }, () => {});
}

function state(cell, kind, words) {
  if (cell.firstChild === null) cell.append(make("span"));
  mark(cell.firstChild, "data-state", kind);
  write(cell.firstChild, words);
}

// --- Numbers and times, in words

const whole = new Intl.NumberFormat("en-GB", { maximumFractionDigits: 0 });
const one = new Intl.NumberFormat("en-GB", { maximumFractionDigits: 1 });
const two = new Intl.NumberFormat("en-GB", { maximumFractionDigits: 2 });

function rate(value) {
  if (value === null || value === undefined) return "–";
  return (value >= 100 ? whole : value >= 10 ? one : two).format(value);
}

const errorsOf = (row) => (row.requests_s === null ? null : row.errors_5xx_s + row.failures_s);

function errorRate(row) {
  const errors = errorsOf(row);
  if (errors === null) return "–";
  if (errors === 0) return "0";
  return row.requests_s > 0 ? `${rate(errors)} (${one.format((100 * errors) / row.requests_s)} %)` : rate(errors);
}

const millis = (value) => (value === null || value === undefined ? "–" : `${whole.format(value)} ms`);

function lasted(seconds) {
  if (seconds === null || seconds === undefined) return "–";
  const s = Math.max(0, Math.round(seconds));
  if (s < 90) return `${s} s`;
  if (s < 5400) return `${Math.round(s / 60)} min`;
  if (s < 172800) return `${Math.round(s / 3600)} h`;
  return `${Math.round(s / 86400)} d`;
}

const since = (time, now) => (Date.parse(now) - Date.parse(time)) / 1000;
const clock = (time) => new Date(time).toLocaleTimeString("en-GB");

function many(count, word) {
  return `${whole.format(count)} ${word}${count === 1 ? "" : "s"}`;
}

// --- What was a moment ago

function remember(key, value) {
  const points = past.get(key) ?? [];
  points.push(value);
  past.set(key, points.slice(-POINTS));
}

function spark(holder, key) {
  const points = (past.get(key) ?? []).filter((value) => value !== null);
  const svg = "http://www.w3.org/2000/svg";
  if (holder.firstChild === null) {
    const drawn = document.createElementNS(svg, "svg");
    for (const [name, value] of Object.entries({ class: "spark", viewBox: `0 0 ${POINTS - 1} 20`, preserveAspectRatio: "none", "aria-hidden": "true" })) drawn.setAttribute(name, value);
    drawn.append(document.createElementNS(svg, "path"));
    holder.append(drawn);
  }
  const most = Math.max(...points, 0) || 1;
  const start = POINTS - points.length;
  const line = points.map((value, place) => `${place === 0 ? "M" : "L"}${start + place} ${(19 - (18 * value) / most).toFixed(1)}`);
  mark(holder.firstChild.firstChild, "d", points.length > 1 ? line.join("") : "");
}

// --- The parts of the page

const LEVELS = { critical: ["✖", "Critical"], warning: ["▲", "Warning"], notice: ["●", "Notice"] };

function showProblems(found) {
  const items = found.problems.length > 0 ? found.problems : [{ level: "well", about: "", words: "Nothing: every service has its instances, every host is a member, no certificate ends soon." }];
  keyed(at("problem-list"), items, (p) => `${p.level} ${p.about} ${p.words.replace(/[0-9.]+/g, "#")}`, () => make("li"), (node, problem) => {
    mark(node, "data-level", problem.level);
    if (problem.level === "well") return write(node, problem.words);
    if (node.firstChild === null) {
      const [sign, word] = LEVELS[problem.level] ?? ["●", problem.level];
      node.append(make("span", { class: "level" }, make("span", { "aria-hidden": "true" }, `${sign} `), word), " ", make("span", { class: "about" }), " ", make("span", { class: "words" }));
    }
    write(node.querySelector(".about"), problem.about);
    return write(node.querySelector(".words"), problem.words);
  });
  more("problems-more", found.problems_more, "more problems are left out here");
  const counts = Object.keys(LEVELS).map((level) => [level, found.problems.filter((p) => p.level === level).length]).filter(([, n]) => n > 0);
  const verdict = counts.map(([level, n]) => (level === "critical" ? `${n} critical` : many(n, level))).join(", ") || "All well";
  write(at("verdict"), verdict);
  mark(at("verdict"), "data-level", counts.length > 0 ? counts[0][0] : "well");
  // Heard where it changes only, by those who do not see the page.
  write(at("said"), counts.length > 0 ? `Problems: ${verdict}` : "No problems");
  document.title = `${counts.length > 0 && counts[0][0] !== "notice" ? `(${verdict}) ` : ""}${found.node} · ${found.cluster} · Fiefdom`;
}

function more(id, count, words) {
  at(id).hidden = !count;
  write(at(id), count ? `${whole.format(count)} ${words}` : "");
}

function showWork(found) {
  const work = found.at_work;
  at("work").hidden = work === null;
  if (work === null) return;
  const body = at("work-body");
  if (body.firstChild === null) body.append(make("p", { class: "why" }), make("p", { class: "muted" }), make("div"));
  const life = work.kind === "person" || work.kind === "canary" ? "until somebody unlocks the cluster" : work.alive ? `at work, last sign of life ${lasted(work.silent_s)} ago` : `silent for ${lasted(work.silent_s)}: it may be dead`;
  write(body.children[0], work.why || "no reason is told");
  write(body.children[1], `${work.who}${work.since ? `, since ${clock(work.since)} (${lasted(since(work.since, found.at))})` : ""}; ${life}`);
  const steps = work.acts.flatMap((act) => act.services.map((s) => ({ what: act.what, ...s })));
  keyed(body.children[2], steps, (s) => `${s.what} ${s.service}`, () => {
    const node = make("div", { class: "step" });
    node.append(make("span", { class: "what" }), make("progress"), make("span", { class: "count" }), make("span", { class: "detail" }));
    return node;
  }, (node, step) => {
    const { done, turn, waits } = step.hosts;
    const all = done.length + turn.length + waits.length;
    write(node.children[0], `${step.service} ${step.from || "nothing"} → ${step.to || "nothing"}`);
    const bar = node.children[1];
    mark(bar, "aria-label", `${step.what} of ${step.service}`);
    mark(bar, "max", String(all || 1));
    mark(bar, "value", String(done.length));
    write(node.children[2], `${done.length} of ${many(all, "host")} done`);
    const detail = [turn.length > 0 && `at its turn: ${turn.join(", ")}`, waits.length > 0 && `waiting: ${waits.slice(0, 12).join(", ")}${waits.length > 12 ? ` and ${waits.length - 12} more` : ""}`];
    write(node.children[3], detail.filter(Boolean).join("; "));
  });
}

function showTiles(found) {
  const totals = found.totals;
  const errors = errorsOf(totals);
  const times = found.services.filter((s) => s.total_ms !== null && s.requests_s > 0);
  const weight = times.reduce((sum, s) => sum + s.requests_s, 0);
  const time = weight > 0 ? times.reduce((sum, s) => sum + s.total_ms * s.requests_s, 0) / weight : null;
  remember("requests", totals.requests_s);
  remember("errors", errors);
  remember("time", time);
  remember("up", totals.up);
  const connections = found.haproxy.connections ?? null;
  remember("connections", connections);
  const tiles = [
    { key: "requests", title: "Requests", value: rate(totals.requests_s), unit: "/s" },
    { key: "errors", title: "5xx and lost", value: rate(errors), unit: "/s", tone: errors > 0 ? "bad" : null },
    { key: "time", title: "Time of a request", value: time === null ? "–" : whole.format(time), unit: "ms" },
    { key: "up", title: "Instances up", value: whole.format(totals.up), unit: `of ${whole.format(totals.instances)}` },
    { key: "connections", title: "Connections", value: connections === null ? "–" : whole.format(connections), unit: found.haproxy.connections_max ? `of ${whole.format(found.haproxy.connections_max)}` : "" },
  ];
  keyed(at("tiles"), tiles, (tile) => tile.key, () => make("div", {}, make("dt"), make("dd", {}, make("span"), " ", make("small")), make("dd", { class: "drawn" })), (node, tile) => {
    mark(node, "data-tone", tile.tone);
    write(node.children[0], tile.title);
    write(node.children[1].firstChild, tile.value);
    write(node.children[1].lastChild, tile.unit);
    spark(node.children[2], tile.key);
  });
}

const NUMBERS = [
  { title: "Requests/s", number: true, cell: text((row) => rate(row.requests_s)) },
  { title: "5xx and lost/s", number: true, cell: (row, cell) => state(cell, errorsOf(row) > 0 ? "bad" : null, errorRate(row)) },
];

function serves(row) {
  if (row.closed) return ["info", "● closed"];
  if (row.up === 0) return ["bad", "✖ none up"];
  if (row.down > 0) return ["warn", "▲ some down"];
  return ["good", "✔ serving"];
}

const showServices = table("services", [
  { title: "Service", head: true, cell: (row, cell) => button(cell, row.name, row.kind === "tcp" ? "tcp" : "") },
  { title: "State", nowrap: true, cell: (row, cell) => state(cell, ...serves(row)) },
  { title: "Up", number: true, cell: text((row) => `${row.up} of ${row.instances}`) },
  { title: "Hosts", number: true, cell: text((row) => whole.format(row.hosts)) },
  { title: "Versions", wide: true, cell: (row, cell) => tags(cell, row.versions, (v) => [v.version, `${v.up}/${v.instances}${v.share === null ? "" : `, ${v.share} % wanted`}${row.versions.length > 1 && v.requests_s !== null ? `, ${rate(v.requests_s)}/s` : ""}`]) },
  ...NUMBERS,
  { title: "4xx/s", number: true, cell: text((row) => rate(row.errors_4xx_s)) },
  { title: "Retries/s", number: true, cell: text((row) => rate(row.retries_s)) },
  { title: "Time", number: true, cell: text((row) => millis(row.total_ms)) },
  { title: "Open", number: true, cell: text((row) => (row.queued > 0 ? `${row.sessions} (${row.queued} queued)` : whole.format(row.sessions))) },
], () => (filterText() ? "No service has that in its name." : "No service is routed."));

const MEMBERS = {
  alive: ["good", "✔ member"], leaving: ["info", "● leaving"], left: ["warn", "▲ left"], failed: ["bad", "✖ failed"],
  drains: ["bad", "✖ failed while leaving"], absent: ["bad", "✖ not seen"],
};

const showHosts = table("hosts", [
  { title: "Host", head: true, cell: (row, cell) => button(cell, row.name, row.known ? "" : "not in the inventory") },
  { title: "Member", nowrap: true, cell: (row, cell) => state(cell, ...(MEMBERS[row.status] ?? ["quiet", row.status])) },
  { title: "Address", nowrap: true, cell: text((row) => row.address || "–") },
  { title: "Up", number: true, cell: (row, cell) => state(cell, row.up < row.instances ? "warn" : null, `${row.up} of ${row.instances}`) },
  { title: "Offers", wide: true, cell: (row, cell) => tags(cell, [...row.offers, ...row.missing.map((service) => ({ service }))], (o) => (o.version === undefined ? [o.service, "is not offered"] : [o.service, `${o.version} on ${o.first_port === o.last_port ? o.first_port : `${o.first_port}–${o.last_port}`}, ${o.up}/${o.instances} up`])) },
  ...NUMBERS,
], () => (filterText() ? "No host has that in its name, or offers it." : "No app host is known."));

const SERVERS = { up: ["good", "✔ up"], down: ["bad", "✖ down"], drain: ["info", "● draining"], maint: ["quiet", "○ out"] };

const showInstances = table("instances", [
  { title: "Instance", head: true, cell: text((row) => `${row.host}:${row.port}`) },
  { title: "Service", cell: text((row) => row.service) },
  { title: "Version", cell: text((row) => row.version ?? "leaves") },
  { title: "State", nowrap: true, cell: (row, cell) => state(cell, ...(SERVERS[row.state] ?? ["quiet", row.state])) },
  { title: "For", number: true, cell: text((row) => lasted(row.since_s)) },
  ...NUMBERS,
  { title: "Time", number: true, cell: text((row) => millis(row.total_ms)) },
  { title: "Open", number: true, cell: text((row) => whole.format(row.sessions)) },
  { title: "Last check", wide: true, cell: (row, cell) => { write(cell, row.check); mark(cell, "class", row.check ? "wide" : "wide bare"); } },
], () => (filterText() ? "No instance is of a service or host with that in its name." : "HAProxy has no instance."));

const showRefused = table("refused", [
  { title: "Member", head: true, cell: text((row) => row.member) },
  { title: "Why", wide: true, cell: text((row) => row.reason) },
], "No member is refused.");

function days(row) {
  if (row.days === null) return ["bad", "none yet"];
  if (row.days < 0) return ["bad", `✖ ended ${many(-row.days, "day")} ago`];
  return [row.days < 3 ? "bad" : row.days < 21 ? "warn" : "good", `${row.days < 21 ? "▲ " : ""}${many(row.days, "day")}`];
}

const showCertificates = table("certificates", [
  { title: "Certificate", head: true, cell: text((row) => row.name) },
  { title: "Days left", nowrap: true, cell: (row, cell) => state(cell, ...days(row)) },
  { title: "Ends", nowrap: true, cell: text((row) => (row.ends ? row.ends.slice(0, 10) : "–")) },
  { title: "Names", wide: true, cell: text((row) => row.names.join(", ")) },
  { title: "From", cell: text((row) => (row.error ? `an authority: ${row.error}` : row.obtained ? "an authority" : "the inventory")) },
], "This gateway serves no certificate.");

const OUTCOMES = { ok: ["good", "✔ ok"], failed: ["bad", "✖ failed"], interrupted: ["warn", "▲ interrupted"], running: ["info", "● running"], unknown: ["quiet", "○ no end is told"] };

const showAudit = table("audit", [
  { title: "When (UTC)", head: true, cell: text((row) => row.at.replace("T", " ").replace("Z", "")) },
  { title: "What", cell: text((row) => row.what) },
  { title: "Who", cell: text((row) => row.who) },
  { title: "Outcome", nowrap: true, cell: (row, cell) => state(cell, ...(OUTCOMES[row.outcome] ?? ["quiet", row.outcome])) },
  { title: "Took", number: true, cell: text((row) => (row.took_s === null ? "–" : lasted(row.took_s))) },
  { title: "Services", wide: true, cell: (row, cell) => tags(cell, row.services, (s) => [s.service, `${s.from || "nothing"} → ${s.to || "nothing"}`]) },
  { title: "Hosts", wide: true, cell: text((row) => (row.hosts.length + row.hosts_more > 6 ? `${row.hosts.slice(0, 5).join(", ")} and ${row.hosts.length - 5 + row.hosts_more} more` : row.hosts.join(", "))) },
  { title: "Note", wide: true, cell: (row, cell) => { write(cell, row.note); mark(cell, "class", row.note ? "wide" : "wide bare"); } },
], "Nothing was done yet that this gateway knows of.");

// The pages of all gateways are on one port.
function pageOf(address) {
  if (!/^[0-9a-f.:]+$/i.test(address)) return null;
  return `http://${address.includes(":") ? `[${address}]` : address}:${location.port || 80}/`;
}

function showGateways(found) {
  const others = found.gateways.length > 0 ? found.gateways : [{ name: found.node, self: true, status: "alive" }];
  keyed(at("gateways"), others, (g) => g.name, () => make("li", {}, make("a"), make("span", { class: "muted" })), (node, gateway) => {
    const link = node.firstChild;
    mark(link, "href", gateway.self ? "/" : pageOf(gateway.address));
    mark(link, "aria-current", gateway.self ? "page" : null);
    write(link, gateway.self ? `${gateway.name} (this gateway)` : gateway.name);
    write(node.lastChild, gateway.status === "alive" ? "" : ` ${gateway.status}`);
  });
}

function showAbout(found) {
  const about = [
    ["HAProxy", found.haproxy.error === null ? `up ${lasted(found.haproxy.uptime_s)}` : "does not answer"],
    ["Serf", found.serf.ok ? "answers" : found.serf.error],
    ["Configuration", found.config.ok ? `taken up, ${(found.config.digest ?? "").slice(0, 12)}` : "refused, the last good one runs"],
    ["Members looked at", found.reconciled_s_ago === null ? "not yet" : `${lasted(found.reconciled_s_ago)} ago`],
    ["Rates over", found.window_s === null ? "a moment more" : lasted(found.window_s)],
  ];
  keyed(at("about"), about, ([title]) => title, ([title]) => make("div", {}, make("dt", {}, title), make("dd")), (node, [, words]) => write(node.lastChild, words));
}

// --- The filter

const filterText = () => at("filter").value.trim().toLowerCase();

function filterBy(name) {
  const field = at("filter");
  field.value = field.value === name ? "" : name;
  filtered();
  field.focus();
}

function filtered() {
  const wanted = at("filter").value.trim();
  const address = new URL(location.href);
  address.hash = wanted ? new URLSearchParams({ of: wanted }) : "";
  window.history.replaceState(null, "", address);
  if (shown !== null) showRows(shown);
  ask(); // there may be more of it than was told
}

function showRows(found) {
  const wanted = filterText();
  const has = (...names) => names.some((name) => name.toLowerCase().includes(wanted));
  const services = found.services.filter((s) => has(s.name) || found.instances.some((i) => i.service === s.name && has(i.host)));
  const hosts = found.hosts.filter((h) => has(h.name, ...h.offers.map((o) => o.service), ...h.missing));
  const instances = found.instances.filter((i) => has(i.service, i.host));
  showServices(services, (s) => s.name);
  showHosts(hosts, (h) => h.name);
  showInstances(instances, (i) => `${i.service} ${i.host} ${i.port}`);
  more("hosts-more", found.hosts_more, "more hosts: filter by a name to see them");
  more("instances-more", found.instances_more, "more instances: filter by a service or host to see them");
  write(at("n-services"), whole.format(found.totals.services));
  write(at("n-hosts"), whole.format(found.totals.hosts));
  write(at("n-instances"), `${whole.format(found.totals.up)} of ${whole.format(found.totals.instances)} up`);
  write(at("filter-found"), wanted ? `${many(services.length, "service")}, ${many(hosts.length, "host")}, ${many(instances.length, "instance")}` : "");
}

function show(found) {
  write(at("cluster"), found.cluster);
  write(at("node"), found.node);
  showProblems(found);
  showWork(found);
  showTiles(found);
  showRows(found);
  at("refused-part").hidden = found.refused.length === 0;
  showRefused(found.refused, (r) => `${r.member} ${r.reason}`);
  more("refused-more", found.refused_more, "more are refused");
  at("certificates-part").hidden = found.certificates.length === 0;
  showCertificates(found.certificates, (c) => c.name);
  at("audit-error").hidden = found.audit_error === null;
  write(at("audit-error"), found.audit_error ?? "");
  showAudit(found.audit, (a) => `${a.run} ${a.what} ${a.at}`);
  showGateways(found);
  showAbout(found);
}

// --- Asking

function fresh() {
  const live = silentSince === null && answeredAt !== null;
  mark(at("freshness"), "data-live", live ? "yes" : "no");
  write(at("age"), answeredAt === null ? "not answered yet" : document.hidden ? "paused" : live ? `live, ${clock(answeredAt)}` : `of ${clock(answeredAt)}, asked ${failures === 1 ? "once" : `${failures} times`} since`);
  mark(document.body, "data-stale", silentSince === null ? null : "yes");
  if (silentSince !== null) write(at("silence"), `The gateway is not answering since ${clock(silentSince)}.${answeredAt === null ? "" : " What stands here is of before."}`);
  else if (files !== null && files.old) write(at("silence"), "The gateway was updated and has another page by now: load this one anew.");
  else write(at("silence"), "");
}

async function ask() {
  clearTimeout(timer);
  if (asking !== null) asking.abort();
  const own = new AbortController();
  asking = own;
  const late = setTimeout(() => own.abort("late"), LATE_MS);
  try {
    const wanted = at("filter").value.trim();
    const answer = await fetch(`/fiefdom/state.json${wanted ? `?${new URLSearchParams({ of: wanted })}` : ""}`, { signal: own.signal, cache: "no-store", headers: { Accept: "application/json" } });
    if (!answer.ok) throw new Error(`status ${answer.status}`);
    const found = await answer.json();
    if (asking !== own) return;
    files ??= { name: found.files, old: false };
    files.old = found.files !== files.name || found.format !== FORMAT;
    failures = 0;
    silentSince = null;
    answeredAt = Date.now();
    if (found.format === FORMAT) {
      shown = found;
      show(found);
    }
  } catch (error) {
    if (asking !== own) return; // another question took its place
    failures += 1;
    silentSince ??= Date.now();
    if (error.name !== "AbortError" && error !== "late" && !(error instanceof TypeError)) console.info(`asked again: ${error.message}`);
  } finally {
    clearTimeout(late);
    if (asking === own) {
      asking = null;
      fresh();
      if (!document.hidden) timer = setTimeout(ask, failures === 0 ? EVERY_MS : BACKOFF_MS[Math.min(failures, BACKOFF_MS.length) - 1]);
    }
  }
}

at("filter").value = new URLSearchParams(location.hash.slice(1)).get("of") ?? "";
at("filter").addEventListener("input", filtered);
at("filter-form").addEventListener("submit", (event) => event.preventDefault());
document.addEventListener("visibilitychange", () => {
  if (document.hidden) {
    clearTimeout(timer);
    fresh();
  } else ask();
});
ask();
