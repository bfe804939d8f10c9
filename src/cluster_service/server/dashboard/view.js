// The page from what is known. Nothing here asks the door; `act(command, given)` is told what a button wants.

import { byId, keyed, make, show, write } from "./dom.js";
import { bytes, clock, count, fields, number, percent, progress, span, weight } from "./words.js";

const MOST_EVENTS = 300;

/** Draw what the last answers said. `state`: info, health, workers, operations, each perhaps null; may(command). */
export function draw(state, act) {
  drawService(state, act);
  drawGroups(state, act);
  drawWorkers(state, act);
  drawCurrent(state, act);
  drawOperations(state);
}

function button(text, label, action, kind = "") {
  return make("button", { type: "button", textContent: text, ariaLabel: label, className: kind, onclick: action });
}

// -- the service as a whole -----------------------------------------------------------------------------------------

const SERVICE_BUTTONS = [
  ["restart", "Restart all", ""],
  ["shutdown", "Shut down", "danger"],
];

function drawService({ info, health, workers, may, others }, act) {
  const name = info?.name ?? workers?.service;
  if (name) {
    write(byId("name"), name);
    document.title = `${name}${health && health.status !== "ok" ? ` (${health.status})` : ""} · cluster-service`;
  }
  const pill = byId("health");
  show(pill, Boolean(health));
  if (health) {
    pill.dataset.state = health.status;
    write(pill, `${health.status} · ${health.serving} of ${health.wanted} serving`);
  }
  const facts = info
    ? [`up ${span(info.uptime_s)}`, `pid ${info.pid}`, `version ${info.version}`,
       info.ports?.length ? `on ${info.ports.join(", ")}` : "no port", info.share && `shared by ${info.share}`,
       info.safe_mode && "safe mode: without hooks"]
    : [];
  write(byId("facts"), facts.filter(Boolean).join(" · "));
  const wanted = SERVICE_BUTTONS.filter(([command]) => may(command));
  if (others.length) wanted.push(["", "More…", ""]);
  keyed(byId("service-buttons"), wanted, ([command]) => command,
    ([command, text, kind]) => button(text, text, () => act(command, command && { selector: "all" }), kind), () => {});
}

// -- groups and workers ---------------------------------------------------------------------------------------------

/** Make a row of `names.length` cells and one for buttons; on a narrow page each cell says its name. */
function row(names, classes = {}) {
  const cells = names.map((name) =>
    make("td", { role: "cell", className: classes[name] ?? "", "data-label": name }));
  return make("tr", { role: "row" }, ...cells, make("td", { role: "cell", className: "buttons" }));
}

const GROUP_BUTTONS = [
  ["restart", "Restart", (name) => ({ selector: name })],
  ["scale", "Scale…", (name) => ({ group: name })],
  ["upgrade", "Upgrade…", (name) => ({ selector: name })],
  ["rollback", "Roll back", (name) => ({ selector: name })],
  ["shutdown", "Shut down", (name) => ({ selector: name })],
];

function drawGroups({ info, health, may }, act) {
  const groups = Object.entries(info?.groups ?? {});
  show(byId("groups-section"), Boolean(info));
  const only = groups.length === 1;  // the service's own buttons restart it and end it
  keyed(byId("groups").tBodies[0], groups, ([name]) => name,
    () => row(["Group", "Serving", "Generation", "Runs"], { Group: "name", Runs: "runs" }),
    (line, [name, group]) => {
      const [first, serving, generation, runs, last] = line.cells;
      write(first, name);
      write(serving, `${group.serving} of ${group.wanted}`);
      serving.dataset.state = group.serving < group.wanted ? "waiting" : "serving";
      write(generation, group.generation);
      write(runs, group.cwd ? `${group.target} in ${group.cwd}` : group.target);
      const wanted = GROUP_BUTTONS.filter(([command]) => may(command) && !(only && command === "shutdown"));
      keyed(last, wanted, ([command]) => command,
        ([command, text, given]) => button(text, `${text} ${name}`, () => act(command, given(name))), () => {});
    });
  const problems = health?.problems ?? [];
  keyed(byId("problems"), problems, (one) => `${one.group}.${one.slot}`, () => make("li"),
    (line, one) => write(line, `${one.group}.${one.slot} is ${one.state}${one.detail ? `: ${one.detail}` : ""}`));
}

const WORKER_CELLS = ["Worker", "State", "Pid", "Generation", "Uptime", "Memory", "CPU", "Connections", "Restarts"];
const WORKER_CLASSES = { Worker: "name", State: "state",
  ...Object.fromEntries(WORKER_CELLS.slice(2).map((name) => [name, "number"])) };

