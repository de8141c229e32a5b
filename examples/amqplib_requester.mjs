// Ask for sessions from Node, with amqplib:
//
//   cd examples && npm ci
//   node amqplib_requester.mjs --url amqp://guest:guest@localhost:5672/ --user ada@example.com
//   node amqplib_requester.mjs get --user ada@example.com --session-id ts_251013_abc123

import { randomUUID } from 'node:crypto';
import { setTimeout as sleep } from 'node:timers/promises';
import { parseArgs } from 'node:util';
import amqp from 'amqplib';

const DIRECT = 'amq.rabbitmq.reply-to';
const FORBIDDEN = 403;
const NOWHERE = 404; // no such exchange, or no queue behind it
const OPERATIONS = { create: 'create_session', get: 'get_session', list: 'list_sessions', close: 'close_session' };

// The answer to the request. It is sent again when the connection is lost: one id has one outcome.
async function ask(url, routingKey, request, { ownQueue, timeout }) {
  const end = Date.now() + timeout * 1000;
  let trouble = 'no answer';
  while (Date.now() < end) {
    let connection;
    try {
      connection = await amqp.connect(url, { timeout: end - Date.now() });
      const answer = await askOnce(connection, routingKey, request, ownQueue, end);
      if (answer) return answer;
    } catch (error) {
      if (error.code === FORBIDDEN || error.code === NOWHERE) throw error;
      trouble = error.message;
      await sleep(500);
    } finally {
      await connection?.close().catch(() => {}); // it may be gone already
    }
  }
  throw new Error(`${trouble} within ${timeout} s; ask again with --request-id ${request.request_id}`);
}

async function askOnce(connection, routingKey, request, ownQueue, end) {
  const lost = new Promise((_, reject) => {
    connection.on('error', reject);
    connection.on('close', () => reject(new Error('the connection was closed')));
  });
  lost.catch(() => {}); // also when nobody waits for it any more
  const channel = await connection.createConfirmChannel();
  const refused = new Promise((_, reject) => channel.on('error', reject));
  refused.catch(() => {}); // a call that was under way is rejected as well
  // A server-named queue of this connection, or none at all: the broker passes the answer straight on.
  const replyTo = ownQueue ? (await channel.assertQueue('', { exclusive: true })).queue : DIRECT;
  const correlationId = randomUUID();
  let take;
  const answered = new Promise((resolve) => (take = resolve));
  // Consume before publishing: direct reply-to insists on it.
  await channel.consume(
    replyTo,
    (message) => message?.properties.correlationId === correlationId && take(message.content),
    { noAck: true },
  );
  const returned = new Promise((_, reject) =>
    channel.on('return', () => reject(Object.assign(new Error('returned'), { code: NOWHERE }))),
  );
  channel.publish('session', routingKey, Buffer.from(JSON.stringify(request)), {
    contentType: 'application/json',
    correlationId,
    replyTo,
    persistent: true,
    mandatory: true,
  });
  const timer = new AbortController();
  try {
    const tooLate = sleep(Math.max(0, end - Date.now()), null, { signal: timer.signal });
    return await Promise.race([answered, lost, refused, returned, tooLate]);
  } finally {
    timer.abort();
  }
}

const OPTIONS = {
  url: { type: 'string', default: 'amqp://guest:guest@localhost:5672/' },
  user: { type: 'string' },
  title: { type: 'string' }, // of the session to create
  'session-id': { type: 'string' }, // of the session to get or to close
  'request-id': { type: 'string', default: randomUUID() }, // ask again: the same id, the same answer
  'own-queue': { type: 'boolean', default: false }, // a reply queue instead of direct reply-to
  timeout: { type: 'string', default: '30' },
};

// The options, or the end: what is wrong with them.
function readOptions() {
  try {
    const { values, positionals } = parseArgs({ options: OPTIONS, allowPositionals: true });
    const [routingKey = 'create', ...others] = positionals;
    if (others.length || !Object.hasOwn(OPERATIONS, routingKey)) throw new Error('one operation, of those');
    if (!values.user) throw new Error('--user is required');
    if (!(Number(values.timeout) > 0)) throw new Error('--timeout must be a number of seconds');
    return { routingKey, values };
  } catch (error) {
    const names = Object.keys(OPTIONS).map((name) => `--${name}`);
    const keys = Object.keys(OPERATIONS).join('|');
    console.error(`usage: node amqplib_requester.mjs [${keys}], with options of ${names.join(' ')}\n${error.message}`);
    process.exit(2);
  }
}

const { routingKey, values } = readOptions();
const payloads = { create: { title: values.title ?? null }, list: {} };
const request = {
  request_id: values['request-id'],
  user_id: values.user,
  operation: OPERATIONS[routingKey],
  payload: payloads[routingKey] ?? { session_id: values['session-id'] ?? null },
};
try {
  const options = { ownQueue: values['own-queue'], timeout: Number(values.timeout) };
  const answer = await ask(values.url, routingKey, request, options);
  console.log(answer.toString());
  process.exitCode = JSON.parse(answer).status === 'completed' ? 0 : 1;
} catch (error) {
  console.error(error.code === NOWHERE ? 'no queue takes requests there: start a worker' : error.message);
  process.exitCode = 1;
}
