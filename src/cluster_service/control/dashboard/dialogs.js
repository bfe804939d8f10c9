// What is asked before a command is given: a sentence that names what will happen, and the command's own arguments.
// The fields are made from the command's definition (GET /api/v1/commands), so a custom command has a form as well.

import { byId, make, show, write } from "./dom.js";
import { count } from "./words.js";

/** Arguments that stand at the top of the form; the others are under "More settings". */
const FIRST = { upgrade: ["target", "cwd", "test", "monitor"], scale: ["change"], start: ["target", "group", "workers"] };

const workersOf = (state, selector) => {
  const rows = state.workers?.workers ?? [];
  return rows.filter((worker) => selector === "all" || worker.group === selector
    || `${worker.group}.${worker.slot}` === selector);
};

const whom = (state, selector) => {
  const many = count(workersOf(state, selector).length, "worker");
  if (selector === "all") return `all workers of the service (${many})`;
  return workersOf(state, selector).every((worker) => worker.group === selector)
    ? `the group ${selector} (${many})` : `the worker ${selector}`;
};

/** Command → what will happen, in sentences, and the word on the button that does it. */
const SAYS = {
  restart: (state, { selector }) => [`Restart ${selector}?`, "Restart",
    `New processes of the same release replace ${whom(state, selector)}. None is stopped before its successor serves.`],
  scale: (state, { group }) => [`Scale ${group}`, "Scale",
    `The group ${group} has ${count(state.info?.groups?.[group]?.wanted ?? 0, "worker")} now. Say how many it shall have (4), or how many more or fewer (+1, -1).`],
  upgrade: (state, { selector }) => [`Upgrade ${selector}`, "Upgrade",
    "The new code is checked, tried by one worker that is watched, and then takes over worker by worker. If it is bad at any moment of that, every worker is put back on the code that it has now."],
  rollback: (state, { selector }) => [`Roll ${selector} back?`, "Roll back",
    `${whom(state, selector).replace(/^./, (first) => first.toUpperCase())} goes back to the release that was promoted before this one, ready-first. If that does not work any more, this one stays.`],
  cancel: (state, { operation }) => [`Cancel operation ${operation}?`, "Cancel the operation",
    `“${state.current?.command ?? operation}” is undone: every worker is put back on the code that it had.`],
  shutdown: (state, { selector }) => selector === "all"
    ? [`Shut ${state.info?.name ?? "the service"} down?`, "Shut the service down",
      `${count(workersOf(state, selector).length, "worker")} end gracefully, and the service ends with them: nobody answers${state.info?.ports?.length ? ` on ${state.info.ports.join(", ")}` : ""} and at this page any more, until it is started again on the machine itself.`]
    : [`Shut ${selector} down?`, "Shut down",
      `${whom(state, selector).replace(/^./, (first) => first.toUpperCase())} ends gracefully and is not replaced.`],
};

const DANGEROUS = new Set(["shutdown", "exit"]);

/** Whether the page asks for this command in words of its own, beside the thing that it is about. */
export const hasButton = (name) => name in SAYS;

/**
 * Ask, and give the command when the answer is yes. `command`: its definition; `given`: the arguments that are
 * settled; `filled`: suggestions for others. `give(name, arguments)` is awaited; what it refuses is shown in the dialog.
 */
export function ask(state, command, given, filled, give) {
  const [title, verb, sentence] = SAYS[command.name]?.(state, given)
    ?? [command.name, `Give ${command.name}`, command.doc];
  const first = FIRST[command.name] ?? [];
  const open = command.parameters.filter(({ name }) => !(name in given) && name !== "no_wait");
  const [shown, more] = [[], []];
  for (const parameter of open) {
    const known = command.name in SAYS || command.name in FIRST;
    (parameter.required || !known || first.includes(parameter.name) ? shown : more).push(parameter);
  }
  const error = make("p", { className: "error", role: "alert", hidden: true });
  const inputs = new Map();
  const fieldsOf = (parameters) => parameters.map((parameter) => {
    const input = inputOf(parameter, filled[parameter.name]);
    inputs.set(parameter, input);
    return field(parameter, input);
  });
  const cancel = make("button", { type: "button", textContent: "Go back", onclick: () => byId("dialog").close() });
  const go = make("button", { type: "submit", textContent: verb, className: DANGEROUS.has(command.name) ? "danger" : "primary" });
  const form = make("form", {},
    make("h2", { id: "dialog-title", textContent: title }),
    make("p", { className: "sentence", textContent: sentence }),
    ...fieldsOf(shown),
    more.length ? make("details", { className: "more" }, make("summary", { textContent: "More settings" }), ...fieldsOf(more)) : null,
    error, make("div", { className: "line end" }, cancel, go));
  form.addEventListener("submit", async (submitted) => {
    submitted.preventDefault();
    show(error, false);
    go.disabled = true;
    try {
      const result = await give(command.name, { ...given, ...collected(inputs) });
      if (byId("dialog").firstElementChild !== form) return;
      if (result.id && result.steps) byId("dialog").close();
      else tell(command.name, result);
    } catch (refusal) {
      write(error, refusal.sentence ?? "The service does not answer. It is not known whether the command has arrived.");
      show(error, true);
    } finally {
      go.disabled = false;
    }
  });
  present(form, shown.length ? inputs.get(shown[0]) : DANGEROUS.has(command.name) ? cancel : go);
}

/** Let one of `commands` be chosen; `choose(command)`. */
export function choose(commands, chosen) {
  present(make("div", {},
    make("h2", { id: "dialog-title", textContent: "More commands" }),
    make("ul", { className: "choice" }, ...commands.map((command) => make("li", {},
      make("button", { type: "button", textContent: command.name, onclick: () => chosen(command) }),
      make("span", { textContent: command.doc.split("\n")[0] })))),
    make("div", { className: "line end" }, make("button", { type: "button", textContent: "Go back", onclick: () => byId("dialog").close() }))));
}

/** Show what a command has answered. */
function tell(name, result) {
  const close = make("button", { type: "button", textContent: "Close", onclick: () => byId("dialog").close() });
  present(make("div", {},
    make("h2", { id: "dialog-title", textContent: name }),
    make("pre", { textContent: JSON.stringify(result, null, 2) }),
    make("div", { className: "line end" }, close)), close);
}

function present(content, focus) {
  const dialog = byId("dialog");
  dialog.replaceChildren(content);
  if (!dialog.open) dialog.showModal();
  focus?.focus();
}

// -- fields ------------------------------------------------------------------------------------------------------------

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
    return make("select", { name: parameter.name }, ...options.map((option) => make("option", { textContent: option })));
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
