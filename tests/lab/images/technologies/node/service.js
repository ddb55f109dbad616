// The service in Node, with a WebSocket and server-sent events.
"use strict";
const http = require("http");
const pg = require("pg");
const redis = require("redis");
const { WebSocketServer } = require("ws");

const env = process.env;
const me = JSON.stringify({
  service: "node", host: env.FIEFDOM_HOST, port: Number(env.FIEFDOM_PORT), version: env.FIEFDOM_VERSION,
});
const database = {
  host: env.POSTGRES_HOST, port: Number(env.POSTGRES_PORT), user: "service", database: "postgres",
  password: env.POSTGRES_PASSWORD, connectionTimeoutMillis: 10000, query_timeout: 10000,
};
const listeners = new Set();

function store() {
  const socket = { host: env.REDIS_HOST, port: Number(env.REDIS_PORT), connectTimeout: 10000 };
  const client = redis.createClient({ socket });
  client.on("error", () => {});  // what waits for it is told by its own promise
  return client;
}

// Who listens to redis goes on listening after redis was away: the client connects again by itself.
const hears = store();
hears.connect().then(() => hears.subscribe("rows", (row) => {
  for (const answer of listeners) answer.write(`data: ${row}\n\n`);
})).catch(() => {});

async function keep(row) {
  const client = new pg.Client(database);
  client.on("error", () => {});
  await client.connect();
  try {
    await client.query("INSERT INTO rows (id, service) VALUES ($1, 'node') ON CONFLICT DO NOTHING", [row]);
  } finally {
    await client.end().catch(() => {});
  }
  const counts = redis.createClient({
    socket: { host: env.REDIS_HOST, port: Number(env.REDIS_PORT), connectTimeout: 10000, reconnectStrategy: () => false },
  });
  counts.on("error", () => {});
  await counts.connect();
  try {
    await counts.incr("node");
    await counts.publish("rows", row);
  } finally {
    await counts.disconnect().catch(() => {});
  }
}

const server = http.createServer(async (request, answer) => {
  const url = new URL(request.url, "http://service");
  request.resume();
  if (url.pathname === "/events") {
    answer.writeHead(200, { "Content-Type": "text/event-stream", "Cache-Control": "no-store" });
    answer.write(`: ${env.FIEFDOM_HOST}\n\n`);
    listeners.add(answer);
    answer.on("close", () => listeners.delete(answer));  // a request is closed as soon as it was read
    return;
  }
  let status = 200, body = me;
  if (url.pathname === "/rows") {
    try {
      await keep(url.searchParams.get("id"));
    } catch (error) {
      status = 503;
      body = String(error);
    }
  } else if (url.pathname !== "/predict" && url.pathname !== "/health") {
    status = 404;
    body = "";
  }
  answer.writeHead(status, { "Content-Type": "application/json", "Content-Length": Buffer.byteLength(body) });
  answer.end(body);
});
server.keepAliveTimeout = 75000;

const chats = new WebSocketServer({ server, path: "/chat" });
chats.on("connection", (socket) => {
  socket.on("message", (data, binary) => socket.send(data, { binary }));
});

process.on("SIGTERM", () => {
  for (const answer of listeners) answer.end();
  for (const socket of chats.clients) socket.close(1001);
  server.close(() => process.exit(0));
  server.closeIdleConnections();
});
server.listen(8000, "0.0.0.0");
