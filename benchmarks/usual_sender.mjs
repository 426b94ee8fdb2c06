// The baseline of S2: a sender built the usual way. axios over a keep-alive agent, messages taken in seventies
// and sent in tens, each ten waited for, two bulk updates per seventy. Every number is worked on at once.
//
// Prints one JSON line: what it sent, and the CPU seconds it used from the first query on.

import axios from "axios";
import HttpAgent from "agentkeepalive";
import pg from "pg";

const GROUP = 70;
const CHUNK = 10;
const { LANES, WHATSAPP_URL } = process.env;

const database = new pg.Pool({ connectionString: process.env.DATABASE_URL, max: 10 });
const api = axios.create({
  baseURL: WHATSAPP_URL,
  timeout: 20_000,
  httpAgent: new HttpAgent({ maxSockets: Infinity, maxFreeSockets: 4_096, freeSocketTimeout: 30_000 }),
  headers: { Authorization: "Bearer usual" },
});

async function send(number, row) {
  const { data } = await api.post(`/v25.0/${number}/messages`, {
    messaging_product: "whatsapp",
    recipient_type: "individual",
    to: row.phone.slice(1),
    type: "template",
    template: {
      name: "offer",
      language: { code: "en" },
      components: [{ type: "body", parameters: row.parameters.map((text) => ({ type: "text", text })) }],
    },
    biz_opaque_callback_data: `message-${row.id}`,
  });
  return data.messages[0].id;
}

async function drain({ lane, address }) {
  let sent = 0;
  for (;;) {
    const { rows } = await database.query(
      "SELECT id, phone, parameters FROM messaging_message WHERE lane_id = $1 AND state = 'queued' ORDER BY id LIMIT $2",
      [lane, GROUP],
    );
    if (rows.length === 0) return sent;
    await database.query("UPDATE messaging_message SET state = 'sending' WHERE id = ANY($1::bigint[])", [
      rows.map((row) => row.id),
    ]);
    const accepted = [];
    for (let start = 0; start < rows.length; start += CHUNK) {
      const chunk = rows.slice(start, start + CHUNK);
      const results = await Promise.allSettled(chunk.map((row) => send(address, row)));
      results.forEach((result, place) => {
        if (result.status === "rejected") throw result.reason;
        accepted.push([chunk[place].id, result.value]);
      });
    }
    await database.query(
      `UPDATE messaging_message AS m SET state = 'accepted', wamid = r.wamid, accepted_at = now()
         FROM unnest($1::bigint[], $2::text[]) AS r(id, wamid) WHERE m.id = r.id`,
      [accepted.map(([id]) => id), accepted.map(([, wamid]) => wamid)],
    );
    sent += accepted.length;
  }
}

const before = process.cpuUsage();
const started = process.hrtime.bigint();
const sent = (await Promise.all(JSON.parse(LANES).map(drain))).reduce((sum, n) => sum + n, 0);
const { user, system } = process.cpuUsage(before);
const seconds = Number(process.hrtime.bigint() - started) / 1e9;
console.log(
  JSON.stringify({ sent, seconds, cpu: (user + system) / 1e6, peak_mb: process.resourceUsage().maxRSS / 1024 }),
);
await database.end();
