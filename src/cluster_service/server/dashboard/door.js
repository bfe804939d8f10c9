// The REST API of the door that sent this page: the key goes along as a bearer token, and never into a URL.

/** Milliseconds for an answer, and without a word on the stream of events (it says something every 15 s). */
const ANSWER = 20_000;
const QUIET = 40_000;

/** The door has refused. `message` and `hint` are its sentences. */
export class Refusal extends Error {
  constructor(status, { code = "", message = `the door answered ${status}`, hint = "" } = {}, operation = null) {
    super(message);
    Object.assign(this, { status, code, hint, operation });
  }

  get sentence() {
    const said = this.message.charAt(0).toUpperCase() + this.message.slice(1);
    return [/[.!?…]$/.test(said) ? said : `${said}.`, this.hint].filter(Boolean).join(" ");
  }
}

/** Nobody has answered. */
export class Gone extends Error {}

export class Door {
  #authorization;

  constructor(key) {
    // a header holds bytes: a key of other letters is sent as its UTF-8, as the door expects it
    this.#authorization = `Bearer ${String.fromCharCode(...new TextEncoder().encode(key))}`;
  }

  async #ask(path, signal, { headers = {}, ...options } = {}) {
    try {
      return await fetch(path, {
        ...options, signal, cache: "no-store", redirect: "error",
        headers: { ...headers, Authorization: this.#authorization },
      });
    } catch (error) {
      throw new Gone(error.message, { cause: error });
    }
  }

  async #json(path, options) {
    const answer = await this.#ask(path, AbortSignal.timeout(ANSWER), options);
    let data;
    try {
      data = await answer.json();
    } catch (error) {
      throw answer.ok ? new Gone(error.message) : new Refusal(answer.status);
    }
    if (!answer.ok) throw new Refusal(answer.status, data.error, data.operation);
    return data;
  }

  /** What `/api/v1/PATH` says. */
  get(path) {
    return this.#json(`api/v1/${path}`);
  }

  /** Give a command; the answer is its result, or the operation that it has begun. */
  give(name, given) {
    const headers = { "Content-Type": "application/json" };
    const body = JSON.stringify(given);
    return this.#json(`api/v1/commands/${encodeURIComponent(name)}`, { method: "POST", headers, body });
  }

  /** The events after the one with the id `after`, one by one, until the connection ends: then Gone is thrown. */
  async *events(after, signal) {
    const silence = new AbortController();
    let timer = setTimeout(() => silence.abort(), QUIET);
    try {
      const both = AbortSignal.any([signal, silence.signal]);
      const answer = await this.#ask("api/v1/events", both, { headers: { "Last-Event-ID": String(after) } });
      if (!answer.ok) throw new Refusal(answer.status, (await answer.json().catch(() => ({}))).error);
      const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
      let rest = "";
      for (;;) {
        let part;
        try {
          part = await reader.read();
        } catch (error) {
          throw new Gone(error.message, { cause: error });
        }
        if (part.done) throw new Gone("the stream has ended");
        clearTimeout(timer);
        timer = setTimeout(() => silence.abort(), QUIET);
        const blocks = (rest + part.value).split("\n\n");
        rest = blocks.pop();
        for (const block of blocks) {
          const data = block.split("\n").find((line) => line.startsWith("data: "));
          if (data) yield JSON.parse(data.slice(6));
        }
      }
    } finally {
      clearTimeout(timer);
      silence.abort();
    }
  }
}
