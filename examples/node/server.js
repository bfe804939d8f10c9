// A plain Node.js server: it knows nothing of clusters.
//
//   node server.js
//   cservice start -w 2 -- node server.js
const http = require('http');

const server = http.createServer((request, response) => response.end(`hello from ${process.pid}\n`));
server.listen(Number(process.env.PORT || 8000), '127.0.0.1', () => {
  console.log(`${process.pid} listens on http://localhost:${server.address().port}/`);
});

// Node ends at once on SIGTERM unless told otherwise: stop accepting, answer what is held, then end.
process.on('SIGTERM', () => server.close(() => process.exit(0)));
