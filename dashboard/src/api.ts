// Every question to the gateway. The key is kept in sessionStorage: it outlives a reload but not the tab, other tabs don't see it, and no
// browser sends it by itself, so another site's page can't ask in its name (there is no cookie to steal or to ride on).
import type { Report } from "./types";

const SLOT = "rigserve.key";
let inMemory: string | null = null; // where storage is refused (private windows of some browsers)

export function key(): string | null {
  try {
    return sessionStorage.getItem(SLOT) ?? inMemory;
  } catch {
    return inMemory;
  }
}

export function setKey(value: string | null): void {
  inMemory = value;
  try {
    if (value === null) sessionStorage.removeItem(SLOT);
    else sessionStorage.setItem(SLOT, value);
  } catch {
    // kept in memory then
  }
}

export class Refused extends Error {
  constructor(
    message: string, readonly status: number, readonly code: string, readonly param: string | null = null, readonly fit: Report[] = [],
  ) {
    super(message);
  }
}

let unknownCaller: (why: string) => void = () => undefined;
/** `act` is called whenever the gateway asks for a (better) key. */
export function onUnknownCaller(act: (why: string) => void): void {
  unknownCaller = act;
}

export async function send(method: string, path: string, body?: unknown, signal?: AbortSignal): Promise<Response> {
  const headers: Record<string, string> = {};
  const mine = key();
  if (mine !== null) headers["authorization"] = `Bearer ${mine}`;
  if (body !== undefined) headers["content-type"] = "application/json";
  const options: RequestInit = { method, headers, credentials: "omit", cache: "no-store", redirect: "error" };
  if (body !== undefined) options.body = JSON.stringify(body);
  if (signal !== undefined) options.signal = signal;
  let answer: Response;
  try {
    answer = await fetch(path, options);
  } catch (error) {
    if (signal?.aborted) throw error;
    throw new Refused("The gateway does not answer; is it running?", 0, "unreachable");
  }
  if (!answer.ok) throw await refusalOf(answer);
  return answer;
}

export async function ask<T>(method: string, path: string, body?: unknown, signal?: AbortSignal): Promise<T> {
  return (await (await send(method, path, body, signal)).json()) as T;
}

export function refusalIn(value: unknown, status: number): Refused {
  const body = (typeof value === "object" && value !== null ? value : {}) as { error?: Record<string, unknown>; fit?: Report[] };
  const error = body.error ?? {};
  const message = typeof error["message"] === "string" ? error["message"] : `The gateway answered ${status}.`;
  const code = typeof error["code"] === "string" ? error["code"] : "unknown";
  return new Refused(message, status, code, typeof error["param"] === "string" ? error["param"] : null,
    Array.isArray(body.fit) ? body.fit : []);
}

async function refusalOf(answer: Response): Promise<Refused> {
  const refused = refusalIn(await answer.json().catch(() => null), answer.status);
  if (answer.status === 401 && refused.code === "invalid_api_key" && !answer.url.includes("/admin/")) unknownCaller(refused.message);
  return refused;
}
