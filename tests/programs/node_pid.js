// Node.js without a handler of SIGTERM: it ends at once. With "drains" as second argument it finishes its requests.
// The third argument: milliseconds until it answers.
const milliseconds = Number(process.argv[4] || 0);
const server = require("http").createServer((_, answer) => {
  setTimeout(() => answer.end(String(process.pid)), milliseconds);
});
server.listen(Number(process.argv[2]), "127.0.0.1");
if (process.argv[3] === "drains") {
  process.on("SIGTERM", () => server.close(() => process.exit(0)));
}
