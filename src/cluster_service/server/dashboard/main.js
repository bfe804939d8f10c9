// A key is asked for, and a session lasts from then until it is forgotten. The key stays in this page's memory; only
// who ticks "Keep it" has it in the tab's sessionStorage too, from where a reloaded page takes it again.

import { ask, choose, hasButton } from "./dialogs.js";
import { byId, show, write } from "./dom.js";
import { Door, Gone } from "./door.js";
import { Session } from "./session.js";
import { clearEvents, draw } from "./view.js";

const KEPT = "cluster-service access key";

let session = null;

/** What the view needs to know of a session, or of none. */
function shown() {
  const { info, health, workers, operations, current, commands } = session ?? { commands: new Map() };
  const may = (name) => commands.get(name)?.allowed === true;
  const others = [...commands.values()].filter((one) => one.allowed && one.changes && !hasButton(one.name));
  return { info, health, workers, operations, current, commands, may, others };
}

const redraw = () => draw(shown(), act);

/** A button was pressed: ask, and give the command. */
function act(name, given) {
  const here = session;
  const state = shown();
  if (name === "close") {
    here.current = null;
    redraw();
  } else if (name === "") {
    choose(state.others, (command) => act(command.name, {}));
  } else {
    const group = state.info?.groups?.[given.selector];
    const filled = name === "upgrade" && group ? { target: group.target, cwd: group.cwd } : {};
    ask(state, state.commands.get(name), given, filled, (command, all) => here.give(command, all));
  }
}

// -- the key --------------------------------------------------------------------------------------------------------

async function open(key, keep) {
  const started = new Session(new Door(key), { changed: redraw, refused: close });
  try {
    await started.learnCommands();
  } catch (error) {
    close(error instanceof Gone ? "The service does not answer. Is it running?" : error.sentence ?? String(error));
    return;
  }
  if (keep) sessionStorage.setItem(KEPT, key);
  session = started;
  for (const id of ["live", "forget"]) show(byId(id), true);
  show(byId("sign-in"), false);
  byId("key").value = "";
  started.begin();
}

/** Forget the key and everything that was shown for it; ask for another one, and say why. */
function close(sentence = "") {
  session?.end();
  session = null;
  sessionStorage.removeItem(KEPT);
  byId("dialog").close();
  clearEvents();
  redraw();
  write(byId("name"), "cluster-service");
  document.title = "cluster-service";
  for (const id of ["live", "forget", "banner"]) show(byId(id), false);
  write(byId("sign-in-error"), sentence);
  show(byId("sign-in-error"), sentence !== "");
  show(byId("sign-in"), true);
  byId("key").value = "";
  byId("key").focus();
}

byId("sign-in").addEventListener("submit", (submitted) => {
  submitted.preventDefault();
  open(byId("key").value.trim(), byId("keep").checked);
});
byId("forget").addEventListener("click", () => close());
document.addEventListener("visibilitychange", () => session?.soon());
window.addEventListener("online", () => session?.soon());

const kept = sessionStorage.getItem(KEPT);
if (kept === null) close();
else open(kept, true);
