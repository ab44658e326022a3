import { refusalIn, send } from "./api";
import { events } from "./sse";

export interface Message { role: "system" | "user" | "assistant"; content: string }

/** What came so far. `outputTokens` is the engine's own count and comes at the end; until then pieces (most are one token) are counted. */
export interface Told { text: string; pieces: number; outputTokens: number | null; ttftS: number; perSecond: number | null }

interface Chunk { choices?: { delta?: { content?: string | null } }[]; usage?: { completion_tokens?: number } | null; error?: unknown }

/** One answer as it grows. Per second: after the first, over the time since the first. Throws Refused. */
export async function* stream(question: { model: string; messages: Message[]; max_tokens: number }, signal: AbortSignal): AsyncGenerator<Told> {
  const began = performance.now();
  const answer = await send("POST", "/v1/chat/completions", { ...question, stream: true, stream_options: { include_usage: true } }, signal);
  let text = "";
  let pieces = 0;
  let first = 0;
  let last = 0;
  for await (const event of events(answer, signal)) {
    const chunk = event as Chunk;
    if (chunk.error !== undefined) throw refusalIn(chunk, answer.status);
    const more = chunk.choices?.[0]?.delta?.content ?? "";
    if (more !== "") {
      last = performance.now();
      if (pieces === 0) first = last;
      pieces += 1;
      text += more;
      yield { text, pieces, outputTokens: null, ttftS: (first - began) / 1000, perSecond: rate(pieces, first, last) };
    }
    const counted = chunk.usage?.completion_tokens;
    if (pieces > 0 && counted !== undefined) {
      yield { text, pieces, outputTokens: counted, ttftS: (first - began) / 1000, perSecond: rate(counted, first, last) };
    }
  }
}

function rate(tokens: number, first: number, last: number): number | null {
  return tokens > 1 && last > first ? ((tokens - 1) * 1000) / (last - first) : null;
}
