import { refusalIn, send } from "./api";
import { events } from "./sse";

export interface Progress { step: number; steps: number; perSecond: number | null }
export interface Done { data: Blob; seed: number | null }
interface Event { type?: string; step?: number; steps?: number; b64_json?: string; seed?: number; error?: unknown }

/** One job: its steps, then its picture. Throws Refused. */
export async function* paint(question: Record<string, unknown>, signal: AbortSignal): AsyncGenerator<Progress | Done> {
  const answer = await send("POST", "/v1/images/generations", { ...question, stream: true }, signal);
  let first: { at: number; step: number } | null = null;
  for await (const one of events(answer, signal)) {
    const event = one as Event;
    if (event.error !== undefined) throw refusalIn(event, answer.status);
    if (event.type?.endsWith(".progress") && event.step !== undefined) {
      const now = performance.now();
      first ??= { at: now, step: event.step };
      const perSecond = event.step > first.step ? ((event.step - first.step) * 1000) / (now - first.at) : null;
      yield { step: event.step, steps: event.steps ?? event.step, perSecond };
    }
    if (event.type?.endsWith(".completed") && event.b64_json !== undefined) yield { data: picture(event.b64_json), seed: event.seed ?? null };
  }
}

/** Bytes as a PNG and nothing else, whatever they are: a picture element shows them or shows nothing. */
function picture(base64: string): Blob {
  return new Blob([Uint8Array.from(atob(base64), (letter) => letter.charCodeAt(0))], { type: "image/png" });
}