function drawWorkers({ workers, may }, act) {
  show(byId("workers-section"), Boolean(workers));
  const rows = workers?.workers ?? [];
  const named = (worker) => `${worker.group}.${worker.slot}`;
  // while a successor starts, a slot has two workers: the number tells them apart
  const seen = new Map();
  const keys = rows.map((worker) => {
    const nth = (seen.get(named(worker)) ?? 0) + 1;
    seen.set(named(worker), nth);
    return `${named(worker)}/${nth}`;
  });
  keyed(byId("workers").tBodies[0], rows, (worker) => keys[rows.indexOf(worker)],
    () => row(WORKER_CELLS, WORKER_CLASSES),
    (line, worker) => {
      const name = named(worker);
      const next = worker.next_try_s ? `, next try in ${span(Math.ceil(worker.next_try_s))}` : "";
      const said = worker.status ? `: ${worker.status}` : "";
      const values = [name, `${worker.state}${worker.not_listening ? " (not listening)" : ""}${next}${said}`, number(worker.pid), worker.generation,
        span(worker.uptime_s), bytes(worker.memory_bytes), percent(worker.cpu_percent), number(worker.connections),
        worker.restarts];
      values.forEach((value, index) => write(line.cells[index], value));
      line.cells[1].dataset.state = worker.state;
      const listens = worker.listening?.length ? `, listens on ${worker.listening.join(", ")}` : "";
      line.title = `${worker.target} in ${worker.cwd}${listens}`;
      const leaves = worker.state === "draining" || worker.state === "stopping";
      keyed(line.cells[values.length], may("restart") && !leaves ? [name] : [], () => "restart",
        () => button("Restart", `Restart ${name}`, () => act("restart", { selector: name })), () => {});
    });
}

// -- operations -----------------------------------------------------------------------------------------------------

const STAGES = ["check", "dark", "canary", "roll", "bake"];

/** The steps, numbered from the first that there ever was. */
function drawSteps(list, operation) {
  const dropped = operation.steps_dropped ?? 0;
  list.start = dropped + 1;
  const steps = operation.steps.map((step, index) => ({ ...step, key: `${step.at} ${index + dropped}` }));
  keyed(list, steps, (step) => step.key,
    (step) => make("li", {}, make("time", { dateTime: step.at, textContent: clock(step.at) }), " ", step.text),
    () => {});
}

/** The operation that runs, else the one that was seen to end. */
function drawCurrent({ current, may }, act) {
  const place = byId("current");
  show(place, Boolean(current));
  keyed(place, current ? [current] : [], (operation) => operation.id, () =>
    make("div", { className: "card operation" },
      make("div", { className: "line" }, make("h2"), make("span", { className: "pill" }),
        make("span", { className: "grow" }),
        make("span", { className: "buttons" })),
      make("ol", { className: "stages" }),
      make("progress", { ariaLabel: "Workers replaced" }),
      make("pre", { className: "reason" }),
      make("ol", { className: "steps" })),
  (card, operation) => {
    const running = operation.state === "running";
    const [title, pill, , buttons] = card.querySelector(".line").children;
    write(title, operation.command);
    pill.dataset.state = operation.state;
    write(pill, progress(operation));
    keyed(buttons, running ? (may("cancel") ? ["cancel"] : []) : ["close"], (kind) => kind,
      (kind) => kind === "cancel"
        ? button("Cancel…", `Cancel ${operation.command}`, () => act("cancel", { operation: operation.id }))
        : button("Close", "Close the report of the operation", () => act("close", null), "quiet"), () => {});
    const [stages, bar, reason, steps] = [...card.children].slice(1);
    keyed(stages, operation.stage ? STAGES : [], (stage) => stage, (stage) => make("li", { textContent: stage }),
      (item, stage) => { item.ariaCurrent = stage === operation.stage ? "step" : "false"; });
    show(bar, running && operation.of > 0);
    bar.max = operation.of || 1;
    bar.value = operation.replaced;
    show(reason, Boolean(operation.reason));
    write(reason, operation.reason ?? "");
    drawSteps(steps, operation);
  });
}

function drawOperations({ operations }) {
  show(byId("operations-section"), Boolean(operations));
  keyed(byId("operations"), operations ?? [], (operation) => operation.id, () =>
    make("details", { className: "operation" },
      make("summary", {}, make("span", { className: "pill" }), " ", make("span", { className: "command" }), " ",
        make("time")),
      make("pre", { className: "reason" }), make("ol", { className: "steps" })),
  (item, operation) => {
    const [summary, reason, steps] = item.children;
    const [pill, command, when] = summary.children;
    pill.dataset.state = operation.state;
    write(pill, operation.state);
    write(command, operation.command);
    when.dateTime = operation.started_at ?? "";
    write(when, clock(operation.started_at));
    show(reason, Boolean(operation.reason));
    write(reason, operation.reason ?? "");
    drawSteps(steps, operation);
  });
}

// -- events ---------------------------------------------------------------------------------------------------------

/** Put an event on top. */
export function drawEvent(event) {
  const list = byId("events");
  const missed = event.count === null ? "what happened before the service began anew" : count(event.count, "event");
  list.prepend(make("li", { className: weight(event) },
    make("time", { dateTime: event.at ?? "", textContent: clock(event.at) }), " ",
    make("b", { textContent: event.event }), " ",
    make("span", { textContent: event.event === "missed" ? `${missed} can be told no more` : fields(event) })));
  while (list.children.length > MOST_EVENTS) list.lastElementChild.remove();
}

/** Say in the events' place why there are none. */
export function drawNoEvents(sentence) {
  byId("events").replaceChildren(make("li", { className: "bad", textContent: sentence }));
}

export const clearEvents = () => byId("events").replaceChildren();
