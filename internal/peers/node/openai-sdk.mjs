// What OpenAI's own Node SDK makes of the endpoint at OPENAI_BASE_URL with the
// key OPENAI_API_KEY: lists models, chats once with MODEL, and once streamed.
// Prints one JSON line; a step that the API refused is its error instead.
import OpenAI from 'openai';

const client = new OpenAI({ maxRetries: Number(process.env.MAX_RETRIES ?? 0) });
const model = process.env.MODEL;
const messages = [{ role: 'user', content: process.env.PROMPT ?? 'Say hello.' }];

async function models() {
  const ids = [];
  for await (const m of client.models.list()) ids.push(m.id);
  return ids;
}

async function chat() {
  const { data, response } = await client.chat.completions.create({ model, messages, max_tokens: 16 }).withResponse();
  return { model: data.model, content: data.choices[0].message.content, usage: data.usage, request_id: response.headers.get('x-request-id') };
}

async function stream() {
  const chunks = await client.chat.completions.create({
    model, messages, max_tokens: 16, stream: true, stream_options: { include_usage: true },
  });
  const out = { content: '', chunks: 0, usage: null };
  for await (const chunk of chunks) {
    out.chunks++;
    out.content += chunk.choices[0]?.delta?.content ?? '';
    out.usage = chunk.usage ?? out.usage;
  }
  return out;
}

async function tried(step) {
  try {
    return await step();
  } catch (err) {
    if (!(err instanceof OpenAI.APIError)) throw err;
    const { status, code, message, type } = err;
    return { error: { status, code, message, type } };
  }
}

console.log(JSON.stringify({ models: await tried(models), chat: await tried(chat), stream: await tried(stream) }));
