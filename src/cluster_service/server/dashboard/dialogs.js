// What is asked before a command is given: a sentence that names what will happen, and the command's own arguments.
// The fields are made from the command's definition (GET /api/v1/commands), so a custom command has a form as well.

import { byId, make, show, write } from "./dom.js";
import { count } from "./words.js";

/** Arguments that stand at the top of the form; the others are under "More settings". */
const FIRST = {
  upgrade: ["target", "cwd", "test", "monitor"], scale: ["change"], start: ["target", "group", "workers"],
};

const workersOf = (state, selector) => (state.workers?.workers ?? []).filter((worker) =>
  ["all", worker.group, `${worker.group}.${worker.slot}`].includes(selector));

const isGroup = (state, selector) => workersOf(state, selector).every((worker) => worker.group === selector);

/** Whom a selector means, with their number: to be asked for "web" and hit forty is no surprise then. */
function whom(state, selector) {
  const many = count(workersOf(state, selector).length, "worker");
  if (selector === "all") return `all workers of the service (${many})`;
  return isGroup(state, selector) ? `the group ${selector} (${many})` : `the worker ${selector}`;
}

const capital = (text) => text.charAt(0).toUpperCase() + text.slice(1);

function endOfService({ info, workers }) {
  const many = workers?.workers.length ?? 0;
  const ports = info?.ports?.length ? ` on ${info.ports.join(", ")}` : "";
  return `${count(many, "worker")} ${many === 1 ? "ends" : "end"} gracefully, and the service ends with them: nobody answers${ports} and at this page any more, `
    + "until it is started again on the machine itself.";
}

/** Command → the question, the word on the button that does it, and what will happen. */
const SAYS = {
  restart: (state, { selector }) => [`Restart ${selector}?`, "Restart",
    `New processes of the same release replace ${whom(state, selector)}. None is stopped before its successor serves.`],
  scale: (state, { group }) => [`Scale ${group}`, "Scale",
    `The group ${group} has ${count(state.info?.groups?.[group]?.wanted ?? 0, "worker")} now. Say how many it shall `
    + "have (4), or how many more or fewer (+1, -1)."],
  upgrade: (state, { selector }) => [`Upgrade ${selector}`, "Upgrade",
    "The new code is checked, tried by one worker that is watched, and then takes over worker by worker. If it is bad "
    + "at any moment of that, every worker is put back on the code that it has now."],
  rollback: (state, { selector }) => [`Roll ${selector} back?`, "Roll back",
    `${capital(whom(state, selector))} goes back to the release that was promoted before this one, ready-first. `
    + "If that does not work any more, this one stays."],
  cancel: (state, { operation }) => [`Cancel operation ${operation}?`, "Cancel the operation",
    `“${state.current?.command ?? operation}” is undone: every worker is put back on the code that it had.`],
  shutdown: (state, { selector }) => selector === "all"
    ? [`Shut ${state.info?.name ?? "the service"} down?`, "Shut the service down", endOfService(state)]
    : [`Shut ${selector} down?`, "Shut down", `${capital(whom(state, selector))} ends gracefully and is not replaced.`],
};

const DANGEROUS = new Set(["shutdown", "exit"]);

/** Whether the page asks for this command in words of its own, beside the thing that it is about. */
export const hasButton = (name) => name in SAYS;

/**
 * Ask, and give the command when the answer is yes. `command`: its definition; `given`: the arguments that are
 * settled; `filled`: suggestions for others. `give(name, arguments)` is awaited; its refusal is shown in the dialog.
 */
