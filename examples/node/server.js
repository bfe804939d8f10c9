// A plain Node.js server. It contains no code for cluster-service.
//
//   node server.js                               one process
//   cservice start -w 2 -- node server.js        two processes on the same port
const http = require('http');

const server = http.createServer((request, response) => response.end(`hello from ${process.pid}\n`));
server.listen(Number(process.env.PORT || 8000), '127.0.0.1', () => {
  console.log(`${process.pid} listens on http://localhost:${server.address().port}/`);
});

// Node.js exits immediately on SIGTERM by default. Instead, stop accepting, answer the open requests, then exit.
process.on('SIGTERM', () => server.close(() => process.exit(0)));
