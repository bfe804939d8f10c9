// What goes on while there is a key: one loop asks for workers and operations, every two seconds and whenever something
// has happened; the other follows the events. When nobody answers both go on trying, so a service that comes back is
// found. What a key may not see stays null.

import { byId, show, write } from "./dom.js";
import { Gone, Refusal } from "./door.js";
import { clearEvents, drawEvent, drawNoEvents } from "./view.js";
import { clock, outcome } from "./words.js";

const EVERY = 2000;    // milliseconds between two looks: memory and processors are no events
const SOON = 100;      // after an event, so that many at a time are one look
const TRY_AGAIN = 1000;
const READS = ["info", "health", "workers", "operations"];

const pause = (milliseconds) => new Promise((resolve) => { setTimeout(resolve, milliseconds); });

/** Say it to those who do not see the page change. */
const announce = (text) => write(byId("say"), text);

export class Session {
  #door;
  #changed;
  #refused;
  #ended = false;
  #wake = () => {};
  #stream = new AbortController();
  #lastEvent = 0;
  #lostAt = null;
  #begun = new Set();      // the operations that this page has begun, until their end was told

  info = null;
  health = null;
  workers = null;
  operations = null;
  current = null;          // the operation that runs, or that was seen to end
  commands = new Map();

  /** `changed()`: there is something to draw; `refused(sentence)`: the key opens no more. */
  constructor(door, { changed, refused }) {
    this.#door = door;
    this.#changed = changed;
    this.#refused = refused;
  }

  begin() {
    this.#watch();
    this.#follow();
  }

  end() {
    this.#ended = true;
    this.#stream.abort();
    this.#wake();
  }

  /** Look again soon. */
  soon() {
    this.#wake();
  }

  async give(command, given) {
    const result = await this.#door.give(command, given);
    if (result.id && result.steps) this.#begun.add(result.id);
    this.soon();
    return result;
  }

  async learnCommands() {
    const { commands } = await this.#door.get("commands");
    this.commands = new Map(commands.map((command) => [command.name, command]));
  }

  #may(name) {
    return this.commands.get(name)?.allowed === true;
  }

  // -- looking -----------------------------------------------------------------------------------------------------

  async #watch() {
    while (!this.#ended) {
      let wait = EVERY;
      try {
        if (this.#lostAt !== null) await this.learnCommands();
        if (!document.hidden || this.#lostAt !== null) await this.#look();
      } catch (error) {
        if (this.#ended) return;
        if (error instanceof Refusal && error.status === 401) return this.#refused(error.sentence);
        this.#lost(error);
        wait = TRY_AGAIN;
      }
      if (this.#ended) return;
      this.#changed();
      await this.#sleep(wait);
    }
  }

  async #sleep(milliseconds) {
    await new Promise((resolve) => {
      const timer = setTimeout(resolve, milliseconds);
      this.#wake = () => { clearTimeout(timer); setTimeout(resolve, SOON); };
    });
  }

  /** Ask for all that the key may see. One answer that is refused leaves the others as they are. */
  async #look() {
    const refusals = [];
    const asked = (path) => this.#door.get(path).catch((error) => {
      if (!(error instanceof Refusal) || error.status === 401) throw error;
      refusals.push(error.sentence);
      return null;
    });
    const answers = await Promise.all(READS.map((name) => (this.#may(name) ? asked(name) : null)));
    // a key that may not see the operations may follow those that it has begun
    const own = this.#may("operations") ? []
      : await Promise.all([...this.#begun].map((id) => asked(`operations/${encodeURIComponent(id)}`)));
    if (this.#ended) return;
    const [info, health, workers, operations] = answers;
    if (this.info && info && (info.pid !== this.info.pid || info.uptime_s < this.info.uptime_s)) this.#anotherService();
    Object.assign(this, { info, health, workers, operations: operations?.operations ?? null });
    this.#followCurrent(this.operations ?? own.filter(Boolean));
    this.#found(refusals[0] ?? "");
  }

  /** The service was started anew since the last look: its operations and events are others. */
  #anotherService() {
    this.current = null;
    this.#begun.clear();
    this.#lastEvent = 0;
    clearEvents();
    this.#stream.abort();
  }

  /** The operation that runs stays in sight when it has ended, with its outcome. */
  #followCurrent(operations) {
    const had = this.current;
    const now = operations.find((one) => one.state === "running") ?? this.info?.operation
      ?? operations.find((one) => this.#begun.has(one.id)) ?? operations.find((one) => one.id === had?.id);
    if (!now) return;
    if (now.state === "running") {
      if (had?.id !== now.id) announce(`${now.command} has begun`);
    } else {
      if (had?.state === "running" || this.#begun.has(now.id)) announce(outcome(now));
      this.#begun.delete(now.id);
    }
    this.current = now;
  }

  #lost(error) {
    if (!(error instanceof Gone || error instanceof Refusal)) console.error(error);
    this.#lostAt ??= new Date().toISOString();
    const silent = `The service does not answer, since ${clock(this.#lostAt)}.`;
    const why = error instanceof Refusal ? error.sentence : silent;
    this.#banner(`${why} What is shown is how it was; this page goes on by itself as soon as it can.`);
    document.body.classList.add("stale");
  }

  #found(sentence) {
    if (this.#lostAt !== null) announce("The service answers again.");
    this.#lostAt = null;
    this.#banner(sentence);
    document.body.classList.remove("stale");
  }

  #banner(sentence) {
    write(byId("banner"), sentence);
    show(byId("banner"), sentence !== "");
  }

  // -- events ------------------------------------------------------------------------------------------------------

  async #follow() {
    if (!this.#may("events")) {
      drawNoEvents("This access key may not follow the events.");
      return;
    }
    while (!this.#ended) {
      this.#stream = new AbortController();
      try {
        await this.#read(this.#stream.signal);
      } catch (error) {
        if (this.#ended) return;
        if (error instanceof Refusal && error.status === 403) return drawNoEvents(error.sentence);
        if (!(error instanceof Gone || error instanceof Refusal)) console.error(error);
      }
      this.soon();
      if (!this.#stream.signal.aborted) await pause(TRY_AGAIN);
    }
  }

  async #read(signal) {
    for await (const event of this.#door.events(this.#lastEvent, signal)) {
      if (signal.aborted) return;
      const first = this.#lastEvent === 0;
      this.#lastEvent = event.id;
      if (!(first && event.event === "missed")) drawEvent(event);  // who has seen none has missed none
      if (event.event === "config_reload" || event.event === "master_start") await this.learnCommands();
      this.soon();
    }
  }
}