export function ask(state, command, given, filled, give) {
  const says = command.custom ? undefined : SAYS[command.name];
  const [title, verb, sentence] = says?.(state, given) ?? [command.name, `Give ${command.name}`, command.doc];
  const danger = DANGEROUS.has(command.name);
  const first = FIRST[command.name] ?? (says ? [] : command.parameters.map(({ name }) => name));
  const inputs = new Map();
  for (const parameter of command.parameters) {
    if (parameter.name in given || parameter.name === "no_wait") continue;
    inputs.set(parameter, inputOf(parameter, filled[parameter.name]));
  }
  const isFirst = ([{ name, required }]) => required || first.includes(name);
  const shown = [...inputs].filter(isFirst);
  const more = [...inputs].filter((entry) => !isFirst(entry));
  const fields = (entries) => entries.map(([parameter, input]) => field(parameter, input));

  const error = make("p", { className: "error", role: "alert", hidden: true });
  const cancel = make("button", { type: "button", textContent: "Go back", onclick: leave });
  const go = make("button", { type: "submit", textContent: verb, className: danger ? "danger" : "primary" });
  const form = make("form", {},
    make("h2", { id: "dialog-title", textContent: title }),
    make("p", { className: "sentence", textContent: sentence }),
    ...fields(shown),
    more.length ? make("details", { className: "more" },
      make("summary", { textContent: "More settings" }), ...fields(more)) : null,
    error, make("div", { className: "line end" }, cancel, go));

  let underWay = false;
  form.addEventListener("submit", async (submitted) => {
    submitted.preventDefault();
    if (underWay) return;
    underWay = true;
    show(error, false);
    try {
      const result = await give(command.name, { ...given, ...collected(inputs) });
      if (!form.isConnected) return;
      if (result.id && result.steps) leave();
      else tell(command.name, result);
    } catch (refusal) {
      write(error, refusal.sentence ?? "The service does not answer. It is not known whether the command has arrived.");
      show(error, true);
    } finally {
      underWay = false;
    }
  });
  present(form, shown.length ? shown[0][1] : danger ? cancel : go);
}

/** Let one of `commands` be chosen; `chosen(command)`. */
export function choose(commands, chosen) {
  const items = commands.map((command) => make("li", {},
    make("button", { type: "button", textContent: command.name, onclick: () => chosen(command) }),
    make("span", { textContent: command.doc.split("\n")[0] })));
  present(make("div", {},
    make("h2", { id: "dialog-title", textContent: "More commands" }),
    make("ul", { className: "choice" }, ...items),
    make("div", { className: "line end" },
      make("button", { type: "button", textContent: "Go back", onclick: leave }))));
}

/** Show what a command has answered. */
function tell(name, result) {
  const close = make("button", { type: "button", textContent: "Close", onclick: leave });
  present(make("div", {},
    make("h2", { id: "dialog-title", textContent: name }),
    make("pre", { textContent: JSON.stringify(result, null, 2) }),
    make("div", { className: "line end" }, close)), close);
}

const leave = () => byId("dialog").close();

function present(content, focus) {
  const dialog = byId("dialog");
  dialog.replaceChildren(content);
  if (!dialog.open) dialog.showModal();
  focus?.focus();
}

// -- fields ---------------------------------------------------------------------------------------------------------

const SPOKEN = { caller: "a directory of the service’s machine", file: "a path on the service’s machine" };

function field(parameter, input) {
  const label = parameter.name.replaceAll("_", " ");
  const about = parameter.many ? `${parameter.doc}; one a line` : parameter.doc;
  const texts = [make("b", { textContent: label }), " ", make("small", { textContent: about })];
  return input.type === "checkbox"
    ? make("label", { className: "check" }, input, " ", ...texts)
    : make("label", {}, ...texts, input);
}

function inputOf(parameter, value) {
  if (parameter.kind === "flag") return make("input", { type: "checkbox", name: parameter.name });
  if (parameter.choices) {
    const options = parameter.required ? parameter.choices : ["", ...parameter.choices];
    return make("select", { name: parameter.name },
      ...options.map((option) => make("option", { textContent: option })));
  }
  const props = { name: parameter.name, required: parameter.required, spellcheck: false, autocomplete: "off" };
  const hint = SPOKEN[parameter.kind] ?? (parameter.default ? `default: ${parameter.default}` : "");
  if (parameter.many) return make("textarea", { ...props, rows: 2, placeholder: hint });
  return make("input", { ...props, type: "text", placeholder: hint, value: value ?? "" });
}

/** What was typed: what was left empty is not sent. */
function collected(inputs) {
  const found = {};
  for (const [{ name, many }, input] of inputs) {
    if (input.type === "checkbox") {
      if (input.checked) found[name] = true;
    } else if (many) {
      const lines = input.value.split("\n").filter((line) => line !== "");
      if (lines.length) found[name] = lines;
    } else if (input.value !== "") found[name] = input.value;
  }
  return found;
}
