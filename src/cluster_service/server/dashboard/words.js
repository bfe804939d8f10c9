// How things are said. Pure: data in, text out.

const UNITS = [[86400, "d"], [3600, "h"], [60, "m"], [1, "s"]];

/** 93784 → "1 d 2 h"; the two largest units tell enough. */
export function span(seconds) {
  if (seconds === null || seconds === undefined) return "–";
  let left = Math.max(0, Math.floor(seconds));
  const parts = [];
  for (const [size, unit] of UNITS) {
    const count = Math.floor(left / size);
    if (count || (parts.length === 0 && unit === "s")) parts.push(`${count} ${unit}`);
    else if (parts.length) break;
    left -= count * size;
  }
  return parts.slice(0, 2).join(" ");
}

/** 31457280 → "30 MB"; as the command line counts, in powers of 1024. */
export function bytes(count) {
  if (count === null || count === undefined) return "–";
  const mega = count / 1024 ** 2;
  if (mega < 1) return `${Math.round(count / 1024)} KB`;
  return mega < 1024 ? `${Math.round(mega)} MB` : `${(mega / 1024).toFixed(1)} GB`;
}

export const number = (value) => (value === null || value === undefined ? "–" : String(value));
export const percent = (value) => (value === null || value === undefined ? "–" : `${value.toFixed(1)} %`);
export const count = (many, what) => `${many} ${what}${many === 1 ? "" : "s"}`;

/** "2030-01-02T03:04:05.000Z" → the time of day here, with the date when it is another day's. */
export function clock(at) {
  const then = at ? new Date(at) : null;
  if (!then || Number.isNaN(then.getTime())) return "";
  const pad = (value) => String(value).padStart(2, "0");
  const time = [then.getHours(), then.getMinutes(), then.getSeconds()].map(pad).join(":");
  const today = then.toDateString() === new Date().toDateString();
  return today ? time : `${then.getFullYear()}-${pad(then.getMonth() + 1)}-${pad(then.getDate())} ${time}`;
}

const KNOWN = new Set(["id", "at", "service", "event", "group", "slot", "pid"]);

/** An event's fields in one line: its worker first, then `name=value`. */
export function fields(event) {
  const worker = event.group === undefined ? [] : [event.slot ? `${event.group}.${event.slot}` : event.group];
  if (event.pid) worker.push(`(pid ${event.pid})`);
  const others = Object.entries(event)
    .filter(([name, value]) => !KNOWN.has(name) && value !== null && value !== "" && value?.length !== 0)
    .map(([name, value]) => `${name}=${typeof value === "object" ? JSON.stringify(value) : value}`);
  return [...worker, ...others].join(" ");
}

/** How an event is coloured: what went wrong, what went well, and the rest. */
export function weight(event) {
  const kind = event.event;
  if (["worker_hung", "slot_broken", "worker_kill", "missed"].includes(kind)) return "bad";
  if (kind === "worker_exit") return event.reason === "failure" || event.reason === "hang" ? "bad" : "";
  if (kind === "operation_end") return event.state === "done" ? "good" : "bad";
  return kind === "worker_ready" || kind === "slot_recovered" ? "good" : "";
}

/** What an operation has come to, in a few words. */
export function progress(operation) {
  const parts = [operation.state];
  if (operation.stage) parts[0] = `stage ${operation.stage}`;
  if (operation.of) parts.push(`${operation.replaced} of ${operation.of}`);
  if (operation.workers) parts.push(`${operation.workers.new} new, ${operation.workers.old} old`);
  if (operation.monitor_left_s) parts.push(`watched for ${span(Math.ceil(operation.monitor_left_s))} more`);
  return parts.join(" · ");
}

/** The outcome of one that has ended, as a sentence for those who do not see the page. */
export const outcome = (operation) =>
  `${operation.command}: ${operation.state}${operation.reason ? `: ${operation.reason}` : ""}`;
